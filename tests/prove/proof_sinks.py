"""Two sinks that publish exactly once, by the contract of `Sink`, into the ledger of their world."""

from world import current

from sage_flow import Sink

__all__ = ["AtCheckpoints", "AtTheEnd"]


class CannotPublish(OSError):
    """The place where rows are published is not there, for now."""


class _LedgerSink(Sink):
    def __init__(self, label):
        self._label = label

    def open(self, ctx):
        current().point("sink opens")
        self._index, self._count, self._attempt = ctx.subtask_index, ctx.parallelism, ctx.attempt
        self._run = ctx.job_id
        self._serial = 0

    def _is_mine(self, name):
        """Of this subtask or, where there are fewer now, of one whose handles it gets. `name`: of a handle or file."""
        label, index, run, attempt = name[:4]
        mine = label == self._label and run == self._run and index % self._count == self._index
        return mine and attempt <= self._attempt

    def _name(self, *more):
        self._serial += 1
        return (self._label, self._index, self._run, self._attempt, self._serial, *more)

    def _check_can_publish(self):
        world = current()
        world.passed["tries to commit"] += 1
        if world.passed["tries to commit"] in world.faults.commits_fail:
            world.tell("a commit fails")
            raise CannotPublish("the shop is closed")


class AtCheckpoints(_LedgerSink):
    """Publishes with each checkpoint."""

    def open(self, ctx):
        super().open(ctx)
        self._rows = []

    def write(self, value):
        self._rows.append(value)

    def prepare(self, checkpoint):
        current().point("prepare")
        if not self._rows:
            return None
        handle = self._name(checkpoint)
        current().ledger.stage(handle, self._rows)
        self._rows = []
        current().point("prepared")
        return handle

    def commit(self, handle):
        current().point("commit")
        self._check_can_publish()
        current().ledger.commit(handle)
        current().point("committed")

    def abort(self):
        current().point("abort")
        self._rows = []

    def recover(self, handles):
        current().point("recover")
        current().ledger.sweep(self._is_mine, set(handles))


class AtTheEnd(_LedgerSink):
    """Publishes when the job has finished; until then its rows wait in a file that checkpoints name.

    A later attempt copies the rows into a file of its own; the former file stays until the end, or until a later
    attempt sweeps it.
    """

    def open(self, ctx):
        super().open(ctx)
        self._before = ()  # files that the restored checkpoint names
        self._file = self._name()
        self._named = False

    def write(self, value):
        current().ledger.files.setdefault(self._file, []).append(value)

    @property
    def _length(self):
        return len(current().ledger.files.get(self._file, ()))

    def snapshot(self):
        current().point("snapshot")
        self._named = True
        return (self._file, self._length) if self._length else None

    def restore(self, kept):
        named = [one for one in kept if one is not None]
        current().ledger.check_files(named)
        self._before = tuple(file for file, _ in named)
        for file, length in named:
            for row in current().ledger.files.get(file, ())[:length]:
                self.write(row)

    def prepare(self, checkpoint):
        current().point("prepare")
        if checkpoint or not self._length:
            return None
        self._named = True
        return self._name((self._file, self._length, self._before))

    def commit(self, handle):
        current().point("commit")
        self._check_can_publish()
        current().ledger.commit_file(handle)
        current().point("committed")

    def abort(self):
        current().point("abort")
        if not self._named:
            current().ledger.sweep_files(lambda file: file == self._file, ())

    def recover(self, handles):
        current().point("recover")
        named = {file for handle in handles for file in (handle[-1][0], *handle[-1][2])}
        current().ledger.sweep_files(self._is_mine, {*named, *self._before, self._file})
