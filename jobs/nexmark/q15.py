"""q15, statistics of a day: bids, bidders and auctions, of all prices and of three ranks of prices."""

from __future__ import annotations

from datetime import timedelta

from nexmark.aggregates import RANKS, Where, day_of
from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment, TumblingWindow, WindowResult
from sage_flow.aggregates import Count, CountDistinct


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each day, in UTC."""
    days = bids(events).key_by(lambda bid: "all").window(TumblingWindow(timedelta(days=1)))
    statistics = days.aggregate(
        total_bids=Count(),
        rank1_bids=Where(RANKS[1], Count()),
        rank2_bids=Where(RANKS[2], Count()),
        rank3_bids=Where(RANKS[3], Count()),
        total_bidders=CountDistinct(bidder),
        rank1_bidders=Where(RANKS[1], CountDistinct(bidder)),
        rank2_bidders=Where(RANKS[2], CountDistinct(bidder)),
        rank3_bidders=Where(RANKS[3], CountDistinct(bidder)),
        total_auctions=CountDistinct(auction),
        rank1_auctions=Where(RANKS[1], CountDistinct(auction)),
        rank2_auctions=Where(RANKS[2], CountDistinct(auction)),
        rank3_auctions=Where(RANKS[3], CountDistinct(auction)),
        name="statistics",
    )
    return statistics.map(row)


def bidder(bid: Bid) -> int:
    """The id of the person."""
    return bid["bidder"]


def auction(bid: Bid) -> int:
    """The id of the auction."""
    return bid["auction"]


def row(result: WindowResult[str, Row]) -> Row:
    """The columns of the row."""
    return {"day": day_of(result.start), **result.value}


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q15", query(read(env, options)), options)
