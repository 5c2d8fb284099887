"""q4, average price of a category: the mean of what its auctions were sold for."""

from __future__ import annotations

from nexmark.job import Options, Row, read, write
from nexmark.model import Event
from nexmark.valid_bids import valid_bids
from sage_flow import DataStream, Environment
from sage_flow.aggregates import Count, Sum


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each category, when the input has ended. An auction without a valid bid does not count."""
    by_auction = valid_bids(events).key_by(lambda pair: (pair[0]["id"], pair[0]["category"]))
    finals = by_auction.max(lambda pair: pair[1]["price"], emit="final", name="finals")
    by_category = finals.key_by(lambda final: final[0][1])
    totals = by_category.aggregate(
        total=Sum(lambda final: final[1]), count=Count(), emit="final", name="totals of categories"
    )
    return totals.map(row)


def row(totals: tuple[int, Row]) -> Row:
    """The columns of the row; the mean is rounded down."""
    category, value = totals
    return {"category": category, "avg_final": value["total"] // value["count"]}


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q4", query(read(env, options)), options)
