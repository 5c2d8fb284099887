"""a == b implies the same hash: for every kind of key, in every process, on every Python."""

import collections
import datetime as dt
import decimal
import enum
import fractions
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field

import numpy
import pandas
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sage_flow.errors import InvalidKeyError
from sage_flow.keys import StableHash, group_to_subtask, key_group, stable_hash


class Color(enum.Enum):
    RED = 1
    CRIMSON = 1  # an alias
    BLUE = 2


class Text(str, enum.Enum):
    A = "a"
    B = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


Pair = collections.namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str = field(default="", compare=False)


@dataclass(frozen=True)
class Place(Point):
    city: str = ""


UTC = dt.timezone.utc
PLUS_2 = dt.timezone(dt.timedelta(hours=2))

GOLDEN = {
    # key, hash: what is stored under these key groups must be found again by every later version
    "str": ("carrier", 5255777614443016106),
    "empty str": ("", 17241709254077376921),
    "unicode": ("żółw 🐢", 17491130342370380010),
    "surrogate": ("\ud800", 10038848880275758948),
    "str enum": (Text.A, 15154266338359012955),
    "bytes": (b"carrier", 13284749795924036698),
    "zero": (0, 3803688792395291579),
    "one": (1, 11468921228449061269),
    "true": (True, 11468921228449061269),
    "minus one": (-1, 13453299083773270399),
    "large int": (2**100, 9566488608832481844),
    "float": (0.1, 13920994319008213926),
    "infinity": (float("inf"), 2680659226110018847),
    "decimal": (decimal.Decimal("1.25"), 1983305218512154476),
    "fraction": (fractions.Fraction(1, 3), 16156065912781640437),
    "int enum": (Level.HIGH, 16917558970995453360),
    "none": (None, 12694156328500914040),
    "enum": (Color.RED, 1438464458613862222),
    "flags": (Access.READ | Access.WRITE, 7088419489980474297),
    "tuple": (("AA", 1), 7922271488581942591),
    "empty tuple": ((), 5165548162318380863),
    "nested": (("a", ("b", (None, 2))), 2564623786365035484),
    "frozenset": (frozenset({"a", 1, None}), 15010116137139829706),
    "uuid": (uuid.UUID(int=7), 14188357630585212625),
    "date": (dt.date(2013, 1, 1), 5218003233455473042),
    "naive": (dt.datetime(2013, 1, 1, 5, 15, 0, 7), 10942015548858874760),
    "aware": (dt.datetime(2013, 1, 1, 5, 15, tzinfo=UTC), 10341434645329694477),
    "timedelta": (dt.timedelta(days=-1, microseconds=5), 12739276675134153063),
    "dataclass": (Point(1, 2.5, "ignored"), 1197188100954589750),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_hash_of_a_key_never_changes(name):
    key, expected = GOLDEN[name]
    assert stable_hash(key) == expected


def test_the_hash_is_64_bits_without_a_sign():
    assert all(0 <= stable_hash(key) < 2**64 for key, _ in GOLDEN.values())


def test_different_keys_of_the_table_have_different_hashes():
    keys = {name: key for name, (key, _) in GOLDEN.items() if name != "true"}  # which equals 1
    assert len({stable_hash(key) for key in keys.values()}) == len(keys)


def test_processes_with_other_hash_seeds_agree():
    code = (
        "from sage_flow import stable_hash; import datetime as dt; "
        "print([stable_hash(k) for k in ('a', ('a', 1), frozenset('abcdef'), None, dt.date(2013, 1, 1), 1.5)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(told) == 1


# --- a == b implies the same hash -------------------------------------------------------------------------

wholes = st.one_of(st.booleans(), st.integers(), st.integers(-3, 3))
numbers = st.one_of(
    wholes,
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.sampled_from(list(Level)),
)


@given(numbers)
def test_a_number_hashes_alike_in_every_type_that_holds_it(number):
    for kind in (bool, int, float, decimal.Decimal, fractions.Fraction):
        try:
            same = kind(number)
        except (ValueError, OverflowError, TypeError):
            continue  # this type does not hold it
        if same == number:
            assert stable_hash(same) == stable_hash(number)


@pytest.mark.parametrize("truth", [True, False])
def test_a_bool_of_numpy_is_the_same_key_as_the_bool_that_it_equals(truth):
    assert stable_hash(numpy.bool_(truth)) == stable_hash(truth)
    assert stable_hash((1, numpy.bool_(truth))) == stable_hash((1, truth))


@given(numbers, numbers)
def test_equal_numbers_hash_alike(a, b):
    if a == b:
        assert stable_hash(a) == stable_hash(b)


@given(st.text())
def test_a_subclass_of_str_hashes_as_the_str(text):
    assert stable_hash(type("Name", (str,), {})(text)) == stable_hash(text)


def test_a_str_enum_hashes_as_its_value():
    assert Text.A == "a"
    assert stable_hash(Text.A) == stable_hash("a") != stable_hash(Text.B)


def test_an_alias_of_an_enum_is_the_same_key():
    assert stable_hash(Color.CRIMSON) == stable_hash(Color.RED) != stable_hash(Color.BLUE)


@given(numbers, st.text())
def test_a_named_tuple_hashes_as_a_tuple(number, text):
    assert stable_hash(Pair(number, text)) == stable_hash((number, text))


@given(st.lists(st.one_of(numbers, st.text(), st.none()), unique=True), st.randoms(use_true_random=False))
def test_a_frozenset_has_no_order(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert stable_hash(frozenset(items)) == stable_hash(frozenset(shuffled))


zones = st.timezones() | st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)))
moments = st.datetimes(dt.datetime(1900, 1, 3), dt.datetime(2100, 1, 1), timezones=zones)


@given(moments, zones)
def test_the_same_moment_hashes_alike_in_every_zone(moment, zone):
    elsewhere = moment.astimezone(zone)
    assume(elsewhere == moment)
    assert stable_hash(elsewhere) == stable_hash(moment)


@given(moments)
def test_the_two_readings_of_a_repeated_hour_are_equal_and_hash_alike(moment):
    again = moment.replace(fold=1 - moment.fold)
    assume(again == moment)
    assert stable_hash(again) == stable_hash(moment)


class EndOfSummer(dt.tzinfo):
    """Puts the clock back on one night, so that an hour comes twice."""

    def utcoffset(self, moment):
        return dt.timedelta(hours=1 if moment is None or moment.fold else 2)

    def dst(self, moment):
        return dt.timedelta(0)


def test_the_repeated_hour_by_example():
    first = dt.datetime(2024, 10, 27, 2, 30, tzinfo=EndOfSummer())
    second = first.replace(fold=1)
    assert first == second
    assert stable_hash(first) == stable_hash(second)


def test_the_first_and_the_last_moment_are_keys_in_every_zone():
    for moment in (
        dt.datetime.min.replace(tzinfo=PLUS_2),
        dt.datetime.max.replace(tzinfo=dt.timezone(-PLUS_2.utcoffset(None))),
    ):
        assert stable_hash(moment) >= 0


def test_a_naive_time_is_not_the_same_key_as_an_aware_one():
    naive = dt.datetime(2013, 1, 1)
    assert stable_hash(naive) == stable_hash(naive.replace(tzinfo=UTC)) or naive != naive.replace(tzinfo=UTC)
    assert stable_hash(dt.datetime(2013, 1, 1, 2, tzinfo=PLUS_2)) == stable_hash(dt.datetime(2013, 1, 1, tzinfo=UTC))


def test_a_dataclass_hashes_by_the_fields_that_it_compares():
    assert stable_hash(Point(1, 2, "a")) == stable_hash(Point(1.0, True + 1, "b"))
    assert stable_hash(Point(1, 2)) != stable_hash(Point(2, 1))
    assert stable_hash(Place(1, 2, city="Bern")) != stable_hash(Place(1, 2, city="Rome"))


@dataclass(frozen=True)
class CaseInsensitive:
    name: str

    def __eq__(self, other):
        return self.name.lower() == other.name.lower()

    def __hash__(self):
        return hash(self.name.lower())


def test_a_dataclass_that_compares_in_its_own_way_does_not_hash_by_its_fields():
    a, b = CaseInsensitive("AA"), CaseInsensitive("aa")
    assert a == b
    try:
        assert stable_hash(a) == stable_hash(b)
    except InvalidKeyError:
        pass  # to refuse it is right too


# --- refused ----------------------------------------------------------------------------------------------


@dataclass
class Mutable:
    x: int


@dataclass(frozen=True, eq=False)
class ByIdentity:
    x: int


class Plain:
    pass


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        (float("nan"), "map it to None first"),
        (decimal.Decimal("nan"), "map it to None first"),
        (decimal.Decimal("snan"), "map it to None first"),
        ([1], "use a tuple"),
        ({1}, "use a frozenset"),
        ({1: 2}, "use a tuple of its items"),
        (bytearray(b"x"), "use a tuple of its fields"),
        (Mutable(1), "use a tuple of its fields"),
        (ByIdentity(1), r"stable_hash\.register\(ByIdentity, "),
        (Plain(), r"stable_hash\.register\(Plain, "),
        (object(), r"stable_hash\.register\(object, "),
        (1j, r"stable_hash\.register\(complex, "),
        (dt.time(1), r"stable_hash\.register\(time, "),
        (Point, r"stable_hash\.register\(type, "),
        (("a", [1]), "use a tuple"),
        (("a", float("nan")), "map it to None first"),
        (pandas.NaT, "NaT .* map it to None first"),
        ((1, pandas.NaT), "NaT .* map it to None first"),
        (frozenset({float("nan")}), "map it to None first"),
        (Point(1, float("nan")), "map it to None first"),
    ],
    ids=lambda value: None,
)
def test_what_cannot_be_a_key_is_refused_with_a_cure(key, cure):
    with pytest.raises(InvalidKeyError, match=cure):
        stable_hash(key)


# --- register ---------------------------------------------------------------------------------------------


class Money:
    def __init__(self, cents):
        self.cents = cents


class Coin(Money):
    pass


def test_a_registered_type_and_its_subclasses_are_keys():
    hashing = StableHash()
    with pytest.raises(InvalidKeyError):
        hashing(Money(5))
    hashing.register(Money, lambda money: money.cents)
    assert hashing(Money(5)) == hashing(Coin(5)) != hashing(Money(6))
    assert hashing(("price", Money(5))) == hashing(("price", Coin(5)))


def test_the_nearest_registered_type_decides():
    hashing = StableHash()
    hashing.register(Money, lambda money: money.cents)
    hashing.register(Coin, lambda coin: coin.cents % 10)
    assert hashing(Coin(5)) == hashing(Coin(15))
    assert hashing(Money(5)) != hashing(Money(15))


def test_a_registered_type_may_be_unhashable_and_must_map_to_a_key():
    hashing = StableHash()
    hashing.register(Mutable, lambda mutable: (mutable.x,))
    assert hashing(Mutable(1)) == hashing(Mutable(1))
    hashing.register(Mutable, lambda mutable: [mutable.x])
    with pytest.raises(InvalidKeyError):
        hashing(Mutable(1))


# --- key groups -------------------------------------------------------------------------------------------


@given(st.text(), st.integers(1, 1024))
def test_a_key_group_is_below_the_maximal_parallelism(key, max_parallelism):
    assert 0 <= key_group(key, max_parallelism) < max_parallelism


@given(st.integers(1, 512), st.data())
def test_subtasks_own_contiguous_ranges_of_groups_and_each_owns_one(max_parallelism, data):
    parallelism = data.draw(st.integers(1, max_parallelism))
    owners = [group_to_subtask(group, parallelism, max_parallelism) for group in range(max_parallelism)]
    assert owners == sorted(owners)
    assert set(owners) == set(range(parallelism))
    sizes = collections.Counter(owners).values()
    assert max(sizes) - min(sizes) <= 1
