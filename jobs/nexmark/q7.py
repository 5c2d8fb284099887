"""q7, highest bid: the bids with the highest price in each 10 s; all of those that are equal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from nexmark.aggregates import Highest
from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment, TumblingWindow, WindowResult

TEN_SECONDS = TumblingWindow(timedelta(seconds=10))


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each window and bid.

    One subtask has to compare the bids of a window. So that it does not get all of them, it gets the highest ones of
    each auction. They have the timestamp of the window's last millisecond, so they are in the same window again.
    """
    by_auction = bids(events).key_by(lambda bid: bid["auction"]).window(TEN_SECONDS)
    candidates = by_auction.aggregate(Highest(price), name="by auction").flat_map(lambda result: result.value)
    by_window = candidates.key_by(lambda bid: "all").window(TEN_SECONDS)
    return by_window.aggregate(Highest(price), name="of all").flat_map(rows)


def price(bid: Bid) -> int:
    """What the bids are compared by."""
    return bid["price"]


def rows(result: WindowResult[str, list[Bid]]) -> Iterator[Row]:
    """The rows of a window."""
    for bid in result.value:
        yield {
            "window_start": result.start,
            "window_end": result.end,
            "auction": bid["auction"],
            "bidder": bid["bidder"],
            "price": bid["price"],
            "ts": bid["ts"],
            "extra": bid["extra"],
        }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q7", query(read(env, options)), options)
