"""When one subtask cuts for a checkpoint, and what it remembers of it.

    BeginCheckpoint(n) -> a source cuts between two slices of records
    Barrier(n) on all inputs -> any other subtask cuts
    the cut: sinks prepare, tables freeze, small parts are pickled, the barrier goes to all outputs
    between later slices: the frozen layers of the tables are pickled, some entries at a time
    -> the shell stores what was pickled and tells the driver

A subtask whose input has ended cuts no more: it finishes, and its end counts as its part in every later checkpoint.

A checkpoint that was aborted before the cut is passed over. After the cut nothing has to be taken back: what was
prepared stays pending, and is named by every later checkpoint; what was touched belongs to the next cut again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.runtime.cut_writing import Cut, CutPiece, CutWriter
from sage_flow.runtime.messages import AbortCheckpoint, BeginCheckpoint
from sage_flow.runtime.parts import Parts

__all__ = ["Cutter"]


class Cutter:
    """The checkpoints of one subtask. `store` passes a cut on; `decline` says why there is none."""

    def __init__(
        self,
        store: Callable[[Cut | CutPiece], None] = lambda cut: None,
        decline: Callable[[int, str], None] = lambda checkpoint, why: None,
        clock: Callable[[], float] = lambda: 0.0,
        *,
        checks: bool = False,
    ) -> None:
        """`checks`: find values of state that change while another key is current (`SAGE_FLOW_CHECK_STATE`).

        Without arguments it is that of a job without checkpoints, of which nothing ever becomes due.
        """
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
        self.writer = CutWriter(store, decline, clock, checks=checks)
        """Stores what was cut."""

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
        self.writer.on_abort(abort.checkpoint)

    def cut(self, checkpoint: int, prepared: tuple[Prepared, ...], parts: Callable[[], Mapping[str, Parts]]) -> None:
        """Freeze the tables, pickle what is small, and let the rest be pickled between later slices."""
        now = self._clock()
        alignment_s = now - self._began.get(checkpoint, now)
        self._pass(checkpoint)
        self.latest = checkpoint
        self.has_stopped = self._stops_at == checkpoint
        self.writer.begin(checkpoint, prepared, parts(), alignment_s, now)

    def _pass(self, checkpoint: int) -> None:
        self._newest = max(self._newest, checkpoint)
        self._began = {number: when for number, when in self._began.items() if number > self._newest}
        if self.due is not None and self.due <= self._newest:
            self.due = None
