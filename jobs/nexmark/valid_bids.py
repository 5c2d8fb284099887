"""The bids that count, for q4 and q9: those made while their auction was open."""

from __future__ import annotations

from nexmark.job import ByType
from nexmark.model import Auction, Bid, Event
from sage_flow import DataStream

__all__ = ["valid_bids"]


def valid_bids(events: DataStream[Event]) -> DataStream[tuple[Auction, Bid]]:
    """Each auction with each of its valid bids. A bid may come before its auction, so the join keeps both."""
    of_type = ByType(events, "auction", "bid")
    by_auction = of_type.auctions.key_by(lambda auction: auction["id"])
    pairs = by_auction.join(of_type.bids.key_by(lambda bid: bid["auction"]), _pair, name="auctions and bids")
    return pairs.filter(lambda pair: pair[0]["ts"] <= pair[1]["ts"] <= pair[0]["expires"], name="valid bids")


def _pair(auction: Auction, bid: Bid) -> tuple[Auction, Bid]:
    return auction, bid
