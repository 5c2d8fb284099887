"""Points in time and durations: how they come in from users, and the ints that the engine computes with.

A timestamp is an int, milliseconds since 1970-01-01T00:00:00Z. It has no time zone and counts no leap seconds (POSIX
time). A duration comes in as a `timedelta`, so that nobody has to guess a unit, and becomes an int of milliseconds.

What is finer than a millisecond is rounded down, also before 1970: a record of 9.9999 s belongs to the window that ends
at 10 s. Only a float is rounded to the microsecond first, as `datetime.fromtimestamp` does: 1700000000.123 s is stored
as the float 1700000000.1229999.
"""

from __future__ import annotations

import operator
import re
import reprlib
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sage_flow.errors import InvalidTimestampError, PipelineError
from sage_flow.plan.location import caller_location

__all__ = [
    "MAX_TIMESTAMP",
    "MIN_TIMESTAMP",
    "checked_duration",
    "checked_timestamp",
    "duration_text",
    "to_timestamp",
    "utc_datetime",
]

MAX_TIMESTAMP: int = 2**62 - 1
"""The largest timestamp: half of what 64 bits hold, so that the end of a window, or a difference, fits into 64 bits."""
MIN_TIMESTAMP: int = -MAX_TIMESTAMP
"""The smallest timestamp."""

Unit = Literal["s", "ms", "us", "ns"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_EPOCH_DAY = _EPOCH.toordinal()
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 120
_show = _shown.repr

_ISO_8601 = re.compile(
    r"""\s*
    (?P<year>\d{4}) (?: -(?P<month>\d\d)-(?P<day>\d\d) | (?P<month2>\d\d)(?P<day2>\d\d) )
    (?: [Tt ] (?P<hour>\d\d) (?: :?(?P<minute>\d\d) (?: :?(?P<second>\d\d) (?: [.,](?P<fraction>\d+) )? )? )?
        (?P<offset> [Zz] | (?P<sign>[+-])(?P<hours>\d\d)(?: :?(?P<minutes>\d\d)(?: :?(?P<seconds>\d\d) )? )? )?
    )? \s*""",
    re.VERBOSE | re.ASCII,
)


# --- from what users have ------------------------------------------------------------------------------------


def to_timestamp(
    value: str | int | float | datetime,
    *,
    unit: Unit | None = None,
    tz: str | tzinfo | None = None,
    format: str | None = None,
) -> int:
    """Return the milliseconds since 1970-01-01T00:00:00Z of a text, a number or a datetime.

    * A text in ISO 8601: `2024-03-10T09:30:00.5Z`, with any offset instead of `Z`, a space instead of `T`, a date
      alone (midnight), or without `-` and `:`. In another form with `format`, which `datetime.strptime` reads.
    * A number needs `unit`, what it counts since 1970: "s", "ms", "us" or "ns". So does a number in a text, as in a
      CSV file.
    * A datetime.

    What is finer than a millisecond is rounded down.

    `tz` says what a time without an offset means, by name ("Europe/Paris", "UTC") or as a `tzinfo`. A time with an
    offset means the same with any `tz`. When clocks are set back, an hour comes twice: a text means the first one, a
    datetime says it by its `fold`. When they are set forward, an hour is left out: its times count from before the
    change, so 02:30 is 03:30. `datetime` with `zoneinfo` and `java.time` do the same.

    >>> to_timestamp("2024-03-10T09:30:00Z")
    1710063000000
    >>> to_timestamp("2024-03-10 09:30", tz="America/New_York")
    1710077400000
    >>> to_timestamp("10/Mar/2024:09:30:00 +0100", format="%d/%b/%Y:%H:%M:%S %z")
    1710059400000
    >>> to_timestamp(1710063000, unit="s")
    1710063000000
    >>> to_timestamp("2024-03-10 09:30")
    Traceback (most recent call last):
    sage_flow.errors.InvalidTimestampError: '2024-03-10 09:30' has no offset: say where it was \
measured, such as tz="UTC" or tz="Europe/Paris"

    Raises:
        InvalidTimestampError: the value cannot be read, lacks a `unit` or a `tz`, or is out of range.
    """
    if unit is not None and unit not in _PER_SECOND:
        raise InvalidTimestampError(f'unit must be "s", "ms", "us" or "ns", not {unit!r}')
    if isinstance(value, str):
        if format is not None:
            _refuse_unit(value, "is read by format", unit)
            return _of_datetime(_parsed(value, format), tz, value)
        if unit is None:
            return _of_iso_8601(value, tz)
    elif format is not None:
        raise InvalidTimestampError(f"{_show(value)} is no text, so format={format!r} does not apply: leave it out")
    if isinstance(value, datetime):
        _refuse_unit(value, "is a datetime", unit)
        return _of_datetime(value, tz, value)
    return _of_number(value, unit, tz)


def checked_timestamp(value: Any) -> int:
    """Return what a user's function gave as a timestamp: an int, or an aware datetime, whose milliseconds it returns.

    Ints of numpy become Python's.

    Raises:
        InvalidTimestampError: it is neither, or out of range; says how to write it.
    """
    if type(value) is int:
        return value if MIN_TIMESTAMP <= value <= MAX_TIMESTAMP else _in_range(value, value)
    if isinstance(value, datetime):
        return _of_datetime(value, None, value)
    if type(value).__name__ not in ("bool", "bool_"):  # also those of numpy, which have been an index until numpy 2.3
        try:
            return _in_range(operator.index(value), value)
        except TypeError:
            pass  # no int of any kind: it is explained below
    raise InvalidTimestampError(
        "a timestamp must be an int, in ms since 1970, or an aware datetime, not the"
        f" {type(value).__name__} {_show(value)}: {_cure(value)}"
    )


def _cure(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "return the time of the record"
    if isinstance(value, str):
        return "write sage_flow.to_timestamp(text)"
    if isinstance(value, (Real, Decimal)):
        return 'write sage_flow.to_timestamp(number, unit="s"), or unit="ms"'
    return "convert it"


# --- durations -----------------------------------------------------------------------------------------------


def checked_duration(value: Any, what: str, *, positive: bool = True, negative: bool = False) -> int:
    """Return the milliseconds of the `timedelta` that a user gave as `what`.

    positive: whether 0 is refused.
    negative: whether a duration below 0 is allowed, as for an offset; it makes `positive` False.

    Raises:
        PipelineError: it is no timedelta, not of whole milliseconds, or has the wrong sign.
    """
    if not isinstance(value, timedelta) or value != value:  # NaT of pandas is a timedelta that equals nothing
        cure = "timedelta(seconds=10)"
        if isinstance(value, Real) and not isinstance(value, bool):
            cure = f"timedelta(seconds={value}) or timedelta(milliseconds={value})"
        raise PipelineError(f"{what} must be a timedelta, not {value!r}: write {cure} ({caller_location()})")
    if value % _MILLISECOND:
        raise PipelineError(f"{what} must be whole milliseconds, not {value} ({caller_location()})")
    milliseconds = value // _MILLISECOND
    if negative:
        return milliseconds
    if positive and milliseconds <= 0:
        raise PipelineError(f"{what} must be longer than 0, not {duration_text(milliseconds)} ({caller_location()})")
    if milliseconds < 0:
        raise PipelineError(f"{what} must not be negative, and is {duration_text(milliseconds)} ({caller_location()})")
    return milliseconds


def duration_text(milliseconds: int) -> str:
    """Return a duration as messages and reprs show it.

    >>> duration_text(5_400_000), duration_text(1_500), duration_text(0)
    ('1 h 30 min', '1 s 500 ms', '0 s')
    """
    sign, rest, parts = "-" if milliseconds < 0 else "", abs(milliseconds), []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count} {unit}")
    return sign + (" ".join(parts) or "0 s")


def utc_datetime(timestamp: int) -> datetime:
    """Return the aware datetime, in UTC, of a timestamp.

    >>> utc_datetime(-1)
    datetime.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=datetime.timezone.utc)

    Raises:
        InvalidTimestampError: it lies outside the years 1 to 9999, which is all that a datetime can express.
    """
    try:
        return _EPOCH + timedelta(milliseconds=timestamp)
    except OverflowError:
        raise InvalidTimestampError(
            f"timestamp {timestamp} lies outside the years 1 to 9999, so no datetime can express it: use the int"
        ) from None


# --- numbers -------------------------------------------------------------------------------------------------


def _of_number(value: Any, unit: Unit | None, tz: object) -> int:
    if not isinstance(value, (str, Real, Decimal)) or isinstance(value, bool):
        raise InvalidTimestampError(
            f"a timestamp is made from a text, a number or a datetime, not from the {type(value).__name__}"
            f" {_show(value)}"
        )
    if unit is None:
        raise InvalidTimestampError(
            f'{_show(value)} could be seconds or milliseconds: say which by unit="s" or unit="ms"'
        )
    if tz is not None:
        raise InvalidTimestampError(
            f"{_show(value)} counts from 1970 in UTC, so tz={tz!r} does not apply: leave it out"
        )
    try:
        exact = _exact(value)
    except (ArithmeticError, TypeError, ValueError):
        raise InvalidTimestampError(
            f"{_show(value)} is no number of {unit!r} that a timestamp can be made of"
        ) from None
    microseconds = exact * 1_000_000 / _PER_SECOND[unit]
    if not isinstance(value, (str, Rational, Decimal)):
        microseconds = Fraction(round(microseconds))
    return _in_range(microseconds // 1_000, value)


def _exact(value: Any) -> Fraction:
    if isinstance(value, Integral):
        return Fraction(operator.index(value))
    if isinstance(value, str):
        value = Decimal(value.strip())  # a Fraction would also read "1/3"
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) > 40:
        raise OverflowError  # as a Fraction, 1e999999999 needs more memory than there is
    return Fraction(value if isinstance(value, (Rational, Decimal)) else float(value))


# --- texts and datetimes -------------------------------------------------------------------------------------


def _of_iso_8601(text: str, tz: str | tzinfo | None) -> int:
    match = _ISO_8601.fullmatch(text)
    if match is None:
        raise InvalidTimestampError(
            f"{_show(text)} is no time in ISO 8601, such as 2024-03-10T09:30:00Z: give its format= for"
            " datetime.strptime or, if it is a number, its unit="
        )
    part = match.groupdict(default="0")
    try:
        moment = datetime(
            int(part["year"]),
            int(match["month"] or match["month2"]),
            int(match["day"] or match["day2"]),
            int(part["hour"]),
            int(part["minute"]),
            int(part["second"]),
            int(part["fraction"][:6].ljust(6, "0")),
        )
    except ValueError as error:
        raise InvalidTimestampError(f"{_show(text)} is no time: {error}") from None
    if match["offset"] is None:
        return _of_datetime(moment, tz, text)
    hours, minutes, seconds = int(part["hours"]), int(part["minutes"]), int(part["seconds"])
    if hours > 23 or minutes > 59 or seconds > 59:
        raise InvalidTimestampError(f"{_show(text)} is no time: its offset is not below 24 hours")
    offset_s = (hours * 60 + minutes) * 60 + seconds
    return (_microseconds(moment) - (-offset_s if match["sign"] == "-" else offset_s) * 1_000_000) // 1_000


def _parsed(text: str, format: str) -> datetime:
    try:
        return datetime.strptime(text, format)
    except ValueError as error:
        raise InvalidTimestampError(f"{_show(text)} does not fit format={format!r}: {error}") from None


def _of_datetime(moment: datetime, tz: str | tzinfo | None, given: object) -> int:
    if moment != moment:  # NaT of pandas
        raise InvalidTimestampError("NaT is no time: filter such records out first")
    offset = moment.utcoffset()
    if offset is None:
        if tz is None:
            raise InvalidTimestampError(_without_offset(given))
        offset = _offset(moment, _zone(tz))
    return (_microseconds(moment) - offset // _MICROSECOND) // 1_000


def _offset(local: datetime, zone: tzinfo) -> timedelta:
    date, clock = local.date(), local.time()
    offset = datetime.combine(date, clock, zone).utcoffset()  # a Timestamp of pandas would raise in a gap
    if offset is None:
        raise InvalidTimestampError(f"tz={zone!r} knows no offset for {local}: give another tzinfo")
    return offset


def _without_offset(given: object) -> str:
    if isinstance(given, str):
        return f'{_show(given)} has no offset: say where it was measured, such as tz="UTC" or tz="Europe/Paris"'
    return (
        f"{_show(given)} has no time zone: write sage_flow.to_timestamp(value, tz=...) with the zone in which it was"
        ' measured, such as "UTC" or "Europe/Paris"'
    )


def _zone(tz: str | tzinfo) -> tzinfo:
    if isinstance(tz, str):
        if tz == "UTC":  # also where no time zones are installed
            return timezone.utc
        try:
            return ZoneInfo(tz)
        except (KeyError, ValueError, OSError):  # OSError: the name of a folder, such as "America"
            raise InvalidTimestampError(
                f"tz={tz!r} is no time zone that is known here: names are such as Europe/Paris; a machine without any"
                " gets them by `pip install tzdata`"
            ) from None
    if not isinstance(tz, tzinfo):
        raise InvalidTimestampError(f'tz must be a name such as "Europe/Paris" or a tzinfo, not {tz!r}')
    if hasattr(tz, "localize") and tz.utcoffset(None) is None:
        # A zone of pytz has the offset of the 19th century, unless its own localize() chooses another.
        raise InvalidTimestampError(f"tz={tz!r} of pytz gives wrong offsets: give its name, tz={str(tz)!r}")
    return tz


def _microseconds(moment: datetime) -> int:
    """Since 1970, by its fields alone, as if they were in UTC."""
    minutes = ((moment.toordinal() - _EPOCH_DAY) * 24 + moment.hour) * 60 + moment.minute
    return (minutes * 60 + moment.second) * 1_000_000 + moment.microsecond


def _in_range(timestamp: int, given: object) -> int:
    if MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP:
        return timestamp
    raise InvalidTimestampError(
        f"timestamp {_show(given)} is out of range, {MIN_TIMESTAMP} to {MAX_TIMESTAMP} ms: if it does not count"
        " milliseconds, write sage_flow.to_timestamp(value, unit=...)"
    )


def _refuse_unit(value: object, what: str, unit: str | None) -> None:
    if unit is not None:
        raise InvalidTimestampError(f"{_show(value)} {what}, so unit={unit!r} does not apply: leave it out")
