"""q5, hot items: the auctions with the most bids in the last 10 s, every 2 s; all of those that are equal."""

from __future__ import annotations

from datetime import timedelta

from nexmark.aggregates import Highest
from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Event
from sage_flow import DataStream, Environment, SlidingWindow, TumblingWindow, WindowResult

SIZE, SLIDE = timedelta(seconds=10), timedelta(seconds=2)


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each window and auction.

    The counts of a window have the timestamp of its last millisecond, so a second window over them begins and ends
    with the slide; the key keeps the windows apart.
    """
    counts = bids(events).key_by(lambda bid: bid["auction"]).window(SlidingWindow(SIZE, SLIDE)).count(name="counts")
    by_window = counts.key_by(lambda count: count.start).window(TumblingWindow(SLIDE))
    hottest = by_window.aggregate(Highest(lambda count: count.value), name="hottest")
    return hottest.flat_map(lambda result: result.value).map(row)


def row(count: WindowResult[int, int]) -> Row:
    """The columns of the row."""
    return {"window_start": count.start, "window_end": count.end, "auction": count.key, "num": count.value}


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q5", query(read(env, options)), options)
