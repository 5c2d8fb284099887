"""Both sides of a case, in turn, each time in a fresh process; and the ratios of the pairs.

Neighbours in time see the same noise of the machine: the ratio is taken within each pair, and the median of
the ratios is what counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.case import Case, Clock, Figure

__all__ = ["Measured", "Reading", "ResultsDiffer", "Spread", "measure_case"]

_ROOT = Path(__file__).parent.parent


class ResultsDiffer(Exception):
    """The engine and the hand-written loop did not give the same: there is nothing to compare."""


@dataclass(frozen=True)
class Reading:
    """One run of one side.

    `peak_mb` is that of the process, with the interpreter, the engine and the input. (Linux lets a process begin
    with the peak of the one that started it: the parent here holds the engine and no input.) Where the case takes its
    own times, they are those of one operation, see `benchmarks.case.Timed`.
    """

    wall_s: float
    cpu_s: float | None
    peak_mb: float
    per_s: float | None
    p99_s: float | None
    digest: str


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Measured:
    """The rounds of one case. `tenth` is the engine with a tenth of the records, where memory is compared."""

    case: Case
    size: int
    hand: list[Reading] = field(default_factory=list)
    flow: list[Reading] = field(default_factory=list)
    tenth: list[Reading] = field(default_factory=list)

    def ratio(self, clock: Clock) -> Spread | None:
        """Of the pairs, by one clock, as the case's figure says; None if the case has no such time."""
        pairs = [(_seconds(hand, clock), _seconds(flow, clock)) for hand, flow in zip(self.hand, self.flow)]
        known = [(hand, flow) for hand, flow in pairs if hand and flow]
        if not known:
            return None
        speeds = self.case.figure.more_is_better
        return Spread.of([hand / flow if speeds else flow / hand for hand, flow in known])

    def growth(self) -> Spread:
        """Peak memory with all records as a multiple of that with a tenth."""
        return Spread.of([whole.peak_mb / tenth.peak_mb for whole, tenth in zip(self.flow, self.tenth)])

    @property
    def figure(self) -> Spread | None:
        """What the bar is for."""
        return self.growth() if self.case.figure is Figure.GROWTH else self.ratio(self.case.clock)

    @property
    def meets_bar(self) -> bool | None:
        """None if there is no bar."""
        if self.case.most_s is not None:
            return statistics.median(reading.wall_s for reading in self.flow) <= self.case.most_s
        figure, bar = self.figure, self.case.bar
        if figure is None or bar is None:
            return None
        return figure.median >= bar if self.case.figure.more_is_better else figure.median <= bar


def measure_case(case: Case, *, quick: bool, report: Callable[[str], None] = lambda _: None) -> Measured:
    """Run the rounds of a case; `report` is told of each, before it runs. Raises ResultsDiffer."""
    size = case.quick_size if quick else case.size
    measured = Measured(case, size)
    rounds = 1 if quick else case.rounds
    for number in range(rounds):
        report(f"{case.name} {number + 1} of {rounds}")
        if case.same_process:
            both = run_child(case.name, "both", size)
        else:
            both = {**run_child(case.name, "hand", size), **run_child(case.name, "flow", size)}
        hand, flow = both["hand"], both["flow"]
        if hand.digest != flow.digest:
            raise ResultsDiffer(f"benchmark {case.name!r}: the engine's result is not that of the hand-written loop")
        measured.hand.append(hand)
        measured.flow.append(flow)
        if case.figure is Figure.GROWTH:
            measured.tenth.append(run_child(case.name, "flow", size // 10)["flow"])
    return measured


def run_child(name: str, side: str, size: int) -> dict[str, Reading]:
    """Run a side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.child", name, side, str(size)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_ROOT).stdout
    return {side: Reading(**values) for side, values in json.loads(output).items()}


def _seconds(reading: Reading, clock: Clock) -> float | None:
    return reading.wall_s if clock == "wall" else reading.cpu_s
