"""The queries of nexmark_oracle.py: rows computed by hand, and plain loops over generated streams."""

import json
from collections import Counter, defaultdict

import pytest
from nexmark_oracle import QUERIES, Oracle

from nexmark.generator import EventGenerator
from nexmark.model import COLUMNS

HOUR, DAY = 3_600_000, 86_400_000


def person(id_, ts=0, name="Ada", city="Bend", state="OR"):
    return {"type": "person", "ts": ts, "id": id_, "name": name, "city": city, "state": state}


def auction(id_, ts=0, expires=100, seller=1, category=10):
    columns = {"item_name": f"item {id_}", "initial_bid": 5, "reserve": 6}
    return {
        "type": "auction",
        "ts": ts,
        "id": id_,
        "expires": expires,
        "seller": seller,
        "category": category,
    } | columns


def bid(auction, ts=0, price=100, bidder=1, channel="Apple", url="u", extra="e"):
    columns = {"bidder": bidder, "channel": channel, "url": url, "extra": extra}
    return {"type": "bid", "ts": ts, "auction": auction, "price": price} | columns


def answer(query, *events):
    """The rows as tuples, sorted; the events get their positions."""
    rows = map(json.loads, Oracle({"seq": seq, **event} for seq, event in enumerate(events)).lines(query))
    return sorted((tuple(row[column] for column in COLUMNS[query]) for row in rows), key=repr)


def rows(*expected):
    return sorted(expected, key=repr)


def test_every_query_has_its_columns_and_gives_rows():
    oracle = Oracle(EventGenerator(events_per_s=100).events(0, 3000))
    assert list(QUERIES) == list(COLUMNS)
    assert all(oracle.lines(query) for query in QUERIES)


@pytest.mark.parametrize("query", QUERIES)
def test_an_empty_stream_has_no_rows(query):
    assert answer(query) == []


def test_the_order_of_the_events_does_not_matter():
    events = list(EventGenerator(events_per_s=100).events(0, 1000))
    oracle, reverse = Oracle(events), Oracle(reversed(events))
    assert all(oracle.lines(query) == reverse.lines(query) for query in QUERIES)


# --- one bid at a time ------------------------------------------------------------------------------------


def test_q0_passes_every_bid_through_equal_ones_too():
    events = [bid(7, -5, 9, 3, extra=None), bid(7, -5, 9, 3, extra=None), person(1), auction(7)]
    assert answer("q0", *events) == rows((7, 3, 9, -5, None), (7, 3, 9, -5, None))


def test_q1_converts_to_thousandths_of_a_euro_cent():
    assert answer("q1", bid(7, 4, 99_999_999, 3)) == rows((7, 3, 90_799_999_092, 4, "e"))


def test_q2_keeps_auctions_whose_id_123_divides():
    events = [bid(1106), bid(1107, price=5), bid(1107, price=5), bid(1108), bid(1230, price=6)]
    assert answer("q2", *events) == rows((1107, 5), (1107, 5), (1230, 6))


def test_q13_joins_by_the_last_three_digits_unless_three_divides_them():
    bids = [bid(auction, 2, 9, 3) for auction in (1000, 1001, 1002, 1003, 2001, 1998, 1999)]
    values = {1001: "side-001", 1002: "side-002", 2001: "side-001", 1998: "side-998"}
    assert answer("q13", *bids) == rows(*((auction, 3, 9, 2, value) for auction, value in values.items()))


def test_q14_keeps_prices_between_two_bounds():
    prices = [1_101_321, 1_101_322, 55_066_079, 55_066_080]  # * 908: just below and above 10 ** 9 and 5 * 10 ** 10
    kept = [row[2] for row in answer("q14", *(bid(7, price=price) for price in prices))]
    assert sorted(kept) == [1_101_322 * 908, 55_066_079 * 908]


@pytest.mark.parametrize("day", [0, 5 * DAY, -DAY, -7 * DAY])
@pytest.mark.parametrize(
    ("ts", "time_type"),
    [
        (0, "nightTime"),
        (7 * HOUR - 1, "nightTime"),
        (7 * HOUR, "otherTime"),
        (8 * HOUR - 1, "otherTime"),
        (8 * HOUR, "dayTime"),
        (19 * HOUR - 1, "dayTime"),
        (19 * HOUR, "otherTime"),
        (20 * HOUR - 1, "otherTime"),
        (20 * HOUR, "nightTime"),
        (24 * HOUR - 1, "nightTime"),
    ],
)
def test_q14_names_the_time_of_the_day(day, ts, time_type):
    ((*_, found, _),) = answer("q14", bid(7, day + ts, 2_000_000))
    assert found == time_type


@pytest.mark.parametrize(("extra", "count"), [("", 0), ("abC", 0), ("cacbcc", 4)])
def test_q14_counts_the_letter_c(extra, count):
    assert answer("q14", bid(7, 0, 2_000_000, 3, extra=extra)) == [(7, 3, 1_816_000_000, 0, extra, "nightTime", count)]


@pytest.mark.parametrize(
    ("channel", "url", "channel_id"),
    [
        ("apple", "https://a/b?query=1&channel_id=7", "0"),
        ("GOOGLE", "https://a/b", "1"),
        ("Facebook", None, "2"),
        ("baidu", "https://a/b", "3"),
        ("channel-5", "https://a/b?query=1&channel_id=77", "77"),
        ("channel-5", "https://a/b?channel_id=77&query=1", "77"),
        ("channel-5", "https://a/b?channel_id=1&channel_id=2", "1"),
        ("channel-5", "https://a/b?channel_id=&query=1", ""),
        ("channel-5", "https://a/b?query=1&channel_id=7#part", "7"),
        (None, "https://a/b?query=1&channel_id=7", "7"),
    ],
)
def test_q21_finds_the_id_of_a_channel(channel, url, channel_id):
    assert answer("q21", bid(7, 0, 9, 3, channel, url)) == [(7, 3, 9, channel, channel_id)]


@pytest.mark.parametrize(
    "url",
    [
        None,
        "https://a/b?query=1",
        "https://a/b?query=1&my_channel_id=7",
        "https://a/b?query=1&channel_id",
        "https://a/b&channel_id=7",
        "https://a/channel_id=7/b?query=1",
        "https://a/b?query=1#&channel_id=7",
    ],
)
@pytest.mark.parametrize("channel", ["channel-5", "apples", None])
def test_q21_has_no_row_without_the_parameter(channel, url):
    assert answer("q21", bid(7, channel=channel, url=url)) == []


@pytest.mark.parametrize(
    ("url", "folders"),
    [
        ("https://auction.example/a/b/c/item.htm?query=1", ("a", "b", "c")),
        ("https://auction.example/a/b", ("a", "b", None)),
        ("https://auction.example/a//c", ("a", "", "c")),
        ("https://auction.example/", ("", None, None)),
        ("https://auction.example", (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_q22_splits_the_url_and_what_is_absent_is_null(url, folders):
    assert answer("q22", bid(7, 0, 9, 3, None, url)) == [(7, 3, 9, None, *folders)]


# --- joins ------------------------------------------------------------------------------------------------


def test_q3_joins_over_the_whole_stream():
    events = [
        *(auction(10, seller=1), auction(11, DAY, seller=1), auction(12, seller=1, category=11)),
        *(auction(13, seller=2), auction(14, seller=3), auction(15, seller=4), auction(16, seller=99)),
        *(person(1, -DAY), person(2, name="Bo", city="Kent", state="WA")),
        *(person(3, name="Cy", city="Boise", state="ID"), person(4, name="Di", city="Oakland", state="CA")),
    ]
    assert answer("q3", *events) == rows(
        ("Ada", "Bend", "OR", 10), ("Ada", "Bend", "OR", 11), ("Cy", "Boise", "ID", 14), ("Di", "Oakland", "CA", 15)
    )


def test_q4_is_the_mean_of_the_highest_bids_between_begin_and_expiry():
    events = [
        *(bid(1, -6, 900), bid(1, -5, 10), bid(1, 5, 11), bid(1, 6, 999)),  # both ends belong to it: 11
        *(auction(1, -5, 5), auction(2, 0, 9), auction(3, 0, 9), auction(4, 0, 9, category=11)),
        *(bid(2, 3, 4), bid(2, 4, 3)),  # 4
        *(bid(3, 10, 500), bid(99, 0, 500)),  # after its expiry; for an auction that never appears
        *(bid(4, 0, 8), bid(4, 9, 8)),
    ]
    assert answer("q4", *events) == rows((10, 7), (11, 8))  # (11 + 4) // 2


def test_q4_rounds_a_mean_down_below_zero_too():
    events = [auction(1), auction(2), bid(1, price=-1), bid(2, price=-2)]
    assert answer("q4", *events) == [(10, -2)]


def test_q8_needs_an_auction_in_the_window_of_the_person():
    events = [
        *(person(1, -1, "before"), auction(10, 0, seller=1)),
        *(auction(11, 0, seller=2), auction(12, 9999, seller=2), person(2, 9999, "same"), person(2, 0, "same")),  # once
        *(auction(13, 9999, seller=3), person(3, 10_000, "after")),
        *(person(4, -10_000, "negative"), auction(14, -1, seller=4)),
        *(person(5, 0, "silent"), auction(15, 0, seller=99)),
    ]
    assert answer("q8", *events) == rows((2, "same", 0), (4, "negative", -10_000))


def test_q9_is_the_highest_then_the_earliest_then_the_first_bid():
    events = [
        *(bid(1, 5, 7, 11), bid(1, 6, 8, 12), bid(1, 4, 7, 13)),  # the highest
        *(bid(2, 6, 8, 21), bid(2, 5, 8, 22), bid(2, 4, 7, 23)),  # the earliest of the highest
        *(bid(3, 5, 8, 31), bid(3, 5, 8, 32), bid(3, 4, 7, 33)),  # the first of the earliest
        *(auction(1), auction(2), auction(3), auction(4), bid(99)),
    ]

    def won(id_, bidder, ts):
        return (id_, f"item {id_}", 5, 6, 0, 100, 1, 10, bidder, 8, ts, "e")

    assert answer("q9", *events) == rows(won(1, 12, 6), won(2, 22, 5), won(3, 31, 5))


@pytest.mark.parametrize(("ts", "is_valid"), [(-8, False), (-7, True), (-3, True), (-2, False)])
def test_q9_counts_a_bid_at_the_begin_and_at_the_expiry(ts, is_valid):
    events = [bid(1, ts, 9, 2), auction(1, -7, -3)]
    expected = [(1, "item 1", 5, 6, -7, -3, 1, 10, 2, 9, ts, "e")] if is_valid else []
    assert answer("q9", *events) == expected


# --- windows ----------------------------------------------------------------------------------------------


def test_q5_has_every_auction_with_the_most_bids_of_a_window():
    shared = [(start, start + 10_000, auction, 1) for start in range(-8000, 0, 2000) for auction in (1, 2)]
    assert answer("q5", bid(1, 0), bid(2, -1)) == rows((-10_000, 0, 2, 1), *shared, (0, 10_000, 1, 1))


def test_q5_counts_bids_from_the_start_of_a_window_and_before_its_end():
    events = [bid(2, 1999), bid(1, 2000), bid(1, 11_999), bid(2, 12_000), bid(2, 12_000)]
    assert answer("q5", *events) == rows(
        (-8000, 2000, 2, 1),  # without the bid at its end
        *((start, start + 10_000, auction, 1) for start in range(-6000, 2000, 2000) for auction in (1, 2)),
        (2000, 12_000, 1, 2),  # with the bid at its start, without those at its end
        *((start, start + 10_000, 2, 2) for start in range(4000, 14_000, 2000)),
    )


def test_q7_has_every_bid_with_the_highest_price_of_its_window():
    events = [
        *(bid(1, -1, 9, 11), bid(2, -10_000, 9, 12), bid(3, -5, 8, 13)),
        *(bid(4, 0, 5, 14), bid(4, 0, 5, 14)),  # equal rows
        *(bid(5, 10_000, 7, 15), bid(6, 19_999, 6, 16)),
    ]
    assert answer("q7", *events) == rows(
        (-10_000, 0, 1, 11, 9, -1, "e"),
        (-10_000, 0, 2, 12, 9, -10_000, "e"),
        (0, 10_000, 4, 14, 5, 0, "e"),
        (0, 10_000, 4, 14, 5, 0, "e"),
        (10_000, 20_000, 5, 15, 7, 10_000, "e"),
    )


def test_q11_does_not_merge_bids_that_are_the_gap_apart():
    events = [bid(7, ts, bidder=1) for ts in (29_999, -1, 9_999, 19_999)]
    assert answer("q11", *events) == rows(*((1, 1, ts, ts + 10_000) for ts in (-1, 9_999, 19_999, 29_999)))


def test_q11_merges_bids_of_one_bidder_that_are_closer_than_the_gap():
    events = [
        *(bid(7, ts, bidder=1) for ts in (19_000, -998, 9_001)),  # the last one joins the others
        *(bid(7, ts, bidder=2) for ts in (0, 0, 10_000)),
        bid(8, 9_999, bidder=3),
    ]
    assert answer("q11", *events) == rows(
        (1, 3, -998, 29_000), (2, 2, 0, 10_000), (2, 1, 10_000, 20_000), (3, 1, 9_999, 19_999)
    )


def test_q12e_counts_bids_per_bidder_and_window():
    events = [bid(7, ts, bidder=1) for ts in (-10_001, -10_000, -1, 0, 9_999, 10_000)] + [bid(8, 0, bidder=2)]
    assert answer("q12e", *events) == rows(
        (1, -20_000, -10_000, 1), (1, -10_000, 0, 2), (1, 0, 10_000, 2), (1, 10_000, 20_000, 1), (2, 0, 10_000, 1)
    )


# --- days and ranks ---------------------------------------------------------------------------------------


def test_q15_counts_bids_bidders_and_auctions_per_day_and_rank():
    events = [
        *(bid(1, -1, 9_999, 11), bid(2, -DAY, 10_000, 12), bid(3, -1, 999_999, 13), bid(4, -1, 1_000_000, 14)),
        *(bid(1, -9, 100, 11), bid(1, -9, 100_000_000, 11)),
        *(bid(1, 0, 5, 11), bid(1, DAY - 1, 5, 11), bid(3, DAY - 1, 5, 11)),
    ]
    assert answer("q15", *events) == rows(
        ("1969-12-31", 6, 2, 2, 2, 4, 1, 2, 2, 4, 1, 2, 2),
        ("1970-01-01", 3, 3, 0, 0, 1, 1, 0, 0, 2, 2, 0, 0),
    )


@pytest.mark.parametrize(
    ("ts", "day"),
    [
        (-DAY - 1, "1969-12-30"),
        (-DAY, "1969-12-31"),
        (1_436_918_400_000, "2015-07-15"),
        (951_782_400_000, "2000-02-29"),
        (-2_208_988_800_001, "1899-12-31"),
    ],
)
def test_q15_names_days_in_utc(ts, day):
    ((found, *_),) = answer("q15", bid(1, ts))
    assert found == day


def test_q17_summarizes_each_auction_and_day():
    events = [
        *(bid(1, -1, 9_999), bid(1, -DAY, 10_000), bid(1, -1, 999_999), bid(1, -5, 1_000_000)),
        *(bid(1, 0, 4), bid(1, 1, 4), bid(1, 2, 6), bid(2, 0, 7)),
    ]
    assert answer("q17", *events) == rows(
        (1, "1969-12-31", 4, 1, 2, 1, 9_999, 1_000_000, 504_999, 2_019_998),  # 504,999.5
        (1, "1970-01-01", 3, 3, 0, 0, 4, 6, 4, 14),
        (2, "1970-01-01", 1, 1, 0, 0, 7, 7, 7, 7),
    )


def test_q19_ranks_the_ten_best_bids_by_price_then_time_then_position():
    events = [
        *(bid(1, 5, 7, 101), bid(1, -5, 7, 102), bid(1, 5, 7, 103), bid(1, 9, 8, 104)),
        *(bid(1, 0, 6 - n, 200 + n) for n in range(8)),  # of these, six have a place
        bid(2, 3, 1, 301),
    ]
    bidders = [104, 102, 101, 103, 200, 201, 202, 203, 204, 205]
    found = answer("q19", *events)
    assert sorted((row[-1], row[1]) for row in found if row[0] == 1) == list(enumerate(bidders, 1))
    assert [row for row in found if row[0] == 2] == [(2, 301, 1, "Apple", 3, "e", 1)]


# --- plain loops over generated streams -------------------------------------------------------------------


STREAMS = {
    "slow": EventGenerator(seed=1, events_per_s=100),
    "disordered": EventGenerator(seed=2, events_per_s=60, ooo_ms=20_000, base_time=0),
    "negative": EventGenerator(seed=3, events_per_s=100, base_time=-13_337),
    "ties": EventGenerator(seed=4, events_per_s=20, grid_ms=1000, base_time=-98_765),
    "fast": EventGenerator(seed=5),
}


@pytest.fixture(scope="module", params=STREAMS)
def events(request):
    return list(STREAMS[request.param].events(0, 3000))


@pytest.fixture(scope="module")
def oracle(events):
    return Oracle(events)


@pytest.fixture
def bids(events):
    return [event for event in events if event["type"] == "bid"]


def expect(oracle, query, rows):
    """The rows are tuples in the order of the columns."""
    found = [tuple(row[column] for column in COLUMNS[query]) for row in map(json.loads, oracle.lines(query))]
    assert Counter(found) == Counter(rows)


def starts(bids, slide):
    """The starts of all windows of 10 s that could have a bid."""
    times = [bid["ts"] for bid in bids]
    return range(min(times) // slide * slide - 10_000, max(times) + 1, slide)


def bids_of(bids, start):
    return [bid for bid in bids if start <= bid["ts"] < start + 10_000]


def winning_bids(events):
    """(auction, highest bid) of each auction that has a valid bid."""
    bids = defaultdict(list)
    for event in events:
        if event["type"] == "bid":
            bids[event["auction"]].append(event)
    for event in events:
        if event["type"] == "auction":
            valid = [bid for bid in bids[event["id"]] if event["ts"] <= bid["ts"] <= event["expires"]]
            if valid:
                yield event, max(valid, key=lambda bid: (bid["price"], -bid["ts"], -bid["seq"]))


def test_q4_is_what_a_loop_over_all_auctions_finds(events, oracle):
    finals = defaultdict(list)
    for auction, highest in winning_bids(events):
        finals[auction["category"]].append(highest["price"])
    expect(oracle, "q4", [(category, sum(prices) // len(prices)) for category, prices in finals.items()])


def test_q9_is_what_a_loop_over_all_auctions_finds(events, oracle):
    of_auction = ("id", "item_name", "initial_bid", "reserve", "ts", "expires", "seller", "category")
    of_bid = ("bidder", "price", "ts", "extra")
    won = [(*map(a.get, of_auction), *map(b.get, of_bid)) for a, b in winning_bids(events)]
    assert len(won) > 20
    expect(oracle, "q9", won)


def test_q5_is_what_a_loop_over_all_windows_finds(bids, oracle):
    rows = []
    for start in starts(bids, 2000):
        counts = Counter(bid["auction"] for bid in bids_of(bids, start))
        most = max(counts.values(), default=0)
        rows += [(start, start + 10_000, auction, num) for auction, num in counts.items() if num == most]
    expect(oracle, "q5", rows)


def test_q7_is_what_a_loop_over_all_windows_finds(bids, oracle):
    rows = []
    for start in starts(bids, 10_000):
        inside = bids_of(bids, start)
        highest = max((bid["price"] for bid in inside), default=0)
        best = [bid for bid in inside if bid["price"] == highest]
        of_bid = ("auction", "bidder", "price", "ts", "extra")
        rows += [(start, start + 10_000, *map(bid.get, of_bid)) for bid in best]
    expect(oracle, "q7", rows)


def test_q11_is_what_merging_overlapping_sessions_gives(bids, oracle):
    sessions = defaultdict(list)
    for bid in bids:  # in the order of arrival, as an engine merges them
        new = (1, bid["ts"], bid["ts"] + 10_000)
        apart = []
        for session in sessions[bid["bidder"]]:
            if session[1] < new[2] and new[1] < session[2]:
                new = (session[0] + new[0], min(session[1], new[1]), max(session[2], new[2]))
            else:
                apart.append(session)
        sessions[bid["bidder"]] = [*apart, new]
    expect(oracle, "q11", [(bidder, *session) for bidder, of_bidder in sessions.items() for session in of_bidder])
