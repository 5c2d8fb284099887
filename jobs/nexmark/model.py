"""The events of the auction stream, and the columns of each query's rows.

Timestamps (`ts`, `expires`) are ints, milliseconds since 1970-01-01T00:00:00Z, and may be negative. Prices are ints, in
cents. `seq` is the position of the event in the stream; it is unique.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

__all__ = ["COLUMNS", "Auction", "Bid", "Event", "Person"]


class Person(TypedDict):
    """A person who may sell and bid."""

    type: Literal["person"]
    seq: int
    ts: int
    id: int
    name: str
    email_address: str
    credit_card: str
    city: str
    state: str
    extra: str


class Auction(TypedDict):
    """An item that `seller`, the id of a person, offers until `expires`."""

    type: Literal["auction"]
    seq: int
    ts: int
    id: int
    item_name: str
    description: str
    initial_bid: int
    reserve: int
    expires: int
    seller: int
    category: int
    extra: str


class Bid(TypedDict):
    """An offer of `bidder`, the id of a person, for `auction`, the id of an auction."""

    type: Literal["bid"]
    seq: int
    ts: int
    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    extra: str


Event: TypeAlias = Person | Auction | Bid

COLUMNS: dict[str, tuple[str, ...]] = {
    "q0": ("auction", "bidder", "price", "ts", "extra"),
    "q1": ("auction", "bidder", "price_eur_milli", "ts", "extra"),
    "q2": ("auction", "price"),
    "q3": ("name", "city", "state", "id"),
    "q4": ("category", "avg_final"),
    "q5": ("window_start", "window_end", "auction", "num"),
    "q7": ("window_start", "window_end", "auction", "bidder", "price", "ts", "extra"),
    "q8": ("id", "name", "window_start"),
    "q9": (
        *("id", "item_name", "initial_bid", "reserve", "auction_ts", "expires", "seller", "category"),
        *("bidder", "price", "bid_ts", "bid_extra"),
    ),
    "q11": ("bidder", "bid_count", "session_start", "session_end"),
    "q12e": ("bidder", "window_start", "window_end", "bid_count"),
    "q13": ("auction", "bidder", "price", "ts", "value"),
    "q14": ("auction", "bidder", "price_eur_milli", "ts", "extra", "time_type", "c_count"),
    "q15": (
        "day",
        *("total_bids", "rank1_bids", "rank2_bids", "rank3_bids"),
        *("total_bidders", "rank1_bidders", "rank2_bidders", "rank3_bidders"),
        *("total_auctions", "rank1_auctions", "rank2_auctions", "rank3_auctions"),
    ),
    "q17": (
        *("auction", "day", "total_bids", "rank1_bids", "rank2_bids", "rank3_bids"),
        *("min_price", "max_price", "avg_price", "sum_price"),
    ),
    "q19": ("auction", "bidder", "price", "channel", "ts", "extra", "rank"),
    "q21": ("auction", "bidder", "price", "channel", "channel_id"),
    "q22": ("auction", "bidder", "price", "channel", "dir1", "dir2", "dir3"),
}
"""The columns of the rows of each query. q12e is q12 in event time."""
