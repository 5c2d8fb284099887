"""What one subtask does for a checkpoint: when it cuts, what it gives away, what it remembers of it.

    BeginCheckpoint(n) -> a source cuts between two slices of records
    Barrier(n) on all inputs -> any other subtask cuts
    the cut: sinks prepare, the parts of all operators are pickled, the barrier goes to all outputs
    -> the shell stores the parts and tells the driver

A subtask whose input has ended cuts no more: it finishes, and its end counts as its part in every later checkpoint.

Pickling is what takes long, so as much of it as possible is done later and elsewhere: entries whose values nobody can
change are handed over as they are, and are pickled in chunks by whoever stores them. What could be changed by the next
record is pickled at once.

A checkpoint that was aborted before the cut is passed over. After the cut nothing has to be taken back: what was
prepared stays pending, and is named by every later checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import NoneType
from typing import Any

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.runtime.messages import AbortCheckpoint, BeginCheckpoint
from sage_flow.runtime.parts import Entries, Parts
from sage_flow.runtime.table_copy import TableCopy
from sage_flow.wire import by_value
from sage_flow.wire.culprit import find_culprit

__all__ = ["CHUNK", "Cut", "Cutter", "KeyedChunk"]


_UNCHANGING = frozenset({int, float, complex, bool, str, bytes, NoneType, Fraction, Decimal, date, datetime, timedelta})
"""Exact types of values that nobody can change."""

CHUNK = 5_000
"""Entries that are pickled at a time: pickling holds the interpreter's lock, here for about 2 ms."""

KeyedChunk = tuple[str, Hashable, Entries]
"""Some entries of a table of an operator, as they are stored."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a subtask gives for a checkpoint.

    `small`: a pickle of the parts without keys. `keyed`: pickles of lists of `KeyedChunk`. `unchanging`: entries that
    are still to be pickled. `keeping`: the operators that keep something.
    """

    checkpoint: int
    small: bytes
    keyed: tuple[bytes, ...]
    unchanging: tuple[tuple[str, Hashable, TableCopy], ...]
    keeping: tuple[str, ...]
    prepared: tuple[Prepared, ...]
    alignment_s: float
    pause_s: float

    def blobs(self) -> Iterator[bytes]:
        """Yield the content of each file. Takes long where there is much to pickle, in steps of a chunk."""
        yield self.small
        yield b"".join([*self.keyed, *self._pickled()])

    def _pickled(self) -> Iterator[bytes]:
        for operator, table, pairs in self.unchanging:
            for start in range(0, len(pairs), CHUNK):
                yield by_value.dumps_state([(operator, table, pairs.part(start, start + CHUNK))])


class Cutter:
    """The checkpoints of one subtask. `store` passes a cut on; `decline` says why there is none."""

    def __init__(
        self,
        store: Callable[[Cut], None] = lambda cut: None,
        decline: Callable[[int, str], None] = lambda checkpoint, why: None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Without arguments it is that of a job without checkpoints, of which nothing ever becomes due."""
        self._store = store
        self._decline = decline
        self._clock = clock
        self._newest = 0  # cut or aborted
        self.latest = 0
        """The latest checkpoint that was cut for."""
        self._began: dict[int, float] = {}
        self._stops_at: int | None = None
        self.due: int | None = None
        """The checkpoint that a source cuts for as soon as it can."""
        self.has_stopped = False
        """A source has cut for the last checkpoint: it reads nothing more."""

    def on_begin(self, begin: BeginCheckpoint, *, is_source: bool) -> None:
        """The driver has begun a checkpoint."""
        if begin.checkpoint <= self._newest:
            return
        if is_source:
            self._began.setdefault(begin.checkpoint, self._clock())
            self.due = begin.checkpoint
            self._stops_at = begin.checkpoint if begin.stops else None

    def on_barrier(self, checkpoint: int) -> None:
        """A barrier has come: alignment lasts from the first one of a checkpoint on."""
        self._began.setdefault(checkpoint, self._clock())

    def on_abort(self, abort: AbortCheckpoint) -> None:
        """The checkpoint has failed, whether it was cut here or not."""
        self._pass(abort.checkpoint)
        if self._stops_at == abort.checkpoint:
            self._stops_at, self.has_stopped = None, False  # the source goes on: the next one is the last one then

    def cut(self, checkpoint: int, prepared: tuple[Prepared, ...], parts: Callable[[], Mapping[str, Parts]]) -> None:
        """Pickle the parts and pass them on."""
        began = self._began.get(checkpoint, self._clock())
        now = self._clock()
        self._pass(checkpoint)
        self.latest = checkpoint
        self.has_stopped = self._stops_at == checkpoint
        kept = parts()
        unchanging: list[tuple[str, Hashable, TableCopy]] = []
        by_operator: dict[str, list[KeyedChunk]] = {}
        for name, part in kept.items():
            for table, entries in part.keyed.items():
                if isinstance(entries, TableCopy) and _are_unchanging(entries.value_list):
                    unchanging.append((name, table, entries))
                elif entries:
                    by_operator.setdefault(name, []).append((name, table, entries))
        try:
            small = _packed({name: (part.splits, part.rests, part.own, part.lowest) for name, part in kept.items()})
            keyed = tuple(_packed({name: found}, found) for name, found in by_operator.items())
        except _CannotBeStored as error:
            self._decline(checkpoint, str(error))
            return
        keeping = tuple(name for name, part in kept.items() if part.is_worth_keeping)
        pause_s = self._clock() - now
        self._store(Cut(checkpoint, small, keyed, tuple(unchanging), keeping, prepared, now - began, pause_s))

    def _pass(self, checkpoint: int) -> None:
        self._newest = max(self._newest, checkpoint)
        self._began = {number: when for number, when in self._began.items() if number > self._newest}
        if self.due is not None and self.due <= self._newest:
            self.due = None


class _CannotBeStored(Exception):
    """The state of an operator cannot be pickled."""


def _are_unchanging(values: list[Any]) -> bool:
    """Whether nobody can change these values. Keys never change."""
    return set(map(type, values)) <= _UNCHANGING


def _packed(by_operator: Mapping[str, Any], value: Any = None) -> bytes:
    """Pickle `value`, by default `by_operator`. Raises _CannotBeStored naming the operator."""
    try:
        return by_value.dumps_state(by_operator if value is None else value)
    except Exception:
        for name, part in by_operator.items():
            try:
                by_value.dumps_state(part)
            except Exception as error:
                _, culprit = find_culprit(part, by_value.dumps_state, by_value.dumps_state, depth=12)
                raise _CannotBeStored(
                    f"the state of {name!r} cannot be pickled: a {type(culprit).__name__} is in it ({error})"
                ) from error
        raise
