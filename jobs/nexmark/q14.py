"""q14, calculation: the bids of a range of prices, with the time of day and a count of letters."""

from __future__ import annotations

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Bid, Event
from sage_flow import DataStream, Environment

HOUR_MS = 3_600_000


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each of these bids."""
    return bids(events).filter(lambda bid: 1_000_000_000 < bid["price"] * 908 < 50_000_000_000).map(row)


def row(bid: Bid) -> Row:
    """The columns of the row."""
    return {
        "auction": bid["auction"],
        "bidder": bid["bidder"],
        "price_eur_milli": bid["price"] * 908,
        "ts": bid["ts"],
        "extra": bid["extra"],
        "time_type": time_type(bid["ts"] // HOUR_MS % 24),  # Python rounds down, so this is right before 1970, too
        "c_count": bid["extra"].count("c"),
    }


def time_type(hour: int) -> str:
    """The part of the day, by the hour in UTC."""
    if 8 <= hour <= 18:
        return "dayTime"
    return "otherTime" if hour in (7, 19) else "nightTime"


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q14", query(read(env, options)), options)
