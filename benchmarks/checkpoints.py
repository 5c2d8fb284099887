"""What checkpoints cost while nothing fails, each figure beside the same job without checkpoints, in one process.

python -m benchmarks.checkpoints                     all rows
python -m benchmarks.checkpoints --only gap restore  some of them

Times of whole jobs are CPU times of the process, which has all threads of the job: wall times of a shared machine
differ by more than the bars.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import exp
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from sage_flow import IDLE, Function, JobHandle, LocalEnvironment, Service, SplitReader, SplitSource
from sage_flow.checkpoint.inspect import checkpoint_of
from sage_flow.checkpoint.restore import OperatorShare
from sage_flow.checkpoint.storage import open_storage
from sage_flow.executors.snapshots import read_parts
from sage_flow.functions import SourceSignal
from sage_flow.runtime.key_table import KeyTable

__all__ = ["ROWS", "CheckpointFigure", "main", "table"]


class CheckpointFigure(NamedTuple):
    """A row. `value` and `bar` are in `unit`; it is met if `value` is at most `bar`."""

    what: str
    value: float
    unit: str
    bar: float
    details: str

    def __str__(self) -> str:
        met = "met" if self.value <= self.bar else "missed"
        return (
            f"| {self.what} | **{self.value:.3g} {self.unit}** | {self.details} | ≤ {self.bar:g} {self.unit}: {met} |"
        )


@contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        yield folder


# -- counting words ------------------------------------------------------------------------------------------


def _count(words: list[str], every_s: float | None) -> tuple[float, list[Any]]:
    """Count words by key; return the CPU time, and what became of the checkpoints."""
    with _folder() as folder:
        env = LocalEnvironment("words")
        if every_s is not None:
            env.enable_checkpointing(folder, interval=timedelta(seconds=every_s))
        env.from_collection(words).key_by(lambda word: word).count().filter(lambda _: False).collect("none")
        gc.collect()
        began = time.process_time()
        job = env.submit()
        job.result()
        return time.process_time() - began, [] if every_s is None else job.checkpoints()


def _words(count: int, keys: int) -> list[str]:
    rng = random.Random(1)
    million = [f"word-{rng.randrange(keys)}" for _ in range(1_000_000)]
    return million * (count // 1_000_000)


def _overhead(every_s: float, count: int, bar: float, rounds: int) -> CheckpointFigure:
    words = _words(count, 10_000)
    ratios, checkpoints = [], 0
    for _ in range(rounds):
        without, _none = _count(words, None)
        with_them, told = _count(words, every_s)
        ratios.append(100 * (with_them / without - 1))
        checkpoints += sum(one.failed is None for one in told)
    details = f"{rounds} pairs of {count:,} words, {checkpoints} checkpoints; {min(ratios):.1f} to {max(ratios):.1f}"
    what = f"words counted by 10,000 keys, a checkpoint each {every_s:g} s: more CPU time"
    return CheckpointFigure(what, statistics.median(ratios), "%", bar, details)


def each_second(rounds: int) -> CheckpointFigure:
    """A small state, often."""
    return _overhead(1.0, 10_000_000, 5.0, rounds)


def each_ten_seconds(rounds: int) -> CheckpointFigure:
    """A small state, rarely."""
    return _overhead(10.0, 100_000_000, 1.0, rounds)


def touched_keys(rounds: int) -> CheckpointFigure:
    """A state of a million keys, of which each checkpoint stores what was touched."""
    count, keys = 8_000_000, 1_000_000
    words, each = _words(count, keys), []
    for _ in range(rounds):
        without, _none = _count(words, None)
        with_them, told = _count(words, 1.0)
        number = max(1, len(told))
        touched = number * keys * (1 - exp(-count / number / keys))
        each.append(1e6 * (with_them - 1.03 * without) / touched)
    what = "1,000,000 keys, a checkpoint each second: CPU time beyond 3 %, for each key that was touched"
    details = f"{rounds} pairs of {count:,} words; {min(each):.2f} to {max(each):.2f}"
    return CheckpointFigure(what, statistics.median(each), "µs", 1.5, details)


# -- a large state -------------------------------------------------------------------------------------------


class _Watch(Function):
    """Notes the longest time between two records, once the state is filled."""

    longest_s = 0.0  # of the latest job; local jobs run in this process

    def __init__(self, filled: int) -> None:
        self._filled = filled

    def open(self, ctx: Any) -> None:
        self._count, self._last, _Watch.longest_s = 0, 0.0, 0.0

    def __call__(self, record: Any) -> Any:
        now = time.perf_counter()
        self._count += 1
        if self._count > self._filled:
            _Watch.longest_s = max(_Watch.longest_s, now - self._last)
        self._last = now
        return record


_KEYS = 1_000_000
_RATE = 100_000
_BYTES = 1_000


def _large(folder: str, every_s: float | None) -> tuple[float, list[Any]]:
    """Keep 1 GB, and set values of it anew; return the longest gap and what became of the checkpoints."""
    env = LocalEnvironment("large")
    if every_s is not None:
        env.enable_checkpointing(folder, interval=timedelta(seconds=every_s), keep=1)
    numbers = (
        env.from_collection(range(40 * _KEYS if every_s else 2 * _KEYS), max_rate=_RATE)
        .map(_Watch(_KEYS), name="watch")
        .key_by(lambda n: n % _KEYS)
    )
    values = numbers.fold(b"", lambda state, n: n.to_bytes(8, "little") * (_BYTES // 8), name="values")
    values.filter(lambda _: False).collect("none")
    job = env.submit()
    if every_s is None:
        job.result()
        return _Watch.longest_s, []
    told = _wait_for(job, 0.9 * _KEYS * _BYTES)
    job.cancel()
    return _Watch.longest_s, told


def _wait_for(job: JobHandle, size: float) -> list[Any]:
    """Wait until a checkpoint of so many bytes is complete; return what became of all so far."""
    while not any(one.failed is None and one.size >= size for one in job.checkpoints()):
        if job.is_over:
            raise RuntimeError("the job ended before its state was stored")
        time.sleep(0.05)
    return job.checkpoints()


def gap(rounds: int) -> CheckpointFigure:
    """The longest time without a record, with 1 GB of state."""
    with _folder() as folder:
        without, _none = _large(folder, None)
        with_them, told = _large(folder, 1.0)
    largest = max((one.size for one in told if one.failed is None), default=0)
    details = f"{without * 1e3:.0f} ms without checkpoints; the largest one had {largest / 1e9:.2f} GB"
    return CheckpointFigure(
        "1 GB of state, 100,000 records/s: longest time without a record", with_them * 1e3, "ms", 50.0, details
    )


def restore(rounds: int) -> CheckpointFigure:
    """How long a state takes to be restored, as a multiple of the time that `pickle.loads` takes for it."""
    with _folder() as folder:
        env = LocalEnvironment("restored")
        env.enable_checkpointing(folder, interval=timedelta(seconds=1), keep=1)
        words = env.from_source(_AllWords).key_by(lambda word: word).count(name="counts")
        words.filter(lambda _: False).collect("none")
        job = env.submit()
        _wait_for(job, 20 * _WORDS)
        job.stop()
        path = next(one.path for one in reversed(job.checkpoints()) if one.failed is None)
        content = checkpoint_of(path)
        part = next(one for one in content.metadata.parts if "counts" in one.chain)
        storage = open_storage(str(Path(path).parent.parent))
        ratios = []
        for _ in range(rounds):
            began = time.process_time()
            (parts,) = read_parts(storage, OperatorShare("counts", (part,), frozenset({0}), alike=False))
            for entries in parts.keyed.values():
                KeyTable().fill(entries)
            restored = time.process_time() - began
            pickled = pickle.dumps({key: count for entries in parts.keyed.values() for key, count in entries})
            del parts, entries
            began = time.process_time()
            pickle.loads(pickled)
            ratios.append(restored / (time.process_time() - began))
    details = f"{rounds} times {part.size / 1e6:.0f} MB; {min(ratios):.2f} to {max(ratios):.2f}"
    what = "restore: CPU time, `pickle.loads` of the same dict being 1"
    return CheckpointFigure(what, statistics.median(ratios), "x", 1.67, details)


_WORDS = 2_000_000


class _WordsReader(SplitReader[str]):
    def __init__(self, position: int) -> None:
        self._next = position

    def next_batch(self) -> list[str] | SourceSignal:
        batch = [f"a word of the state, number {n}" for n in range(self._next, min(self._next + 1_000, _WORDS))]
        self._next += len(batch)
        return batch or IDLE

    def position(self) -> int:
        return self._next


class _AllWords(SplitSource[str]):
    """Two million words, and then nothing, without an end."""

    bounded = False

    def splits(self) -> list[str]:
        return ["words"]

    def reader(self, split: str, position: int | None) -> _WordsReader:
        return _WordsReader(position or 0)


# -- waiting ---------------------------------------------------------------------------------------------------


def alignment(rounds: int) -> CheckpointFigure:
    """How long barriers take behind a slow operator."""
    with _folder() as folder:
        env = LocalEnvironment("slow", parallelism=2)
        env.enable_checkpointing(folder, interval=timedelta(seconds=1))
        numbers = env.from_collection(range(4_000)).rebalance()
        numbers.map(lambda n: time.sleep(0.01) or n, parallelism=2, name="slow").rebalance().collect("rows")
        job = env.submit()
        while len(told := [one for one in job.checkpoints() if one.failed is None]) < 2 + rounds:
            if job.is_over:
                break
            time.sleep(0.1)
        job.cancel()
    times = [one.alignment_s for one in told]
    details = f"{len(times)} checkpoints; median {statistics.median(times):.2f} s"
    return CheckpointFigure("alignment behind an operator of 10 ms a record", max(times), "s", 2.0, details)


class _Echo(Service):
    def same(self, value: int) -> int:
        return value


class _Calls(Function):
    times: ClassVar[list[float]] = []  # of the latest job

    def open(self, ctx: Any) -> None:
        self._echo = ctx.service("echo")
        _Calls.times = []

    def __call__(self, value: int) -> int:
        began = time.perf_counter()
        self._echo.same(value)
        _Calls.times.append(time.perf_counter() - began)
        return value


def _p50(every_s: float | None) -> float:
    with _folder() as folder:
        env = LocalEnvironment("calls")
        env.register_service("echo", _Echo)
        if every_s is not None:
            env.enable_checkpointing(folder, interval=timedelta(seconds=every_s))
        env.from_collection(range(20_000)).map(_Calls(), name="calls").filter(lambda _: False).collect("none")
        env.execute(progress=False)
        return statistics.median(_Calls.times)


def calls(rounds: int) -> CheckpointFigure:
    """Calls of services, while checkpoints are made."""
    pairs = [(_p50(None), _p50(0.2)) for _ in range(2 * rounds)]
    more = [100 * (with_them / without - 1) for without, with_them in pairs]
    details = f"{len(pairs)} pairs of 20,000 calls, a checkpoint each 0.2 s; {min(more):.1f} to {max(more):.1f}"
    return CheckpointFigure("call of a service: longer at the median", statistics.median(more), "%", 5.0, details)


ROWS: dict[str, Callable[[int], CheckpointFigure]] = {
    "each-second": each_second,
    "each-ten-seconds": each_ten_seconds,
    "touched-keys": touched_keys,
    "gap": gap,
    "restore": restore,
    "alignment": alignment,
    "calls": calls,
}


def table(rounds: int, only: Sequence[str] = ()) -> str:
    """Take the figures and return them as a table."""
    head = "| what | here | measured | bar |\n|---|---|---|---|"
    return "\n".join([head, *(str(ROWS[name](rounds)) for name in only or ROWS)])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*ROWS], default=[])
    arguments = parser.parse_args(argv)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    print(table(arguments.rounds, arguments.only))


if __name__ == "__main__":
    main()
