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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from sage_flow.functions import END, IDLE, RuntimeContext, SourceSignal
from sage_flow.job import JobResult
from sage_flow.split_source import SplitReader, SplitSource
from sage_flow.splits import FINISHED, WHOLE, SplitEnd, SplitIdle, SplitSignal, SplitWatermark
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


class _OneSplit(SplitReader[Any]):
    """The items of one split of a TestSource."""

    def __init__(self, items: Sequence[Any], position: int) -> None:
        self._items = items
        self._next = position

    def next_batch(self) -> list[Any] | SourceSignal | SplitSignal:
        if self._next >= len(self._items):
            return END
        item = self._items[self._next]
        self._next += 1
        return item if isinstance(item, SplitSignal) else [_value_of(item)]

    def position(self) -> int:
        return self._next


def _value_of(item: Any) -> Any:
    return item.value if isinstance(item, Event) else item


class TestSource(SplitSource[T]):
    """Gives the records of a list, in the batches that signals between them make.

    PAUSE: the source is idle once. ABORT: it raises SourceAborted. END: it ends, as it does behind its last record.
    KILL: its worker process dies, as by `kill -9`. The first attempt of the job obeys the first KILL, the second
    attempt the second one, and so on, so that a job which restarts can finish. In the program's own process, where
    threads and the simulation run, KILL raises a PipelineError.

    For event time, records may come from several splits, `Event(value, "a")`, and the splits give signals:
    `SplitWatermark(timestamp, "a")`, `SplitIdle("a")`, `SplitEnd("a")`. With `parallel=True` the splits are shared
    among the subtasks, in the order of their names; each subtask goes through the steps of its splits. The position of
    a split is the number of its items, its signals included, that were passed.

    >>> from sage_flow import JobResult, LocalEnvironment
    >>> env = LocalEnvironment("test")
    >>> collect(env.from_source(TestSource([1, 2, PAUSE, 3, END])))
    [1, 2, 3]
    """

    __test__ = False  # it is no test, whatever its name says to pytest

    def __init__(
        self, items: Sequence[T | Event | Signal | SourceSignal | SplitSignal], *, parallel: bool = False
    ) -> None:
        self._script: list[Any] = list(items)
        self._next = 0
        self._passed: Counter[str] = Counter()  # items of each split
        self._skipped: frozenset[int] = frozenset()  # places in the script that an earlier run has passed
        self._mine: frozenset[str] = frozenset(self.splits())
        self._attempt = 1
        self._made_in = (_PROCESS, os.getpid())
        self.parallel = parallel

    def open(self, ctx: RuntimeContext) -> None:
        super().open(ctx)
        self._attempt = ctx.attempt
        self._mine = frozenset(super().splits_read())

    def splits(self) -> list[str]:
        return sorted({split for split in map(_split_of, self._script) if split is not None})

    def splits_read(self) -> list[str]:
        return [split for split in self.splits() if split in self._mine and not self._is_finished(split)]

    def reader(self, split: str, position: int | None) -> SplitReader[T]:
        return _OneSplit(self._items_of(split), position or 0)

    def _items_of(self, split: str) -> list[Any]:
        return [item for item in self._script if _split_of(item) == split]

    def _is_finished(self, split: str) -> bool:
        items = self._items_of(split)
        return self._passed[split] == len(items) and isinstance(items[-1], SplitEnd)

    def next_batch(self) -> list[T] | SourceSignal | SplitSignal:
        # In the order of the script, and not split by split, as the readers of other sources are read.
        batch: list[T] = []
        while self._next < len(self._script):
            item = self._script[self._next]
            split = _split_of(item)
            if self._next in self._skipped or (split is not None and split not in self._mine):
                self._next += 1
            elif split is None or isinstance(item, SplitSignal):
                return batch or self._obey(item)
            elif batch and split != self.split:
                return batch
            else:
                self.split = split
                batch.append(_value_of(item))
                self._pass(split)
        return batch or END

    def _pass(self, split: str) -> None:
        self._passed[split] += 1
        self._next += 1

    def _obey(self, signal: Signal | SourceSignal | SplitSignal) -> SourceSignal | SplitSignal:
        if isinstance(signal, SplitSignal):
            self._pass(signal.split)
            return signal
        if signal is ABORT:
            raise SourceAborted(f"after {self._next} items")
        if signal is END:
            return END
        self._next += 1
        if signal is KILL and sum(item is KILL for item in self._script[: self._next]) == self._attempt:
            self._kill_process()
        return IDLE

    def _kill_process(self) -> None:
        if self._made_in == (_PROCESS, os.getpid()):
            raise PipelineError(
                "KILL would end the program itself, because the source runs in the process that made it; use"
                ' executor="processes" or Ray'
            )
        os.kill(os.getpid(), SIGKILL)

    def snapshot(self) -> dict[str, Any]:
        return {split: FINISHED if self._is_finished(split) else passed for split, passed in self._passed.items()}

    def restore(self, position: Mapping[str, Any]) -> None:
        """Go on behind these positions. Signals that are about no split are passed if an item behind them was."""
        skipped = set()
        self._passed = Counter()
        for place, item in enumerate(self._script):
            split = _split_of(item)
            if split not in self._mine or split is None:
                continue
            at = position.get(split, 0)
            if at is FINISHED or self._passed[split] < at:
                self._passed[split] += 1
                skipped.add(place)
        last = max(skipped, default=0)
        skipped |= {place for place, item in enumerate(self._script[:last]) if _split_of(item) is None}
        self._skipped = frozenset(skipped)
        self._next = 0


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
