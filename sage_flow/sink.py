"""A receiver of records: what a user-defined sink implements, and what it promises at checkpoints and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from sage_flow.functions import RuntimeContext

__all__ = ["WRITES_AT_ONCE", "Sink"]

T = TypeVar("T")

WRITES_AT_ONCE = "writes each record at once; a cancel does not undo that"
"""What messages say of a sink that holds nothing back, and of the function of a `for_each`."""


class Sink(Generic[T]):
    """A receiver of records; each of its subtasks works on its own copy.

    A job publishes all of its outputs or none of them, whichever process dies and whenever. A sink takes part in that
    by two steps. `prepare` makes durable what was written, where nobody reads it yet, and returns a handle. When every
    sink of the job has done so and every subtask is closed, the end of the job is recorded; only then `commit(handle)`
    publishes. If the process dies in between, another one commits the same handle:

        open, write ..., prepare, close        | the end is recorded |  commit
        in a process that takes over:                        open_to_publish, recover, commit, close, abort
        in a job that fails or is cancelled:   close, abort, recover

    A job that takes checkpoints does the same at each of them, and the sink goes on writing meanwhile. What it does not
    publish yet, it hands over as a `snapshot`, which is part of the checkpoint:

        open, write ..., prepare(1), snapshot, write ...  | checkpoint 1 is complete |  commit, write ...
        in an attempt that restores checkpoint 1:   open, restore, recover, commit, write ...

    A checkpoint that could not be completed is given up. What was prepared for it stays prepared, and is committed with
    a later checkpoint. A record that was written is in a handle or in a snapshot, never in both and never in neither.

    A sink that overrides `commit` and not `prepare` is at-least-once: `commit()` is called without a handle, after
    every subtask has closed and before the end of the job is recorded. If the job fails then and starts again, the
    records are written again. A sink that overrides neither publishes as it writes.

    Attributes:
        default_name: of its operator where the user gives none, without the number: "sink" makes `sink-1`.
        default_parallelism: its subtasks where the user does not say; None: as many as the environment says.
        needs_checkpoints: it publishes at checkpoints, so a job that takes none refuses it.
    """

    default_name: str = "sink"
    default_parallelism: int | None = None
    needs_checkpoints: bool = False

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every subtask, before the first record."""

    def open_to_publish(self, ctx: RuntimeContext) -> None:
        """Called in place of `open` where nothing will be written: `recover` and `commit` follow; by default `open`.

        The parallelism may be another one than that with which the handles were prepared.
        """
        self.open(ctx)

    def write(self, value: T) -> None:
        """Take one record."""
        raise NotImplementedError(f"{type(self).__name__} must implement write(value)")

    def close(self) -> None:
        """Called once in every subtask that was opened, also after an error or a cancel."""

    def files_written(self, parallelism: int) -> Iterable[str]:
        """The files that its subtasks write: no other sink may write one of them, and no source may read one."""
        return ()

    def publishes(self) -> Iterable[str] | None:
        """What it publishes when the job has finished, all or nothing, as messages name it: such as paths of files.

        None: it does not promise that, so a job that restarts may write records again.
        """
        return None

    def at_a_stop(self) -> str:
        """What becomes of its records when the job is drained and when it is cancelled: messages say it of the sink."""
        if type(self).commit is not Sink.commit:
            return f"publishes at the end, by {type(self).__name__}.commit(); after a cancel abort() is called"
        return WRITES_AT_ONCE

    def prepare(self, checkpoint: int) -> Any:
        """Make durable what was written since the last `prepare`; return a handle with which it can be published.

        `checkpoint` is the number of the checkpoint, from 1; it rises within an attempt, and the sink writes on after
        the call. 0 is the end of the job, after which nothing is written. The handle is small and picklable, and must
        do in another process. None: there is nothing to publish now.

        A handle stays pending until it is committed, whatever becomes of its checkpoint and of the attempt: it may be
        committed together with later ones, several times, and in another process and attempt.
        """
        return None

    def snapshot(self) -> Any:
        """Return what the sink keeps without publishing it, for `restore`; called right after each `prepare`.

        It is durable on return, picklable and small: for instance the name and the length of a file in which records
        wait for the end of the job. None: nothing. What the last `prepare` has returned is not part of it, with one
        exception: after `prepare(0)` it has what the handle has. If the job is restored with another parallelism before
        its end is recorded, that snapshot is restored in place of the handle, whose names would not fit any more.
        """
        return None

    def restore(self, kept: Sequence[Any]) -> None:
        """Take over what `snapshot` has returned in former subtasks, as a part of what this subtask writes.

        Called once after `open` and before `recover`, in an attempt that restores a checkpoint. `kept` has one snapshot
        if there are as many subtasks as before. Otherwise they are dealt round robin, so a subtask gets none, one or
        several. The attempt that took the snapshots may still be running somewhere, and may be writing: only what they
        name counts.
        """
        if any(one is not None for one in kept):
            raise NotImplementedError(f"{type(self).__name__} has a snapshot() and must implement restore(kept)")

    def commit(self, *args: Any, **kwargs: Any) -> None:
        """`commit(handle)`: publish what `prepare` has prepared. Without `prepare`: `commit()`, see the class.

        It may be called again for the same handle, also in another process and at the same time; what is already
        published is a success.
        """

    def abort(self) -> None:
        """Remove what was written since the last `prepare`, except what a snapshot names."""

    def recover(self, handles: Sequence[Any]) -> None:
        """Remove what this subtask has prepared or kept, in this attempt or an earlier one, except `handles`.

        What the snapshots name that `restore` was given stays, too. `handles` are going to be committed, before the
        next record is written. Called after `open`, and after `restore` if a checkpoint is restored, in an attempt that
        takes over. Called with no handles when a job fails or is cancelled that no later attempt continues, and after
        `open` when it has started again from the beginning.
        """
