"""q9, winning bids: each auction with the highest bid that was in time, of equal ones the earliest."""

from __future__ import annotations

from nexmark.job import Options, Row, read, write
from nexmark.model import Auction, Bid, Event
from nexmark.valid_bids import valid_bids
from sage_flow import DataStream, Environment


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each auction that has a valid bid, when the input has ended."""
    by_auction = valid_bids(events).key_by(lambda pair: pair[0]["id"])
    return by_auction.top(1, by=order, emit="final", name="winning bids").map(lambda winner: row(*winner[1][0]))


def order(pair: tuple[Auction, Bid]) -> tuple[int, int, int]:
    """The greatest wins."""
    _, bid = pair
    return bid["price"], -bid["ts"], -bid["seq"]


def row(auction: Auction, bid: Bid) -> Row:
    """The columns of the row."""
    return {
        "id": auction["id"],
        "item_name": auction["item_name"],
        "initial_bid": auction["initial_bid"],
        "reserve": auction["reserve"],
        "auction_ts": auction["ts"],
        "expires": auction["expires"],
        "seller": auction["seller"],
        "category": auction["category"],
        "bidder": bid["bidder"],
        "price": bid["price"],
        "bid_ts": bid["ts"],
        "bid_extra": bid["extra"],
    }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q9", query(read(env, options)), options)
