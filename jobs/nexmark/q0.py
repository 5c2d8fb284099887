"""q0, pass through: every bid as it is. It shows what reading and writing cost."""

from __future__ import annotations

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each bid."""
    return bids(events).map(row)


def row(bid: Bid) -> Row:
    """The columns of the row."""
    return {
        "auction": bid["auction"],
        "bidder": bid["bidder"],
        "price": bid["price"],
        "ts": bid["ts"],
        "extra": bid["extra"],
    }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q0", query(read(env, options)), options)
