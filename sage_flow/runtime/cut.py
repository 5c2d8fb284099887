"""What one subtask does for a checkpoint: when it cuts, what it gives away, what it remembers of it.

    BeginCheckpoint(n) -> a source cuts between two slices of records
    Barrier(n) on all inputs -> any other subtask cuts
    the cut: sinks prepare, the parts of all operators are pickled, the barrier goes to all outputs
    -> the shell stores the parts and tells the driver

A subtask whose input has ended cuts no more: it finishes, and its end counts as its part in every later checkpoint.

A checkpoint that was aborted before the cut is passed over. After the cut nothing has to be taken back: what was
prepared stays pending, and is named by every later checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.runtime.messages import AbortCheckpoint, BeginCheckpoint
from sage_flow.runtime.parts import Parts
from sage_flow.wire import by_value
from sage_flow.wire.culprit import find_culprit

__all__ = ["Cut", "Cutter", "packed_parts"]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a subtask gives for a checkpoint.

    `blobs`: first the parts without keys, then those by key. `keeping`: the operators that keep something.
    """

    checkpoint: int
    blobs: tuple[bytes, ...]
    keeping: tuple[str, ...]
    prepared: tuple[Prepared, ...]
    alignment_s: float
    pause_s: float


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
        self._began.setdefault(begin.checkpoint, self._clock())
        if is_source:
            self.due = begin.checkpoint
            self._stops_at = begin.checkpoint if begin.stops else None

    def on_barrier(self, checkpoint: int) -> None:
        """The first barrier of a checkpoint may come before its command."""
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
        self.has_stopped = self._stops_at == checkpoint
        kept = parts()
        try:
            blobs = packed_parts(kept)
        except CannotBeStored as error:
            self._decline(checkpoint, str(error))
            return
        keeping = tuple(name for name, part in kept.items() if part.is_worth_keeping)
        self._store(Cut(checkpoint, blobs, keeping, prepared, now - began, self._clock() - now))

    def _pass(self, checkpoint: int) -> None:
        self._newest = max(self._newest, checkpoint)
        self._began = {number: when for number, when in self._began.items() if number > self._newest}
        if self.due is not None and self.due <= self._newest:
            self.due = None


class CannotBeStored(Exception):
    """The state of an operator cannot be pickled."""


def packed_parts(parts: Mapping[str, Parts]) -> tuple[bytes, bytes]:
    """Pickle the parts of the operators of one subtask: what is small and wanted by many, and what has keys.

    Raises CannotBeStored.
    """
    small = {name: (part.splits, part.rests, part.own, part.lowest) for name, part in parts.items()}
    keyed = {name: part.keyed for name, part in parts.items() if any(part.keyed.values())}
    return _packed(small), _packed(keyed)


def _packed(by_operator: dict[str, Any]) -> bytes:
    try:
        return by_value.dumps_state(by_operator)
    except Exception:
        for name, part in by_operator.items():
            try:
                by_value.dumps_state(part)
            except Exception as error:
                _, culprit = find_culprit(part, by_value.dumps_state, by_value.dumps_state, depth=12)
                raise CannotBeStored(
                    f"the state of {name!r} cannot be pickled: a {type(culprit).__name__} is in it ({error})"
                ) from error
        raise
