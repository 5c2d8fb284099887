"""q21, channel id: the number of a well-known channel, or what the url has in its parameter `channel_id`."""

from __future__ import annotations

from collections.abc import Iterator

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment

KNOWN = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each bid whose channel has an id."""
    return bids(events).flat_map(row_with_id)


def row_with_id(bid: Bid) -> Iterator[Row]:
    """The row, if there is an id."""
    channel_id = KNOWN.get(bid["channel"].lower()) or parameter(bid["url"], "channel_id")
    if channel_id is not None:
        yield {
            "auction": bid["auction"],
            "bidder": bid["bidder"],
            "price": bid["price"],
            "channel": bid["channel"],
            "channel_id": channel_id,
        }


def parameter(url: str, name: str) -> str | None:
    """The value of the first parameter of this name in the query of the url, as it is written there.

    >>> parameter("https://auction.example/item.htm?query=1&channel_id=7", "channel_id")
    '7'
    """
    query = url.partition("#")[0].partition("?")[2]
    for pair in query.split("&"):
        key, equals, value = pair.partition("=")
        if equals and key == name:
            return value
    return None


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q21", query(read(env, options)), options)
