"""Timestamps and durations: what users give, and the milliseconds that it means."""

import pickle
import sys
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import MAX_TIMESTAMP, MIN_TIMESTAMP, to_timestamp
from sage_flow.errors import InvalidTimestampError, PipelineError
from sage_flow.timestamps import checked_duration, checked_timestamp, duration_text, utc_datetime

UTC = timezone.utc
NOON = 1_710_072_000_000  # 2024-03-10T12:00:00Z
NEW_YORK = "America/New_York"


def refused(text):
    return pytest.raises(InvalidTimestampError, match=text)


# --- texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-10T12:00:00Z", NOON),
        ("2024-03-10 12:00:00z", NOON),
        ("2024-03-10t12:00:00Z", NOON),
        ("2024-03-10T12:00Z", NOON),
        ("2024-03-10T12Z", NOON),
        ("20240310T120000Z", NOON),
        ("20240310T1200+0000", NOON),
        ("2024-03-10T12:00:00+00", NOON),
        ("2024-03-10T12:00:00-00:00", NOON),
        ("2024-03-10T17:30:00+05:30", NOON),
        ("2024-03-10T07:00:00-0500", NOON),
        ("2024-03-10T12:00:30+00:00:30", NOON),
        (" 2024-03-10T12:00:00Z\n", NOON),
        ("2024-03-10T12:00:00.5Z", NOON + 500),
        ("2024-03-10T12:00:00,25Z", NOON + 250),
        ("2024-03-10T12:00:00.123456789Z", NOON + 123),
        ("2024-03-10T12:00:00.9999999Z", NOON + 999),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("0001-01-01T00:00:00+23:59", -62_135_596_800_000 - 86_340_000),
        ("9999-12-31T23:59:59.999-23:59", 253_402_300_799_999 + 86_340_000),
    ],
)
def test_a_text_in_iso_8601_is_read_in_every_of_its_forms(text, expected):
    assert to_timestamp(text) == expected


OFFSETS = st.integers(-1_439, 1_439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=st.timezones() | OFFSETS), st.sampled_from("T "))
def test_what_isoformat_writes_is_read(moment, separator):
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert to_timestamp(moment.isoformat(separator)) == to_timestamp(moment) == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads Z since Python 3.11")
@given(st.from_regex(r"\A20\d\d-[01]\d-[0123]\d[T ][012]\d:[0-5]\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-][01]\d:[0-5]\d)\Z"))
def test_it_reads_what_the_newer_pythons_read(text):
    try:
        expected = datetime.fromisoformat(text)
    except ValueError:
        with refused("is no time"):
            to_timestamp(text)
    else:
        assert to_timestamp(text) == (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "'' is no time in ISO 8601, such as 2024-03-10T09:30:00Z: give its format="),
        ("yesterday", "'yesterday' is no time in ISO 8601"),
        ("1710072000000", "if it is a number, its unit="),
        ("10/03/2024", "is no time in ISO 8601"),
        ("2024-W10-7", "is no time in ISO 8601"),
        ("2024-03-1012:00Z", "is no time in ISO 8601"),
        ("2024-0310", "is no time in ISO 8601"),
        ("2024-02-30T12:00Z", "'2024-02-30T12:00Z' is no time: day"),
        ("2024-02-28T25:00Z", "is no time: hour"),
        ("2024-02-28T12:00:60Z", "is no time: second"),
        ("2024-02-28T12:00:00+24:00", "its offset is not below 24 hours"),
        ("2024-02-28T12:00:00+01:60", "its offset is not below 24 hours"),
        ("2024-02-28T12:00", 'has no offset: say where it was measured, such as tz="UTC"'),
        ("٢٠٢٤-03-10T12:00:00Z", "is no time in ISO 8601"),
    ],
)
def test_another_text_is_refused_with_the_text_and_the_cure(text, match):
    with refused(match):
        to_timestamp(text)


def test_a_long_text_is_not_repeated_in_full():
    with pytest.raises(InvalidTimestampError) as caught:
        to_timestamp("x" * 100_000)
    assert len(str(caught.value)) < 400


def test_a_format_reads_other_texts():
    assert to_timestamp("10/Mar/2024:13:00:00 +0100", format="%d/%b/%Y:%H:%M:%S %z") == NOON
    assert to_timestamp("10.03.2024 08:00", format="%d.%m.%Y %H:%M", tz=NEW_YORK) == NOON
    with refused("'10.03.2024' has no offset"):
        to_timestamp("10.03.2024", format="%d.%m.%Y")
    with refused("'10.03.24' does not fit format='%d.%m.%Y': time data"):
        to_timestamp("10.03.24", format="%d.%m.%Y", tz="UTC")


# --- time zones -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tz", [NEW_YORK, ZoneInfo(NEW_YORK), timezone(timedelta(hours=-4))], ids=str)
@pytest.mark.parametrize("value", ["2024-03-10T08:00:00", datetime(2024, 3, 10, 8)], ids=str)
def test_a_local_time_is_of_the_zone_that_tz_says(value, tz):
    assert to_timestamp(value, tz=tz) == NOON


@pytest.mark.parametrize("value", ["2024-03-10T12:00:00Z", datetime(2024, 3, 10, 12, tzinfo=UTC)], ids=str)
def test_a_time_with_an_offset_means_the_same_with_any_tz(value):
    assert to_timestamp(value, tz=NEW_YORK) == to_timestamp(value) == NOON


def test_an_hour_that_comes_twice_is_the_first_one_unless_fold_says_otherwise():
    first = to_timestamp("2024-11-03T01:30:00-04:00")
    assert to_timestamp("2024-11-03T01:30:00", tz=NEW_YORK) == first
    assert to_timestamp(datetime(2024, 11, 3, 1, 30), tz=NEW_YORK) == first
    assert to_timestamp(datetime(2024, 11, 3, 1, 30, fold=1), tz=NEW_YORK) == first + 3_600_000
    assert to_timestamp(datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=ZoneInfo(NEW_YORK))) == first + 3_600_000


def test_an_hour_that_is_left_out_counts_from_before_the_change():
    assert to_timestamp("2024-03-10T02:30:00", tz=NEW_YORK) == to_timestamp("2024-03-10T03:30:00", tz=NEW_YORK)
    assert to_timestamp(pandas.Timestamp("2024-03-10T02:30:00"), tz=NEW_YORK) == to_timestamp("2024-03-10T07:30:00Z")


def test_midnight_is_meant_by_a_date_alone():
    assert to_timestamp("2024-03-10", tz="UTC") == NOON - 12 * 3_600_000
    assert to_timestamp("20240310", tz="UTC") == NOON - 12 * 3_600_000


def test_utc_is_known_on_a_machine_without_time_zones(monkeypatch):
    monkeypatch.setattr("sage_flow.timestamps.ZoneInfo", None)
    assert to_timestamp("2024-03-10T12:00:00", tz="UTC") == NOON


@pytest.mark.parametrize("tz", ["Amerika/New_York", "America", "", "../etc/passwd", "/etc/localtime", "a\0b"])
def test_an_unknown_time_zone_is_refused(tz):
    with refused("is no time zone that is known here: names are such as Europe/Paris"):
        to_timestamp("2024-03-10T12:00:00", tz=tz)


class Timeless(tzinfo):
    def utcoffset(self, moment):
        return None


class OfPytz(tzinfo):
    """As a zone of pytz, which knows its offset only after localize()."""

    def utcoffset(self, moment):
        return None if moment is None else timedelta(minutes=-297)

    def localize(self, moment):
        raise NotImplementedError

    def __str__(self):
        return NEW_YORK


def test_a_tz_that_says_nothing_or_the_wrong_thing_is_refused():
    with refused("tz must be a name such as .* or a tzinfo, not 5"):
        to_timestamp("2024-03-10", tz=5)
    with refused("knows no offset for 2024-03-10"):
        to_timestamp("2024-03-10", tz=Timeless())
    with refused("of pytz gives wrong offsets: give its name, tz='America/New_York'"):
        to_timestamp("2024-03-10", tz=OfPytz())


# --- numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_710_072_000, "s", NOON),
        (NOON, "ms", NOON),
        (NOON * 1_000 + 999, "us", NOON),
        (NOON * 1_000_000 + 999_999, "ns", NOON),
        (-1, "us", -1),
        (0.0, "s", 0),
        (1_700_000_000.123, "s", 1_700_000_000_123),  # stored as ...122.99995
        (1_700_000_000_123.7, "ms", 1_700_000_000_123),
        (-0.0015, "s", -2),
        (1_700_000_000.9999, "s", 1_700_000_000_999),
        (Decimal("1700000000.1239"), "s", 1_700_000_000_123),
        (Fraction(-1, 3), "ms", -1),
        (numpy.int32(1_710_072_000), "s", NOON),
        (numpy.int64(NOON), "ms", NOON),
        (numpy.float64(1_700_000_000.123), "s", 1_700_000_000_123),
        ("1710072000", "s", NOON),
        (" 1700000000.123 ", "s", 1_700_000_000_123),
        ("1.7e9", "s", 1_700_000_000_000),
    ],
)
def test_a_number_counts_the_unit_since_1970(value, unit, expected):
    result = to_timestamp(value, unit=unit)
    assert result == expected
    assert type(result) is int


@given(st.floats(-6e10, 2e11))
def test_a_float_of_seconds_is_read_as_datetime_reads_it(seconds):
    assert to_timestamp(seconds, unit="s") == to_timestamp(
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(Fraction(seconds) * 1_000_000))
    )


@pytest.mark.parametrize(
    ("value", "options", "match"),
    [
        (1_710_072_000, {}, '1710072000 could be seconds or milliseconds: say which by unit="s" or unit="ms"'),
        (1, {"unit": "h"}, "unit must be .* not 'h'"),
        (1, {"unit": "s", "tz": "UTC"}, "1 counts from 1970 in UTC, so tz='UTC' does not apply"),
        (1, {"unit": "s", "format": "%Y"}, "1 is no text, so format='%Y' does not apply"),
        (datetime(2024, 3, 10, tzinfo=UTC), {"unit": "s"}, "is a datetime, so unit='s' does not apply"),
        ("2024", {"unit": "s", "format": "%Y"}, "'2024' is read by format, so unit='s' does not apply"),
        ("2024-03-10", {"unit": "s"}, "'2024-03-10' is no number of 's'"),
        ("1/3", {"unit": "s"}, "'1/3' is no number of 's'"),
        (float("nan"), {"unit": "s"}, "nan is no number"),
        (float("-inf"), {"unit": "s"}, "-inf is no number"),
        (Decimal("sNaN"), {"unit": "s"}, "is no number"),
        ("nan", {"unit": "s"}, "'nan' is no number"),
        ("1e999999999", {"unit": "s"}, "is no number"),
        (1e300, {"unit": "s"}, "is out of range"),
        (2**62, {"unit": "ms"}, "is out of range"),
        (numpy.timedelta64(5, "s"), {"unit": "s"}, "is no number"),
        (True, {"unit": "s"}, "not from the bool True"),
        (None, {}, "not from the NoneType None"),
        (date(2024, 3, 10), {"tz": "UTC"}, "not from the date"),
        (1j, {"unit": "s"}, "not from the complex 1j"),
        (pandas.NaT, {"tz": "UTC"}, "NaT is no time"),
        (datetime(2024, 3, 10), {}, "has no time zone: write sage_flow.to_timestamp\\(value, tz=...\\)"),
    ],
)
def test_what_is_ambiguous_or_no_time_is_refused(value, options, match):
    with refused(match):
        to_timestamp(value, **options)


# --- what a timestamp function may return -----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        numpy.int64(NOON),
        datetime(2024, 3, 10, 12, tzinfo=UTC),
        datetime(2024, 3, 10, 12, 0, 0, 999, tzinfo=UTC),
        datetime(2024, 3, 10, 8, tzinfo=ZoneInfo(NEW_YORK)),
        pandas.Timestamp("2024-03-10T12:00:00Z"),
    ],
    ids=repr,
)
def test_ints_and_aware_datetimes_are_timestamps(value):
    assert checked_timestamp(value) == NOON
    assert type(checked_timestamp(value)) is int


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (datetime(2024, 3, 10), "has no time zone: write sage_flow.to_timestamp\\(value, tz=...\\)"),
        (1.5, 'not the float 1.5: write sage_flow.to_timestamp\\(number, unit="s"\\)'),
        (numpy.float32(1.5), "not the float32 .*1.5.*unit="),
        (Decimal(1), "not the Decimal .*unit="),
        (True, "not the bool True: return the time of the record"),
        (numpy.bool_(True), "not the bool"),
        (None, "not the NoneType None: return the time of the record"),
        ("2024", "not the str '2024': write sage_flow.to_timestamp\\(text\\)"),
        (date(2024, 3, 10), "not the date"),
        (numpy.datetime64("2024-03-10"), "not the datetime64"),
        (pandas.NaT, "NaT is no time"),
        (MAX_TIMESTAMP + 1, "4611686018427387904 is out of range.*unit="),
        (MIN_TIMESTAMP - 1, "-4611686018427387904 is out of range"),
        (numpy.int64(2**63 - 1), "is out of range"),
    ],
)
def test_anything_else_is_refused_with_the_value_and_the_cure(value, match):
    with refused(match):
        checked_timestamp(value)


def test_the_range_leaves_room_in_64_bits_for_the_end_of_any_window():
    assert checked_timestamp(MAX_TIMESTAMP) == MAX_TIMESTAMP
    assert checked_timestamp(MIN_TIMESTAMP) == MIN_TIMESTAMP
    longest = checked_duration(timedelta.max - timedelta(microseconds=999), "size")
    assert MAX_TIMESTAMP + 3 * longest < 2**63
    assert MIN_TIMESTAMP - 3 * longest >= -(2**63)
    assert MAX_TIMESTAMP - MIN_TIMESTAMP < 2**63


def test_the_error_is_a_value_error_and_travels():
    with pytest.raises(ValueError, match="float") as caught:
        checked_timestamp(1.5)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (InvalidTimestampError, str(caught.value))


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_datetime_shows_each_timestamp_of_its_range(timestamp):
    assert checked_timestamp(utc_datetime(timestamp)) == timestamp


@pytest.mark.parametrize("timestamp", [-62_135_596_800_001, 253_402_300_800_000, MIN_TIMESTAMP, MAX_TIMESTAMP])
def test_a_timestamp_that_no_datetime_can_express_says_so(timestamp):
    with refused(f"timestamp {timestamp} lies outside the years 1 to 9999"):
        utc_datetime(timestamp)


# --- durations --------------------------------------------------------------------------------------------


def test_a_duration_is_a_timedelta():
    assert checked_duration(timedelta(seconds=1.5), "size") == 1_500
    assert checked_duration(pandas.Timedelta("1s"), "size") == 1_000


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (10, r"size must be a timedelta, not 10: write timedelta\(seconds=10\) or timedelta\(milliseconds=10\)"),
        (0.5, r"not 0.5: write timedelta\(seconds=0.5\) or timedelta\(milliseconds=0.5\)"),
        ("10s", r"size must be a timedelta, not '10s': write timedelta\(seconds=10\)"),
        (True, r"not True: write timedelta\(seconds=10\)"),
        (None, "not None: write"),
        (pandas.NaT, "not NaT: write"),
        (timedelta(microseconds=1_500), "size must be whole milliseconds, not 0:00:00.001500"),
        (timedelta(0), "size must be longer than 0, not 0 s"),
        (timedelta(seconds=-1), "size must be longer than 0, not -1 s"),
    ],
)
def test_another_duration_is_refused_with_the_cure_and_the_line(value, match):
    with pytest.raises(PipelineError, match=match) as caught:
        checked_duration(value, "size")
    assert "test_timestamps.py:" in str(caught.value)


def test_a_duration_may_be_zero_or_negative_only_where_that_means_something():
    assert checked_duration(timedelta(0), "allowed_lateness", positive=False) == 0
    with pytest.raises(PipelineError, match="allowed_lateness must not be negative, and is -1 s"):
        checked_duration(timedelta(seconds=-1), "allowed_lateness", positive=False)
    assert checked_duration(timedelta(seconds=-1), "offset", negative=True) == -1_000
    assert checked_duration(timedelta(0), "offset", negative=True) == 0


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 s"), (1, "1 ms"), (1_000, "1 s"), (90_000, "1 min 30 s"), (90_061_001, "1 d 1 h 1 min 1 s 1 ms")],
)
def test_a_duration_is_shown_in_its_units(milliseconds, text):
    assert duration_text(milliseconds) == text
    assert duration_text(-milliseconds) == (f"-{text}" if milliseconds else text)
