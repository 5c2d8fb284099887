"""q19, top ten: the best bids for each auction, of equal prices the earliest."""

from __future__ import annotations

from collections.abc import Iterator

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each auction and rank, when the input has ended."""
    best = bids(events).key_by(lambda bid: bid["auction"]).top(10, by=order, emit="final", name="best")
    return best.flat_map(rows)


def order(bid: Bid) -> tuple[int, int, int]:
    """The greatest is the best."""
    return bid["price"], -bid["ts"], -bid["seq"]


def rows(pair: tuple[int, list[Bid]]) -> Iterator[Row]:
    """The rows of an auction."""
    _, best = pair
    for rank, bid in enumerate(best, 1):
        yield {
            "auction": bid["auction"],
            "bidder": bid["bidder"],
            "price": bid["price"],
            "channel": bid["channel"],
            "ts": bid["ts"],
            "extra": bid["extra"],
            "rank": rank,
        }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q19", query(read(env, options)), options)
