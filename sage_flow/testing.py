"""For tests of pipelines: run one in every mode, control a source record by record, get rows in a line.

The fixture `mode` runs a test once per way of running a job. In your `conftest.py`:

    from sage_flow.testing import mode  # noqa: F401

and in a test:

    def test_squares(mode):
        env = mode.environment()
        env.from_collection([1, 2, 3]).map(lambda n: n * n).collect("squares")
        assert sorted(env.execute().collected["squares"]) == [1, 4, 9]
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from signal import SIGKILL
from typing import Any, NamedTuple, TypeVar

import pytest

from sage_flow.environment import LocalEnvironment
from sage_flow.errors import PipelineError
from sage_flow.executors.execution import Executor
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor, VirtualClock
from sage_flow.executors.threads import ThreadExecutor
from sage_flow.functions import END, IDLE, RuntimeContext, Source, SourceSignal
from sage_flow.job import JobResult
from sage_flow.splits import WHOLE, SplitEnd, SplitIdle, SplitSignal, SplitWatermark
from sage_flow.streams import DataStream, Stream

__all__ = [
    "ABORT",
    "END",
    "Event",
    "KILL",
    "MODES",
    "PAUSE",
    "Mode",
    "SimulationExecutor",
    "SourceAborted",
    "SplitEnd",
    "SplitIdle",
    "SplitWatermark",
    "TestSource",
    "VirtualClock",
    "collect",
    "mode",
    "stream_of",
]

T = TypeVar("T")


class Signal(Enum):
    """What a TestSource does between records."""

    PAUSE = "pause"
    ABORT = "abort"
    KILL = "kill"

    def __repr__(self) -> str:
        return self.name


PAUSE = Signal.PAUSE
"""The source is idle once; what it gave before is a batch of its own."""
ABORT = Signal.ABORT
"""The source raises SourceAborted."""
KILL = Signal.KILL
"""The worker process in which the source runs dies by SIGKILL."""

_PROCESS = uuid.uuid4().hex
"""Of the process that has imported this module; one that was forked has another pid."""


class SourceAborted(Exception):
    """Raised by a TestSource at ABORT."""


class Event(NamedTuple):
    """A record of a TestSource that comes from a split."""

    value: Any
    split: str = WHOLE


def _split_of(item: Any) -> str | None:
    """The split that an item of a TestSource is about; None: it is about all of them."""
    if isinstance(item, (Event, SplitSignal)):
        return item.split
    return None if isinstance(item, (Signal, SourceSignal)) else WHOLE


class TestSource(Source[T]):
    """Gives the records of a list, in the batches that signals between them make.

    PAUSE: the source is idle once. ABORT: it raises SourceAborted. END: it ends, as it does behind its last record.
    KILL: its worker process dies, as by `kill -9`. The first attempt of the job obeys the first KILL, the second
    attempt the second one, and so on, so that a job which restarts can finish. In the program's own process, where
    threads and the simulation run, KILL raises a PipelineError.

    For event time, records may come from several splits, `Event(value, "a")`, and the splits give signals:
    `SplitWatermark(timestamp, "a")`, `SplitIdle("a")`, `SplitEnd("a")`. With `parallel=True` the splits are shared
    among the subtasks, in the order of their names; each subtask goes through the steps of its splits.

    >>> from sage_flow import JobResult, LocalEnvironment
    >>> env = LocalEnvironment("test")
    >>> collect(env.from_source(TestSource([1, 2, PAUSE, 3, END])))
    [1, 2, 3]
    """

    __test__ = False  # it is no test, whatever its name says to pytest

    def __init__(
        self, items: Sequence[T | Event | Signal | SourceSignal | SplitSignal], *, parallel: bool = False
    ) -> None:
        self._items: list[Any] = list(items)
        self._next = 0
        self._attempt = 1
        self._made_in = (_PROCESS, os.getpid())
        self.parallel = parallel

    def open(self, ctx: RuntimeContext) -> None:
        self._attempt = ctx.attempt
        mine = self._splits()[ctx.subtask_index :: ctx.parallelism]
        if ctx.parallelism > 1:
            self._items = [item for item in self._items if _split_of(item) in (None, *mine)]

    def _splits(self) -> list[str]:
        return sorted({split for split in map(_split_of, self._items) if split is not None})

    def splits_read(self) -> list[str]:
        return self._splits()

    def next_batch(self) -> list[T] | SourceSignal | SplitSignal:
        batch: list[T] = []
        while self._next < len(self._items):
            item = self._items[self._next]
            if isinstance(item, (Signal, SourceSignal, SplitSignal)):
                return batch or self._obey(item)
            value, split = item if isinstance(item, Event) else (item, WHOLE)
            if batch and split != self.split:
                return batch
            self.split = split
            batch.append(value)
            self._next += 1
        return batch or END

    def _obey(self, signal: Signal | SourceSignal | SplitSignal) -> SourceSignal | SplitSignal:
        if isinstance(signal, SplitSignal):
            self._next += 1
            return signal
        if signal is ABORT:
            raise SourceAborted(f"after {self._next} items")
        if signal is END:
            return END
        self._next += 1
        if signal is KILL and sum(item is KILL for item in self._items[: self._next]) == self._attempt:
            self._kill_process()
        return IDLE

    def _kill_process(self) -> None:
        if self._made_in == (_PROCESS, os.getpid()):
            raise PipelineError(
                "KILL would end the program itself, because the source runs in the process that made it; use"
                ' executor="processes" or Ray'
            )
        os.kill(os.getpid(), SIGKILL)

    def snapshot(self) -> int:
        """The number of items, signals included, that were passed."""
        return self._next

    def restore(self, position: int) -> None:
        """Go on behind `position` items."""
        self._next = position


@dataclass(frozen=True)
class Mode:
    """A way to run a job: how, and with what parallelism by default."""

    name: str
    parallelism: int
    make_executor: Callable[[], Executor]

    def environment(
        self, name: str = "test", parallelism: int | None = None, *, check_shared_records: bool = False
    ) -> LocalEnvironment:
        """Return an environment that runs in this mode; `check_shared_records` as `LocalEnvironment` has it."""
        return LocalEnvironment(
            name,
            parallelism or self.parallelism,
            executor=self.make_executor(),
            check_shared_records=check_shared_records,
        )

    @property
    def shares_memory(self) -> bool:
        """Whether functions of the job see the objects of the test, and not copies."""
        return self.name.startswith(("local-", "simulation-")) and self.name != "local-copy"

    def __str__(self) -> str:
        return self.name


def _simulation(seed: int) -> Callable[[], Executor]:
    return lambda: SimulationExecutor(seed)


MODES = (
    Mode("local-1", 1, ThreadExecutor),
    Mode("local-3", 3, ThreadExecutor),
    Mode("local-copy", 2, lambda: ThreadExecutor(copies_records=True)),
    Mode("processes", 2, ProcessExecutor),
    *(Mode(f"simulation-{seed}", 2, _simulation(seed)) for seed in range(3)),
)


@pytest.fixture(params=MODES, ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Runs the test once per mode."""
    chosen: Mode = request.param
    return chosen


def stream_of(*items: T) -> DataStream[T]:
    """Return a stream of these items, in a local environment of its own."""
    return LocalEnvironment("stream_of").from_collection(items)


def collect(stream: Stream[T]) -> list[T]:
    """Run the pipeline that `stream` is part of, and return the stream's records.

    >>> collect(stream_of(1, 2, 3).map(lambda n: n * n))
    [1, 4, 9]
    """
    stream.collect("collected by test")
    result: JobResult = stream._graph.environment.execute(progress=False)
    return result.collected["collected by test"]
