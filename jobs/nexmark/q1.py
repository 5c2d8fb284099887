"""q1, currency conversion: every bid, its price in thousandths of a euro."""

from __future__ import annotations

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each bid."""
    return bids(events).map(row)


def row(bid: Bid) -> Row:
    """The columns of the row; a dollar is 0.908 euros."""
    return {
        "auction": bid["auction"],
        "bidder": bid["bidder"],
        "price_eur_milli": bid["price"] * 908,
        "ts": bid["ts"],
        "extra": bid["extra"],
    }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q1", query(read(env, options)), options)
