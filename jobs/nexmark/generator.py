"""The auction stream of Nexmark, seeded and seekable: `EventGenerator.event(seq)` needs no earlier event.

Of every 50 events the first is a person, the next three are auctions and the rest are bids. Ids count from 1000 in the
order of creation, so a position says which persons and auctions exist. Most events refer to a hot person or auction,
which changes after each hundred; the others refer to recent ones, or to some that do not exist yet.

Tucker, Tufte, Papadimos and Maier: "NEXMark - a benchmark for queries over data streams" (2002); the proportions and
most constants are those of Apache Beam's generator.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, shake_256
from itertools import count

from nexmark.model import Auction, Bid, Event, Person

__all__ = ["AUCTIONS", "BIDS", "FIRST_CATEGORY", "FIRST_ID", "PERSONS", "ROUND", "EventGenerator"]

PERSONS, AUCTIONS, BIDS = 1, 3, 46
ROUND = PERSONS + AUCTIONS + BIDS
FIRST_ID = 1000
FIRST_CATEGORY, CATEGORIES = 10, 5

HOT_EVERY = 100  # after this many, another person or auction is the hot one
RECENT_PERSONS, RECENT_AUCTIONS = 1000, 100  # the other references go to one of the last ones
LEADS = 10  # or to one of the next ids, which do not exist yet
AUCTIONS_UNTIL_EXPIRY = 100  # this many auctions are created, on average, while one is open
CHANNELS = 10_000

HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
FIRST_NAMES = ("Ada", "Bela", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivan", "Jun", "Kira", "Leo")
LAST_NAMES = ("Abel", "Brandt", "Costa", "Dubois", "Eriksen", "Farkas", "Garcia", "Hoxha", "Ito", "Jensen")
PLACES = (
    *(("Phoenix", "AZ"), ("Los Angeles", "CA"), ("San Francisco", "CA"), ("Boise", "ID"), ("Portland", "OR")),
    *(("Bend", "OR"), ("Redmond", "WA"), ("Seattle", "WA"), ("Kent", "WA"), ("Cheyenne", "WY")),
)

# Draws are 32-bit words; `word * n >> 32` is uniform in 0..n-1.
_WORDS = struct.Struct("<16I").unpack
_HALF, _QUARTER, _THREE_QUARTERS = 1 << 31, 1 << 30, 3 << 30

# Texts are cut out of this one: that is much cheaper than to draw each letter.
_LETTERS = "".join(chr(ord("a") + byte % 26) for byte in shake_256(b"nexmark").digest(1 << 16))
_STARTS = len(_LETTERS) - 1000  # the longest text is shorter than that


@dataclass(frozen=True)
class EventGenerator:
    """Generates the stream. Two generators with equal attributes give equal events.

    Without disorder, event `seq` is at `base_time + seq * 1000 // events_per_s`. A quarter of the events are moved back
    by 1 to `ooo_ms`. So no event is more than `ooo_ms` behind the largest `ts` before it, neither in the whole stream
    nor in one of its partitions.

    Attributes:
        seed: another seed gives other events.
        ooo_ms: milliseconds; how far events are out of order at most, 0 for not at all.
        events_per_s: how many events there are in a second of event time.
        base_time: a timestamp, the time of event 0; may be negative.
        grid_ms: all times are multiples of it, rounded down; with 1000 many events have equal times. `ooo_ms` must be
            a multiple of it.

    >>> generator = EventGenerator(seed=7)
    >>> [event["type"] for event in generator.events(0, 5)]
    ['person', 'auction', 'auction', 'auction', 'bid']
    >>> next(generator.events(3_000_000)) == generator.event(3_000_000)
    True
    """

    seed: int = 0
    ooo_ms: int = 1000
    events_per_s: int = 10_000
    base_time: int = 1_436_918_400_000
    grid_ms: int = 1

    def __post_init__(self) -> None:
        if self.events_per_s < 1:
            raise ValueError(f"events_per_s must be at least 1, not {self.events_per_s}")
        if self.ooo_ms < 0:
            raise ValueError(f"ooo_ms must be at least 0, not {self.ooo_ms}")
        if self.grid_ms < 1:
            raise ValueError(f"grid_ms must be at least 1, not {self.grid_ms}")
        if self.ooo_ms % self.grid_ms:
            raise ValueError(f"ooo_ms must be a multiple of grid_ms, {self.grid_ms}, not {self.ooo_ms}")

    def events(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Event]:
        """Generate the events at the positions of `range(start, stop, step)`; without `stop`, for ever.

        Partition p of n reads `events(p, stop, n)`.
        """
        return map(self.event, count(start, step) if stop is None else range(start, stop, step))

    def event(self, seq: int) -> Event:
        """Return the event at position `seq`, which counts from 0. Raises ValueError if it is negative."""
        if seq < 0:
            raise ValueError(f"seq must be at least 0, not {seq}")
        round_, place = divmod(seq, ROUND)
        words = _WORDS(blake2b(b"%d:%d" % (self.seed, seq)).digest())
        ts = self.base_time + seq * 1000 // self.events_per_s
        if words[0] < _QUARTER and self.ooo_ms:
            ts -= 1 + (words[1] * self.ooo_ms >> 32)
        ts -= ts % self.grid_ms
        if place >= PERSONS + AUCTIONS:
            return _bid(seq, ts, words, persons=round_ + 1, auctions=(round_ + 1) * AUCTIONS)
        if place >= PERSONS:
            return self._auction(seq, ts, words, persons=round_ + 1, auctions=round_ * AUCTIONS + place - PERSONS)
        return _person(seq, ts, words, persons=round_)

    def _auction(self, seq: int, ts: int, words: tuple[int, ...], persons: int, auctions: int) -> Auction:
        open_ms = AUCTIONS_UNTIL_EXPIRY * ROUND * 1000 // (AUCTIONS * self.events_per_s)
        expires = ts + 1 + (words[4] * max(2 * open_ms - 1, 1) >> 32)
        initial_bid = _price(words[5])
        return {
            "type": "auction",
            "seq": seq,
            "ts": ts,
            "id": FIRST_ID + auctions,
            "item_name": _text(words[6], words[7], 5, 20),
            "description": _text(words[8], words[9], 20, 100),
            "initial_bid": initial_bid,
            "reserve": initial_bid + _price(words[10]),
            "expires": expires - expires % self.grid_ms,
            "seller": _hot_person(persons, 0) if words[2] < _THREE_QUARTERS else _recent_person(persons, words[3]),
            "category": FIRST_CATEGORY + (words[11] * CATEGORIES >> 32),
            "extra": _text(words[12], words[13], 300, 450),
        }


def _person(seq: int, ts: int, words: tuple[int, ...], persons: int) -> Person:
    first = FIRST_NAMES[words[2] * len(FIRST_NAMES) >> 32]
    last = LAST_NAMES[words[3] * len(LAST_NAMES) >> 32]
    city, state = PLACES[words[4] * len(PLACES) >> 32]
    return {
        "type": "person",
        "seq": seq,
        "ts": ts,
        "id": FIRST_ID + persons,
        "name": f"{first} {last}",
        "email_address": f"{first}.{last}@{_text(words[5], words[6], 3, 10)}.example".lower(),
        "credit_card": " ".join(f"{word % 10_000:04}" for word in words[7:11]),
        "city": city,
        "state": state,
        "extra": _text(words[11], words[12], 100, 150),
    }


def _bid(seq: int, ts: int, words: tuple[int, ...], persons: int, auctions: int) -> Bid:
    if words[2] < _HALF:
        auction = FIRST_ID + (auctions - 1) // HOT_EVERY * HOT_EVERY
    else:
        recent = min(auctions, RECENT_AUCTIONS)
        auction = FIRST_ID + auctions - recent + (words[3] * (recent + LEADS) >> 32)
    if words[7] < _HALF:
        channel, url = _hot_channel(words[8] * len(HOT_CHANNELS) >> 32)
    else:
        channel, url = _channel(words[8] * CHANNELS >> 32)
    return {
        "type": "bid",
        "seq": seq,
        "ts": ts,
        "auction": auction,
        "bidder": _hot_person(persons, 1) if words[4] < _THREE_QUARTERS else _recent_person(persons, words[5]),
        "price": _price(words[6]),
        "channel": channel,
        "url": url,
        "extra": _text(words[9], words[10], 54, 82),
    }


def _hot_person(persons: int, offset: int) -> int:
    """The hot seller is the first of the current hundred, the hot bidder the second, also before it is created."""
    return FIRST_ID + (persons - 1) // HOT_EVERY * HOT_EVERY + offset


def _recent_person(persons: int, word: int) -> int:
    recent = min(persons, RECENT_PERSONS)
    return FIRST_ID + persons - recent + (word * (recent + LEADS) >> 32)


def _price(word: int) -> int:
    """Log-uniform in 100 to 99,999,999."""
    return int(10.0 ** (2.0 + 6.0 * (word * 2.0**-32)))


def _text(start: int, length: int, least: int, most: int) -> str:
    """At least `least` letters, and fewer than `most`."""
    first = start * _STARTS >> 32
    return _LETTERS[first : first + least + (length * (most - least) >> 32)]


@cache
def _hot_channel(number: int) -> tuple[str, str]:
    """The name of the channel, and the url of every bid through it."""
    return HOT_CHANNELS[number], _url(_WORDS(blake2b(b"hot channel %d" % number).digest()))


@cache
def _channel(number: int) -> tuple[str, str]:
    """The same for the other channels; the urls of nine in ten have the parameter channel_id."""
    words = _WORDS(blake2b(b"channel %d" % number).digest())
    parameter = f"&channel_id={words[6] >> 1}" if words[7] % 10 else ""
    return f"channel-{number}", _url(words) + parameter


def _url(words: tuple[int, ...]) -> str:
    folders = "/".join(_text(words[n], words[n + 1], 3, 6) for n in (0, 2, 4))
    return f"https://auction.example/{folders}/item.htm?query=1"
