"""The rows of the `collect` sinks of one job, which its driver keeps in memory, up to a limit."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from sage_flow.errors import CodecError, CollectLimitError, PipelineError, ProtocolError
from sage_flow.executors.shell import Shell, first_window
from sage_flow.plan import kinds
from sage_flow.plan.physical import DRIVER_CHAIN, Plan
from sage_flow.runtime.barrier import AbandonAndHold, BarrierAlignment, Hold, TakeSnapshot
from sage_flow.runtime.credits import ConsumedCredit
from sage_flow.runtime.failure import add_notes
from sage_flow.runtime.messages import DRIVER, Barrier, Control, Data, EndOfInput

__all__ = ["CollectedRows", "RowsCut", "TakenRows"]


_MOST_TAKEN = 10_000


class TakenRows(NamedTuple):
    """Rows of one sink, the first of which has the number `first`.

    Numbers count from 0 in each attempt. In a job with checkpoints they go on, and `attempt` stays the same.
    """

    attempt: int
    rows: list[Any]
    first: int = 0


class RowsCut(NamedTuple):
    """The rows of a checkpoint: those of each sink end before these numbers."""

    checkpoint: int
    ends: dict[str, int]


class CollectedRows:
    """The rows of each sink so far, by its label; `most_rows` and `most_bytes` bound them all together.

    The driver's thread adds rows. Any thread may take some, which are forgotten when it asks for those behind them.

    In a job with checkpoints the driver takes part in them: rows behind a barrier wait until the barrier has come on
    all channels. Others see the rows up to the latest complete checkpoint, since an attempt that fails takes back all
    that are behind it.
    """

    def __init__(self, plan: Plan, shell: Shell, most_rows: int, most_bytes: int) -> None:
        self._plan = plan
        self._shell = shell
        self._limits = most_rows, most_bytes
        operators = [operator for chain in plan.chains for operator in chain.operators]
        self._rows: dict[str, list[Any]] = {o.label: [] for o in operators if o.kind is kinds.COLLECT}
        self._firsts = dict.fromkeys(self._rows, 0)  # the number of the first row that is still there
        self._shown: dict[str, int] | None = None if plan.checkpoints is None else dict.fromkeys(self._rows, 0)
        self._lock = threading.Lock()
        self._count = self._size = 0
        self._channels = {c.id: c for c in plan.channels if c.edge.target == DRIVER_CHAIN}
        self._credits = {
            c.id: ConsumedCredit(c.id, shell.most_cost(c.producer, DRIVER), first_window(DRIVER))
            for c in self._channels.values()
        }
        self._next_seq = dict.fromkeys(self._channels, 0)
        self._alignment = BarrierAlignment(self._channels)
        self._held: dict[int, list[Data | Control]] = {}
        self.is_complete = False
        """All rows have come, and the end is being decided. Others see them when that is recorded (`show`)."""

    @property
    def is_empty(self) -> bool:
        """Whether the job collects nothing."""
        return not self._channels

    def producer(self, channel: int) -> int:
        """Return the address of the subtask that sends on a channel."""
        return self._channels[channel].producer

    def check_sequence(self, channel: int, seq: int) -> None:
        """Note the number of a frame or a control element. Raises ProtocolError for a gap or a repeat."""
        if seq != self._next_seq[channel]:
            raise ProtocolError(f"frame {seq} of collected channel {channel}, where {self._next_seq[channel]} was due")
        self._next_seq[channel] = seq + 1

    def add(self, data: Data) -> Exception | None:
        """Keep the rows of a frame and return its credit. Returns the error of its producer, if it has one."""
        self.check_sequence(data.channel, data.seq)
        if data.channel in self._held:
            self._held[data.channel].append(data)
            return None
        return self._keep(data)

    def on_control(self, control: Control) -> Iterator[RowsCut | tuple[int, Exception]]:
        """A control element has come on a channel. Yields the cuts and the failed producers that come of it."""
        self.check_sequence(control.channel, control.seq)
        if control.channel in self._held:
            self._held[control.channel].append(control)
        else:
            yield from self._on_element(control)

    def on_abort(self, checkpoint: int) -> Iterator[RowsCut | tuple[int, Exception]]:
        """A checkpoint has failed: the rows behind its barriers are taken."""
        yield from self._release(self._alignment.on_abort(checkpoint))

    def cut_of_all(self, checkpoint: int) -> RowsCut | None:
        """The cut of a checkpoint after all channels have ended; None while one has not."""
        return self._cut(checkpoint) if self._alignment.is_over and not self._held else None

    def _on_element(self, control: Control) -> Iterator[RowsCut | tuple[int, Exception]]:
        match control.element:
            case Barrier(checkpoint):
                decision = self._alignment.on_barrier(control.channel, checkpoint)
            case EndOfInput():
                decision = self._alignment.on_end_of_input(control.channel)
            case _:
                return
        match decision:
            case Hold(channel):
                self._held[channel] = []
            case AbandonAndHold(_, released, channel):
                yield from self._release(released)
                self._held[channel] = []
            case TakeSnapshot(checkpoint, released):
                yield self._cut(checkpoint)
                yield from self._release(released)

    def _cut(self, checkpoint: int) -> RowsCut:
        with self._lock:
            return RowsCut(checkpoint, {name: self._firsts[name] + len(rows) for name, rows in self._rows.items()})

    def _release(self, channels: tuple[int, ...]) -> Iterator[RowsCut | tuple[int, Exception]]:
        freed = [self._held.pop(channel, []) for channel in channels]
        for frames in freed:
            for number, frame in enumerate(frames):
                if frame.channel in self._held:  # a later barrier among them holds the rest
                    self._held[frame.channel].extend(frames[number:])
                    break
                if isinstance(frame, Control):
                    yield from self._on_element(frame)
                elif (error := self._keep(frame)) is not None:
                    yield self.producer(frame.channel), error

    def _keep(self, data: Data) -> Exception | None:
        edge = self._channels[data.channel].edge
        name = self._plan.chains[edge.source].operators[edge.operator].label
        try:
            records = data.unpacked()
        except CodecError as error:
            add_notes(error, [f"collect   {name!r}"])
            return error
        with self._lock:
            self._count += len(records)
            self._size += _estimated_size(records)
        most_rows, most_bytes = self._limits
        if self._count > most_rows or self._size > most_bytes:
            return CollectLimitError(
                f"collect {name!r} received more than {most_rows:,} rows or {most_bytes:,} bytes:"
                " write such results to a file (write_csv, write_jsonl), or aggregate them first"
            )
        with self._lock:
            self._rows[name].extend(records)
        credit = self._credits[data.channel]
        if (due := credit.consume(len(records), data.cost, credit.told)) is not None:
            self._shell.send(DRIVER, self.producer(data.channel), due)
        return None

    # -- checkpoints ----------------------------------------------------------------------------------------

    def between(self, starts: dict[str, int], ends: dict[str, int]) -> dict[str, tuple[int, list[Any]]]:
        """Return the rows of each sink from one number to before another one, with the number of the first."""
        with self._lock:
            found = {}
            for name, end in ends.items():
                first = self._firsts[name]
                start = max(first, starts.get(name, 0))
                if start < end:
                    found[name] = start, self._rows[name][start - first : end - first]
            return found

    def put_back(self, chunk: dict[str, tuple[int, list[Any]]]) -> None:
        """Take over rows that an earlier attempt has collected; chunks come in their order."""
        with self._lock:
            for name, (start, rows) in chunk.items():
                if name not in self._rows or not rows:
                    continue
                if not self._rows[name]:
                    self._firsts[name] = start
                self._rows[name].extend(rows)
                self._count += len(rows)
                self._size += _estimated_size(rows)
        self.show({name: self._firsts[name] + len(rows) for name, rows in self._rows.items()})

    def show(self, ends: dict[str, int] | None) -> None:
        """Let others see the rows before these numbers; None: all rows."""
        with self._lock:
            self._shown = ends

    def first_of(self, name: str) -> int:
        """The number of the first row that is not forgotten."""
        with self._lock:
            return self._firsts[name]

    # -- from any thread ------------------------------------------------------------------------------------

    def rows_at_end(self) -> dict[str, list[Any]]:
        """Return the rows that belong to the outcome: all of them once the end is being decided, see `is_complete`."""
        if not self.is_complete:
            return self.rows()
        with self._lock:
            return dict(self._rows)  # the lists themselves, from which rows are forgotten while they are read

    def rows(self) -> dict[str, list[Any]]:
        """Return the rows that others may see. Where these are all rows, the lists still change: rows are forgotten."""
        with self._lock:
            return dict(self._rows) if self._shown is None else {name: self._visible(name) for name in self._rows}

    def _visible(self, name: str) -> list[Any]:
        if self._shown is None:
            return list(self._rows[name])
        return self._rows[name][: max(0, self._shown.get(name, 0) - self._firsts[name])]

    def take(self, name: str, attempt: int, number: int) -> TakenRows:
        """Return rows from `number` on, if that counts the rows of this attempt, else from the first.

        What is before them is forgotten. Raises PipelineError if there is no such sink.
        """
        if name not in self._rows:
            known = ", ".join(map(repr, self._rows)) or "none"
            raise PipelineError(f"no collect sink has the name {name!r}; there are: {known}")
        epoch = self._plan.attempt if self._plan.checkpoints is None else 1
        with self._lock:
            rows = self._rows[name]
            given = number - self._firsts[name] if attempt == epoch else 0
            if given > 0:
                self._size -= int(self._size * given / self._count)
                self._count -= given
                self._firsts[name] = number
                del rows[:given]
            return TakenRows(epoch, self._visible(name)[:_MOST_TAKEN], self._firsts[name])


def _estimated_size(records: list[Any]) -> int:
    """Estimate the bytes of rows from the first one: an exact count would pickle everything twice."""
    try:
        one = len(pickle.dumps(records[0], protocol=5))
    except Exception:  # rows of a local job need not pickle; then the size of the object itself has to do
        one = sys.getsizeof(records[0])
    return one * len(records)
