"""How many events of the auction stream each Nexmark query takes in a second of CPU time, without the generator.

python -m benchmarks.nexmark                             every query, in this process
python -m benchmarks.nexmark --events 500000 q5 q8       some
python -m benchmarks.nexmark --ray                       also on a Ray of one node, with 1 and 2 subtasks each

In one process the events are made before the clock starts, and the rows go to a function that drops them. On Ray each
subtask of the source makes its share in `open`. The clock starts when all have, and stops when all sinks are closed. It
counts the CPU time of all processes of the job, in steps of 10 ms: so many events make it exact.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ray_cluster import ProcessClock, start_ray, wait_until
from sage_flow import END, IDLE, DataStream, LocalEnvironment, RemoteEnvironment, RuntimeContext, Sink, Source
from sage_flow.functions import SourceSignal

_JOBS = str(Path(__file__).parents[1] / "jobs")
if _JOBS not in sys.path:
    sys.path.append(_JOBS)  # as `sage-flow run` does

from nexmark.generator import EventGenerator  # noqa: E402 - it is found from here on
from nexmark.job import timed  # noqa: E402
from nexmark.model import COLUMNS, Event  # noqa: E402

__all__ = ["in_this_process", "main", "on_ray"]

_BATCH = 1024
_GENERATOR = EventGenerator(seed=1)


def in_this_process(query: str, events: list[Event]) -> float:
    """Run a query in one thread; return its CPU seconds."""
    env = LocalEnvironment(query)
    _rows(query, timed(env.from_collection(events), _GENERATOR.ooo_ms)).for_each(drop)
    gc.collect()
    began = time.process_time()
    env.execute(progress=False)
    return time.process_time() - began


def on_ray(query: str, events: int, ways: int) -> float:
    """Run a query with `ways` subtasks for each operator; return the CPU seconds of all of its processes."""
    start_ray()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        signs = Path(folder)
        env = RemoteEnvironment(query, ways)
        made = env.from_source(MadeBefore(signs, events), name="made")
        _rows(query, timed(made, _GENERATOR.ooo_ms)).add_sink(Dropped(signs))
        with env.submit() as job:
            wait_until(lambda: len(list(signs.glob("made-*"))) == ways)
            wait_until(lambda: job.subtasks() and job.status == "RUNNING")
            clock = ProcessClock(*{subtask.pid for subtask in job.subtasks()})
            (signs / "begin").touch()
            wait_until(lambda: clock.read() >= 0 and len(list(signs.glob("closed-*"))) == ways, pause_s=0.01)
            cpu_s = clock.read()
            job.result()
    return cpu_s


def _rows(query: str, events: DataStream[Event]) -> DataStream[Any]:
    rows: DataStream[Any] = importlib.import_module(f"nexmark.{query}").query(events)
    return rows


def drop(row: Any) -> None:
    """What becomes of the rows."""


class MadeBefore(Source[Event]):
    """Makes its share of the stream in `open`, says so by the file `made-...`, and waits for the file `begin`."""

    bounded = True
    parallel = True

    def __init__(self, signs: Path, events: int) -> None:
        self._signs = signs
        self._count = events
        self._events: list[Event] = []
        self._position = 0
        self._may_begin = False

    def open(self, ctx: RuntimeContext) -> None:
        self._events = list(_GENERATOR.events(ctx.subtask_index, self._count, ctx.parallelism))
        (self._signs / f"made-{ctx.subtask_index}").touch()

    def next_batch(self) -> list[Event] | SourceSignal:
        if not self._may_begin:
            self._may_begin = (self._signs / "begin").exists()
            return IDLE
        batch = self._events[self._position : self._position + _BATCH]
        self._position += _BATCH
        return batch or END


class Dropped(Sink[Any]):
    """Drops the rows; the file `closed-...` says that no more come."""

    def __init__(self, signs: Path) -> None:
        self._signs = signs

    def open(self, ctx: RuntimeContext) -> None:
        self._sign = self._signs / f"closed-{ctx.subtask_index}"

    def write(self, value: Any) -> None:
        """What becomes of a row."""

    def close(self) -> None:
        self._sign.touch()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nexmark", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--events", type=int, default=200_000, help="how many (default: 200,000)")
    parser.add_argument("--ray", action="store_true", help="on Ray, too")
    parser.add_argument("queries", nargs="*", metavar="QUERY", help=f"{', '.join(COLUMNS)}; default: all")
    options = parser.parse_args(arguments)
    unknown = [query for query in options.queries if query not in COLUMNS]
    if unknown:
        parser.error(f"no query {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
    events = list(_GENERATOR.events(0, options.events))
    runs: dict[str, Callable[[str], float]] = {"in one process": lambda query: in_this_process(query, events)}
    if options.ray:
        runs["Ray, 1 to 1"] = lambda query: on_ray(query, options.events, 1)
        runs["Ray, 2 to 2"] = lambda query: on_ray(query, options.events, 2)
    print(f"events for each second of CPU time; {options.events:,} events")
    print(f"{'query':<6}" + "".join(f"{name:>16}" for name in runs))
    in_this_process("q0", events[:1000])  # imports what a job needs
    for query in options.queries or COLUMNS:
        print(f"{query:<6}", end="", flush=True)
        for run in runs.values():
            cpu_s = run(query)
            print(f"{options.events / cpu_s:>16,.0f}" if cpu_s else f"{'too few events':>16}", end="", flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
