"""q13, a side table: every bid with the value that a table in memory has for its auction.

A small table needs no join: a function that looks into a dict does the same. flat_map drops what is not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment

SIDE_TABLE = {key: f"side-{key:03}" for key in range(1000) if key % 3}


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each bid that has a value."""
    return bids(events).flat_map(row_with_value)


def row_with_value(bid: Bid) -> Iterator[Row]:
    """The row, if there is a value."""
    value = SIDE_TABLE.get(bid["auction"] % 1000)
    if value is not None:
        yield {
            "auction": bid["auction"],
            "bidder": bid["bidder"],
            "price": bid["price"],
            "ts": bid["ts"],
            "value": value,
        }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q13", query(read(env, options)), options)
