"""How long a job on Ray takes from the death of an actor to its first new output.

python -m benchmarks.recovery                       five deaths of a job of 13 actors, and the baseline
python -m benchmarks.recovery --rounds 3 --write    three, into the table of benchmarks/README.md

What checkpoints cost while nobody dies is printed behind it (`benchmarks/checkpoints.py`).

The job reads four sources, counts by key in four subtasks, maps in four and writes its rows in one; each is an actor of
its own. It makes a checkpoint each second. One of the counting actors is killed with SIGKILL, again and again in the
same job. Every function notes in a file, with the clock that all processes of a machine share, when it is closed: the
first such note tells that the job knows of the death. The last one notes its rows: the first row of the new attempt is
the new output. The baseline makes all actors anew, as a job does whose master has died.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import checkpoints
from benchmarks.ray_cluster import start_ray, wait_until
from benchmarks.table import replaced
from sage_flow import FixedDelay, Function, RemoteEnvironment, RuntimeContext, Sink, SplitReader, SplitSource
from sage_flow.executors.ray.client import RayExecutor
from sage_flow.executors.ray.records import JobOptions
from sage_flow.functions import SourceSignal

__all__ = ["Recovery", "main", "recoveries", "row", "table"]

ACTORS = 13
BAR_S = 2.0
BEGIN, END = "<!-- recovery: begin -->", "<!-- recovery: end -->"
_PAGE = Path(__file__).with_name("README.md")
_WAYS = 4
_SETTLED_S = 12.0  # between two deaths: some checkpoints, and a new spare
_TICK_S = 0.01


class Recovery(NamedTuple):
    """Seconds from the kill to its detection, and to the first new output."""

    detected_s: float
    output_s: float


class Notes:
    """Lines of a file to which all processes append: what happened in which attempt, and when."""

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, what: str, attempt: int) -> None:
        line = f"{what} {attempt} {time.monotonic()}\n"
        with open(self._path, "a") as file:
            file.write(line)

    def first(self, what: str, attempt: int, after: float) -> float | None:
        """Return when the first such note was made after a time, None if there is none."""
        for line in Path(self._path).read_text().splitlines():
            kind, number, when = line.split()
            if kind == what and int(number) == attempt and float(when) > after:
                return float(when)
        return None


class Noting(Function):
    """Passes a record on, and notes when it is closed."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def open(self, ctx: RuntimeContext[Any]) -> None:
        self._attempt = ctx.attempt

    def __call__(self, value: Any) -> Any:
        return value

    def close(self) -> None:
        self._notes.add("closed", self._attempt)


class NotingSink(Sink[Any]):
    """Notes the first rows of each attempt."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._written = 0

    def open(self, ctx: RuntimeContext[Any]) -> None:
        self._attempt = ctx.attempt

    def write(self, value: Any) -> None:
        self._written += 1
        if self._written == 1:
            self._notes.add("row", self._attempt)


class _Reader(SplitReader[int]):
    def __init__(self, position: int) -> None:
        self._next = position

    def next_batch(self) -> list[int] | SourceSignal:
        time.sleep(_TICK_S)
        batch = list(range(self._next, self._next + 10))
        self._next += 10
        return batch

    def position(self) -> int:
        return self._next


class Counting(SplitSource[int]):
    """Gives numbers without end, some in each hundredth of a second."""

    bounded = False

    def splits(self) -> list[str]:
        return [f"part-{n}" for n in range(_WAYS)]

    def reader(self, split: str, position: int | None) -> _Reader:
        return _Reader(position or 0)


def recoveries(rounds: int, options: JobOptions, settled_s: float = _SETTLED_S) -> list[Recovery]:
    """Kill an actor of one job `rounds` times."""
    start_ray()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        notes = Notes(os.path.join(folder, "notes"))
        Path(folder, "notes").touch()
        restart = FixedDelay(rounds, 0.0)
        env = RemoteEnvironment("recovery", restart=restart, executor=RayExecutor(options=options))
        env.enable_checkpointing(os.path.join(folder, "checkpoints"), interval=timedelta(seconds=1))
        numbers = env.from_source(Counting, parallelism=_WAYS)
        counts = numbers.key_by(lambda n: n % 1000).count(parallelism=_WAYS, name="counts")
        mapped = counts.rebalance().map(Noting(notes), parallelism=_WAYS, name="mapped")
        mapped.rebalance().add_sink(NotingSink(notes), parallelism=1)
        with env.submit() as job:
            found = [_recovery(job, notes, attempt, settled_s) for attempt in range(1, rounds + 1)]
            job.cancel()
    return found


def _recovery(job: Any, notes: Notes, attempt: int, settled_s: float) -> Recovery:
    wait_until(lambda: notes.first("row", attempt, 0.0), 120.0)
    time.sleep(settled_s)
    subtasks = job.subtasks()
    if (actors := len({subtask.pid for subtask in subtasks})) != ACTORS:
        raise RuntimeError(f"the job has {actors} actors, not {ACTORS}")
    victim = next(subtask.pid for subtask in subtasks if "counts" in subtask.name)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: notes.first("row", attempt + 1, killed), 120.0)
    detected, output = notes.first("closed", attempt, killed), notes.first("row", attempt + 1, killed)
    if detected is None or output is None:
        raise RuntimeError("the job restarted without closing its functions")
    return Recovery(detected - killed, output - killed)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table. See the text of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery")
    parser.add_argument("--rounds", type=int, default=5, help="deaths of each job")
    parser.add_argument("--write", action="store_true", help=f"into {_PAGE.name}")
    parser.add_argument("--only", choices=["kept", "new", "costs"], help="leave the others out")
    arguments = parser.parse_args(argv)
    options = JobOptions()
    found: dict[str, tuple[list[Recovery], float | None]] = {}
    if arguments.only in (None, "kept"):
        found["actors kept, one spare"] = recoveries(arguments.rounds, options), BAR_S
    if arguments.only in (None, "new"):
        found["all actors anew"] = recoveries(arguments.rounds, replace(options, keeps_actors=False)), None
    tables = [table([row(what, measured, bar_s) for what, (measured, bar_s) in found.items()])] if found else []
    if arguments.only in (None, "costs"):
        tables.append(checkpoints.table(arguments.rounds))
    told = "\n\n".join(tables)
    print(told)
    if arguments.write:
        page = replaced(_PAGE.read_text(encoding="utf-8"), f"{told}\n", BEGIN, END)
        _PAGE.write_text(page, encoding="utf-8")


def row(what: str, found: Sequence[Recovery], bar_s: float | None) -> str:
    """Return a line of the table. A `bar_s` is met by the median of the times until the first new output."""
    output = [one.output_s for one in found]
    bar = ""
    if bar_s is not None:
        bar = f"≤ {bar_s:g} s: {'met' if statistics.median(output) <= bar_s else 'missed'}"
    return f"| {what} | {len(found)} | {_spread([one.detected_s for one in found])} | {_spread(output)} | {bar} |"


def table(rows: Sequence[str]) -> str:
    """Return the rows under their heading."""
    head = "| job of 13 actors on one machine | deaths | until detected | until the first new output | bar |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _spread(values: list[float]) -> str:
    return f"**{statistics.median(values):.2f} s** ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    main()
