"""The rows of the `collect` sinks of one job, which its driver keeps in memory, up to a limit."""

from __future__ import annotations

import pickle
import sys
import threading
from typing import Any, NamedTuple

from sage_flow.errors import CodecError, CollectLimitError, PipelineError, ProtocolError
from sage_flow.executors.shell import Shell
from sage_flow.plan import kinds
from sage_flow.plan.physical import DRIVER_CHAIN, Plan
from sage_flow.runtime.credits import ConsumedCredit
from sage_flow.runtime.failure import add_notes
from sage_flow.runtime.messages import DRIVER, Credit, Data

__all__ = ["CollectedRows", "TakenRows"]


_MOST_TAKEN = 10_000


class TakenRows(NamedTuple):
    """Rows of one sink, from a number on that counts from 0 in each attempt of the job."""

    attempt: int
    rows: list[Any]


class CollectedRows:
    """`rows` are the rows of each sink so far, by its label; `most_rows` and `most_bytes` bound them all together.

    The driver's thread adds rows. Any thread may take some, which are forgotten when it asks for those behind them.
    """

    def __init__(self, plan: Plan, shell: Shell, most_rows: int, most_bytes: int) -> None:
        self._plan = plan
        self._shell = shell
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        operators = [operator for chain in plan.chains for operator in chain.operators]
        self.rows: dict[str, list[Any]] = {o.label: [] for o in operators if o.kind is kinds.COLLECT}
        self._firsts = dict.fromkeys(self.rows, 0)  # the number of the first row that is still there
        self._lock = threading.Lock()
        self._count = self._size = 0
        self._channels = {c.id: c for c in plan.channels if c.edge.target == DRIVER_CHAIN}
        self._credits = {c.id: ConsumedCredit(shell.window(c.producer, DRIVER)) for c in self._channels.values()}
        self._next_seq = dict.fromkeys(self._channels, 0)

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
        if self._count > self._most_rows or self._size > self._most_bytes:
            return CollectLimitError(
                f"collect {name!r} received more than {self._most_rows:,} rows or {self._most_bytes:,} bytes:"
                " write such results to a file (write_csv, write_jsonl), or aggregate them first"
            )
        with self._lock:
            self.rows[name].extend(records)
        amount = self._credits[data.channel].consume(data.cost)
        if amount:
            self._shell.send(DRIVER, self.producer(data.channel), Credit(data.channel, amount))
        return None

    def take(self, name: str, attempt: int, number: int) -> TakenRows:
        """Return rows from `number` on, if that counts the rows of this attempt, else from the first.

        What is before them is forgotten. Raises PipelineError if there is no such sink.
        """
        if name not in self.rows:
            known = ", ".join(map(repr, self.rows)) or "none"
            raise PipelineError(f"no collect sink has the name {name!r}; there are: {known}")
        with self._lock:
            rows = self.rows[name]
            given = number - self._firsts[name] if attempt == self._plan.attempt else 0
            if given > 0:
                self._size -= int(self._size * given / self._count)
                self._count -= given
                self._firsts[name] = number
                del rows[:given]
            return TakenRows(self._plan.attempt, rows[:_MOST_TAKEN])


def _estimated_size(records: list[Any]) -> int:
    """Estimate the bytes of rows from the first one: an exact count would pickle everything twice."""
    try:
        one = len(pickle.dumps(records[0], protocol=5))
    except Exception:  # rows of a local job need not pickle; then the size of the object itself has to do
        one = sys.getsizeof(records[0])
    return one * len(records)
