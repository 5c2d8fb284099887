"""jobs/nexmark/generator.py: what the stream consists of. Shares are measured with fixed seeds."""

import hashlib
import json
import pickle
from collections import Counter
from itertools import islice

import pytest

from nexmark.generator import HOT_CHANNELS, PLACES, EventGenerator

PARTITIONS = 4


def stream(n=20_000, **options):
    return list(EventGenerator(**{"seed": 1, **options}).events(0, n))


def of_type(events, kind):
    return [event for event in events if event["type"] == kind]


def share(events, is_meant):
    return sum(map(is_meant, events)) / len(events)


def delays(events):
    """How far each event is behind the largest ts up to it."""
    latest = events[0]["ts"]
    for event in events:
        latest = max(latest, event["ts"])
        yield latest - event["ts"]


# --- positions --------------------------------------------------------------------------------------------


def test_of_50_events_1_is_a_person_3_are_auctions_and_46_are_bids():
    kinds = [event["type"] for event in stream(5000)]
    for start in range(0, 5000, 50):
        assert Counter(kinds[start : start + 50]) == {"person": 1, "auction": 3, "bid": 46}


def test_an_event_is_the_same_whether_it_is_looked_up_or_reached():
    generator = EventGenerator(seed=5)
    events = list(generator.events(0, 1000))
    assert [event["seq"] for event in events] == list(range(1000))
    assert [generator.event(seq) for seq in reversed(range(1000))] == events[::-1]
    for start in (1, 49, 50, 51, 777):
        assert list(generator.events(start, 1000)) == events[start:]
        assert list(islice(generator.events(start), 10)) == events[start : start + 10]


def test_partitions_have_every_event_once():
    generator = EventGenerator(seed=5)
    parts = [event for part in range(PARTITIONS) for event in generator.events(part, 1000, PARTITIONS)]
    assert sorted(parts, key=lambda event: event["seq"]) == list(generator.events(0, 1000))


def test_a_position_far_away_needs_no_events_before_it():
    event = EventGenerator(events_per_s=1_000_000).event(10**15)
    assert (event["seq"], event["type"], event["id"]) == (10**15, "person", 1000 + 10**15 // 50)


def test_a_copy_in_another_process_gives_the_same_events():
    generator = EventGenerator(seed=5, ooo_ms=7, events_per_s=3, base_time=-1)
    assert list(pickle.loads(pickle.dumps(generator)).events(0, 200)) == list(generator.events(0, 200))


def test_another_seed_gives_other_events():
    one, other = stream(100), stream(100, seed=2)
    assert all(event["extra"] != another["extra"] for event, another in zip(one, other))


def test_a_stream_stays_the_same_from_version_to_version():
    lines = "".join(json.dumps(event) + "\n" for event in stream(1000))
    assert (
        hashlib.sha256(lines.encode()).hexdigest() == "848ff624c30d1121146971f4ff83cf947dd898bda5fa2b2676e19ba3088c4410"
    )


def test_events_are_plain_json():
    events = stream(100)
    assert [json.loads(json.dumps(event)) for event in events] == events


# --- times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, PARTITIONS])
@pytest.mark.parametrize("ooo_ms", [1, 1000, 20_000])
def test_no_event_is_later_than_the_bound_and_some_are_as_late(ooo_ms, step):
    events = stream(20_000, ooo_ms=ooo_ms, events_per_s=1_000_000 // ooo_ms)
    for part in range(step):
        worst = max(delays(events[part::step]))
        assert 0.99 * ooo_ms <= worst <= ooo_ms


def test_a_quarter_of_the_events_are_moved_back():
    events, in_order = stream(), stream(ooo_ms=0)
    back = [event["ts"] - other["ts"] for event, other in zip(in_order, events)]
    assert share(back, lambda ms: ms > 0) == pytest.approx(0.25, abs=0.01)
    moved = [ms for ms in back if ms]
    assert (min(moved), max(moved)) == (1, 1000)
    assert sum(moved) / len(moved) == pytest.approx(500.5, rel=0.02)


def test_without_disorder_events_come_at_their_rate():
    events = stream(1000, ooo_ms=0, events_per_s=3, base_time=-5000)
    assert [event["ts"] for event in events] == [-5000 + seq * 1000 // 3 for seq in range(1000)]


def test_disorder_rate_and_base_time_change_only_times():
    def without_times(events):
        return [{key: value for key, value in event.items() if key not in ("ts", "expires")} for event in events]

    assert without_times(stream(1000, ooo_ms=9, events_per_s=2, base_time=-3)) == without_times(stream(1000))


def test_a_negative_base_time_moves_every_time_by_as_much():
    for event, other in zip(stream(1000, base_time=-10_007), stream(1000, base_time=0)):
        times = {key: other[key] - 10_007 for key in ("ts", "expires") if key in other}
        assert event == {**other, **times}


@pytest.mark.parametrize("base_time", [0, -98_765])
def test_on_a_grid_times_are_equal_and_the_bound_holds(base_time):
    events = stream(20_000, grid_ms=1000, ooo_ms=3000, base_time=base_time, events_per_s=1000)
    times = [event["ts"] for event in events] + [event["expires"] for event in of_type(events, "auction")]
    assert all(time % 1000 == 0 for time in times)
    assert max(delays(events)) == 3000
    assert any(event["expires"] == event["ts"] for event in of_type(events, "auction"))


@pytest.mark.parametrize("events_per_s", [100, 10_000])
def test_an_auction_is_open_for_the_time_of_100_auctions_on_average(events_per_s):
    auctions = of_type(stream(events_per_s=events_per_s), "auction")
    spans = [auction["expires"] - auction["ts"] for auction in auctions]
    mean = 100 * 50 / 3 * 1000 / events_per_s
    assert sum(spans) / len(spans) == pytest.approx(mean, rel=0.06)
    assert min(spans) >= 1
    assert 1.9 * mean < max(spans) <= 2 * mean


# --- persons, auctions, bids ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["person", "auction"])
def test_ids_are_dense_in_order_of_creation(kind):
    ids = [event["id"] for event in of_type(stream(), kind)]
    assert ids == list(range(1000, 1000 + len(ids)))


def references(events):
    """(newest person, newest auction, event) of every auction and bid."""
    person = auction = 999
    for event in events:
        if event["type"] == "person":
            person = event["id"]
            continue
        if event["type"] == "auction":
            auction = event["id"]
        yield person, auction, event


def first_of_hundred(id_):
    return (id_ - 1000) // 100 * 100 + 1000


def test_three_quarters_of_the_auctions_are_of_the_hot_seller():
    found = [(event["seller"], person) for person, _, event in references(stream(60_000)) if event["type"] == "auction"]
    assert share(found, lambda pair: pair[0] == first_of_hundred(pair[1])) == pytest.approx(0.75, abs=0.02)
    assert all(max(1000, newest - 999) <= seller <= newest + 10 for seller, newest in found)
    assert {seller - newest for seller, newest in found if seller > newest} == set(range(1, 11))
    assert min(seller - newest for seller, newest in found if newest > 2000) < -950


def test_half_of_the_bids_are_for_the_hot_auction():
    found = [(event["auction"], auction) for _, auction, event in references(stream()) if event["type"] == "bid"]
    assert share(found, lambda pair: pair[0] == first_of_hundred(pair[1])) == pytest.approx(0.5, abs=0.02)
    others = [(auction, newest) for auction, newest in found if auction != first_of_hundred(newest)]
    assert all(max(1000, newest - 99) <= auction <= newest + 10 for auction, newest in others)
    offsets = {auction - newest for auction, newest in others if newest > 1200}
    assert offsets == set(range(-99, 11))


def test_three_quarters_of_the_bids_are_of_the_hot_bidder_who_is_not_the_hot_seller():
    found = [(event["bidder"], person) for person, _, event in references(stream(60_000)) if event["type"] == "bid"]
    assert share(found, lambda pair: pair[0] == first_of_hundred(pair[1]) + 1) == pytest.approx(0.75, abs=0.01)
    assert all(max(1000, newest - 999) <= bidder <= newest + 10 for bidder, newest in found)
    assert {bidder - newest for bidder, newest in found if bidder > newest} == set(range(1, 11))


def test_prices_are_log_uniform():
    prices = [bid["price"] for bid in of_type(stream(), "bid")]
    digits = Counter(len(str(price)) for price in prices)
    assert sorted(digits) == [3, 4, 5, 6, 7, 8]  # 100 to 99,999,999 cents
    assert all(count / len(prices) == pytest.approx(1 / 6, abs=0.01) for count in digits.values())


def test_a_reserve_is_above_the_initial_bid_by_a_price():
    auctions = of_type(stream(), "auction")
    assert all(100 <= auction["initial_bid"] < 100_000_000 for auction in auctions)
    assert all(100 <= auction["reserve"] - auction["initial_bid"] < 100_000_000 for auction in auctions)


def test_categories_are_10_to_14():
    auctions = of_type(stream(), "auction")
    counts = Counter(auction["category"] for auction in auctions)
    assert sorted(counts) == [10, 11, 12, 13, 14]
    assert all(count / len(auctions) == pytest.approx(0.2, abs=0.04) for count in counts.values())


def test_half_of_the_bids_are_through_a_hot_channel_and_most_others_have_an_id_in_their_url():
    bids = of_type(stream(), "bid")
    assert share(bids, lambda bid: bid["channel"] in HOT_CHANNELS) == pytest.approx(0.5, abs=0.02)
    assert not any("channel_id" in bid["url"] for bid in bids if bid["channel"] in HOT_CHANNELS)
    others = [bid for bid in bids if bid["channel"] not in HOT_CHANNELS]
    assert {bid["channel"] for bid in others} <= {f"channel-{n}" for n in range(10_000)}
    assert share(others, lambda bid: "&channel_id=" in bid["url"]) == pytest.approx(0.9, abs=0.01)


def test_a_url_has_three_folders():
    for bid in of_type(stream(1000), "bid"):
        folders, _, rest = bid["url"].removeprefix("https://auction.example/").rpartition("/")
        assert len(folders.split("/")) == 3
        assert all(folder.isalpha() for folder in folders.split("/"))
        assert rest.partition("&channel_id=")[0] == "item.htm?query=1"


def test_persons_live_in_all_places():
    persons = of_type(stream(60_000), "person")
    assert {(person["city"], person["state"]) for person in persons} == set(PLACES)
    assert {"OR", "ID", "CA"} < {person["state"] for person in persons}


def test_texts_have_letters_to_count():
    counts = Counter("".join(bid["extra"] for bid in of_type(stream(), "bid")))
    total = sum(counts.values())
    assert len(counts) == 26
    assert counts["c"] / total == pytest.approx(1 / 26, rel=0.1)


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"events_per_s": 0}, "events_per_s must be at least 1, not 0"),
        ({"ooo_ms": -1}, "ooo_ms must be at least 0, not -1"),
        ({"grid_ms": 0}, "grid_ms must be at least 1, not 0"),
        ({"ooo_ms": 1500, "grid_ms": 1000}, "ooo_ms must be a multiple of grid_ms, 1000, not 1500"),
    ],
)
def test_options_that_make_no_stream_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        EventGenerator(**options)


def test_a_negative_position_is_refused():
    with pytest.raises(ValueError, match="seq must be at least 0, not -1"):
        EventGenerator().event(-1)
