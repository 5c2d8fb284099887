"""What users write: functions with a life cycle, sources, sinks, and the context they are given."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from sage_flow.context import RuntimeContext

__all__ = ["END", "IDLE", "Function", "ProcessFunction", "Sink", "Source", "SourceSignal"]

T = TypeVar("T")


class SourceSignal(Enum):
    """What `Source.next_batch()` returns when it has no records."""

    IDLE = "idle"
    END = "end"

    def __repr__(self) -> str:
        return self.name


IDLE: Literal[SourceSignal.IDLE] = SourceSignal.IDLE
"""No record now, ask again later."""
END: Literal[SourceSignal.END] = SourceSignal.END
"""No record ever again."""


class Function:
    """A callable with a life cycle, for any operator that takes a function.

    Subclass it, implement `__call__(value)` or `__call__(value, ctx)`, and pass an instance or the
    class. Each subtask works on its own copy (made with cloudpickle before `open`), so attributes
    are never shared: put connections and models into `open`, not into `__init__`.

    >>> class Scale(Function):
    ...     def open(self, ctx):
    ...         self.factor = 10
    ...     def __call__(self, value):
    ...         return value * self.factor
    """

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every subtask, before the first record."""

    def close(self) -> None:
        """Called once in every subtask that was opened, also after an error or a cancel."""


class ProcessFunction(Function):
    """The general operator: `process(value, ctx)` yields any number of outputs per record.

    `ctx` gives keyed state, side outputs and services. A connected stream calls
    `process_left` and `process_right` instead.
    """

    def process(self, value: Any, ctx: RuntimeContext) -> Iterable[Any] | None:
        """Return or yield the outputs for one record; None means no output."""
        raise NotImplementedError(f"{type(self).__name__} must implement process(value, ctx)")


class Source(Generic[T]):
    """A source of records; each of its subtasks works on its own copy.

    Subtask `ctx.subtask_index` of `ctx.parallelism` reads its own share. `next_batch()` must not
    block: it returns a non-empty list, `IDLE` or `END`. Where it has to block (a socket, a
    generator) set `blocking = True`, and a thread of its own calls it. `snapshot()` is the position
    after the batches handed over so far; `restore()` of it continues there.

    Attributes:
        blocking: `next_batch()` may block.
        parallel: several subtasks can share the work; otherwise the source always has one.
    """

    blocking: bool = False
    parallel: bool = False

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every subtask, before the first `next_batch()`."""

    def next_batch(self) -> list[T] | SourceSignal:
        """Return some records (about 1024 at the most), `IDLE` or `END`."""
        raise NotImplementedError(f"{type(self).__name__} must implement next_batch()")

    def snapshot(self) -> Any:
        """Return the position: a small picklable value that `restore` understands."""
        raise NotImplementedError(f"{type(self).__name__} cannot be restored: it has no snapshot()")

    def restore(self, position: Any) -> None:
        """Continue after `position`; called after `open`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be restored: it has no restore()")

    def close(self) -> None:
        """Called once in every subtask that was opened, also after an error or a cancel."""


class Sink(Generic[T]):
    """A receiver of records; each of its subtasks works on its own copy.

    `close()` ends the writing in every subtask. Only when all subtasks of the job are closed without
    an error is `commit()` called, to publish what was written; else `abort()`, to remove it.
    A sink that cannot hold its output back leaves both alone.
    """

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every subtask, before the first record."""

    def write(self, value: T) -> None:
        """Take one record."""
        raise NotImplementedError(f"{type(self).__name__} must implement write(value)")

    def close(self) -> None:
        """Called once in every subtask that was opened, also after an error or a cancel."""

    def commit(self) -> None:
        """Publish what was written; called after every subtask of the job has closed."""

    def abort(self) -> None:
        """Remove what was written; called instead of `commit` when the job did not finish."""
