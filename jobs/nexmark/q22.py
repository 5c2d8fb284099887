"""q22, directories of a url: its parts between the slashes behind the host, None where there is none."""

from __future__ import annotations

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each bid."""
    return bids(events).map(row)


def row(bid: Bid) -> Row:
    """The columns of the row; `https://host/a/b/c` begins with `https:`, nothing, and `host`."""
    parts: list[str | None] = [*bid["url"].split("/"), *[None] * 6]
    return {
        "auction": bid["auction"],
        "bidder": bid["bidder"],
        "price": bid["price"],
        "channel": bid["channel"],
        "dir1": parts[3],
        "dir2": parts[4],
        "dir3": parts[5],
    }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q22", query(read(env, options)), options)
