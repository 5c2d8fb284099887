"""q3, local items: the items of a category that persons of three states sell."""

from __future__ import annotations

from nexmark.job import ByType, Options, Row, read, write
from nexmark.model import Auction, Event, Person
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each auction whose seller appears at any time, before the auction or after it."""
    of_type = ByType(events, "person", "auction")
    sellers = of_type.persons.filter(lambda person: person["state"] in ("OR", "ID", "CA"))
    items = of_type.auctions.filter(lambda auction: auction["category"] == 10)
    of_seller = items.key_by(lambda auction: auction["seller"])
    return of_seller.join(sellers.key_by(lambda person: person["id"]), row, name="items of sellers")


def row(auction: Auction, person: Person) -> Row:
    """The columns of the row."""
    return {"name": person["name"], "city": person["city"], "state": person["state"], "id": auction["id"]}


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q3", query(read(env, options)), options)
