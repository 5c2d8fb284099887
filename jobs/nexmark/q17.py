"""q17, statistics of an auction: its bids and prices of each day."""

from __future__ import annotations

from datetime import timedelta

from nexmark.aggregates import RANKS, Where, day_of
from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment, TumblingWindow, WindowResult
from sage_flow.aggregates import Count, Max, Min, Sum


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each auction and day, in UTC."""
    days = bids(events).key_by(lambda bid: bid["auction"]).window(TumblingWindow(timedelta(days=1)))
    statistics = days.aggregate(
        total_bids=Count(),
        rank1_bids=Where(RANKS[1], Count()),
        rank2_bids=Where(RANKS[2], Count()),
        rank3_bids=Where(RANKS[3], Count()),
        min_price=Min(price),
        max_price=Max(price),
        sum_price=Sum(price),
        name="statistics",
    )
    return statistics.map(row)


def price(bid: Bid) -> int:
    """What the statistics are of."""
    return bid["price"]


def row(result: WindowResult[int, Row]) -> Row:
    """The columns of the row; the mean is rounded down."""
    mean = result.value["sum_price"] // result.value["total_bids"]
    return {"auction": result.key, "day": day_of(result.start), **result.value, "avg_price": mean}


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q17", query(read(env, options)), options)
