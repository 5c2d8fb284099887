"""q12e, windows: how many bids a person made in each 10 s. It is q12 of the public suite in event time."""

from __future__ import annotations

from datetime import timedelta

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Event
from sage_flow import DataStream, Environment, TumblingWindow, WindowResult

TEN_SECONDS = TumblingWindow(timedelta(seconds=10))


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each window and bidder."""
    return bids(events).key_by(lambda bid: bid["bidder"]).window(TEN_SECONDS).count(name="counts").map(row)


def row(count: WindowResult[int, int]) -> Row:
    """The columns of the row."""
    return {"bidder": count.key, "window_start": count.start, "window_end": count.end, "bid_count": count.value}


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q12e", query(read(env, options)), options)
