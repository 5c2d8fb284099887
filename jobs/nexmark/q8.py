"""q8, monitor new users: the persons who appeared and offered something within the same 10 s."""

from __future__ import annotations

from datetime import timedelta

from nexmark.job import ByType, Options, Row, read, write
from nexmark.model import Event
from sage_flow import DataStream, Environment, TumblingWindow

TEN_SECONDS = TumblingWindow(timedelta(seconds=10))


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each of these persons and windows.

    A person who offers several things would meet each of them. So the auctions are counted first, which gives one
    record for each seller and window. Its timestamp is the last millisecond of the window, so it is in the same one.
    """
    of_type = ByType(events, "person", "auction")
    sellers = of_type.auctions.key_by(lambda auction: auction["seller"]).window(TEN_SECONDS).count(name="sellers")
    new_sellers = of_type.persons.key_by(lambda person: person["id"]).join_window(
        sellers.key_by(lambda seller: seller.key), TEN_SECONDS, lambda person, _: person["name"]
    )
    return new_sellers.map(lambda result: {"id": result.key, "name": result.value, "window_start": result.start})


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q8", query(read(env, options)), options)
