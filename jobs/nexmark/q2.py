"""q2, selection: the bids for every 123rd auction."""

from __future__ import annotations

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Event
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each of these bids."""
    chosen = bids(events).filter(lambda bid: bid["auction"] % 123 == 0)
    return chosen.map(lambda bid: {"auction": bid["auction"], "price": bid["price"]})


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q2", query(read(env, options)), options)
