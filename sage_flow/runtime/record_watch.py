"""`check_shared_records`: the operator that changes a record which others hold is named.

A subtask watches the latest records that its operators were given and others hold, and those that it has sent. After
each call of user code it compares their pickles with what they were: whoever was called last has changed one.

Others hold a record if it has several readers; if it is the program's own (`from_collection`); and if it was sent. A
record that an operator alone was given it may change. So that a change by its reader is not taken for one by who sent
it, every edge sends copies, as between processes.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sage_flow.errors import SharedRecordError
from sage_flow.functions import Source
from sage_flow.plan.graph import Partitioning
from sage_flow.plan.physical import DRIVER_CHAIN, Edge, Plan
from sage_flow.plan.shared_records import SharedRecords
from sage_flow.runtime.failure import shorten
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import Output
from sage_flow.wire import by_value
from sage_flow.wire.codec import is_atomic

__all__ = ["RecordWatch"]

_LATEST = 100


class _Watched:
    __slots__ = ("holder", "pickled", "record")

    def __init__(self, record: Any, holder: str) -> None:
        self.record = record
        self.holder = holder
        self.pickled = _pickled(record)


class RecordWatch:
    """What one subtask watches."""

    def __init__(self, plan: Plan, shared: SharedRecords) -> None:
        self._shared = shared
        self._readers = _other_readers(plan)
        self._watched: deque[_Watched] = deque(maxlen=_LATEST)

    def install(self, operators: Sequence[BoundOperator], outputs: Iterable[Output]) -> None:
        """Watch what these operators do, and what these outputs send; before chains are compiled of them."""
        for bound in operators:
            wrap = self._watching_all if bound.operator.kind.iterates else self._watching
            if not bound.operator.kind.awaits:  # its functions run beside everything else
                bound.calls = tuple(wrap(call, bound.operator.name) for call in bound.calls)
        for output in outputs:
            output.sends_copies = output.shares_objects
            sender = operators[output.edge.operator].operator.name
            is_collected = output.edge.target == DRIVER_CHAIN
            output.records = _Sent(self, f"{sender!r} has {'collected' if is_collected else 'sent'} it before")
            output.on_copied = self._copied

    def hands_over(self, batch: list[Any], source: Source[Any], name: str) -> None:
        """A source gives records."""
        if source._holds_records():
            self._note(batch, f"the program passed it to {name!r} and still holds it")

    def received(self, records: list[Any], edge: Edge) -> None:
        """Records come on an edge, with their keys if it is keyed, and with their timestamps if it is timed."""
        if (readers := self._readers.get(edge.id)) is not None:
            if edge.key is not None or edge.timed:
                records = [record[0 if edge.key is None else 1] for record in records]
            self._note(records, readers)

    def sent(self, record: Any, holder: str) -> None:
        """A record is in the buffer of an output."""
        if not is_atomic(record):
            self._watched.append(_Watched(record, holder))

    def _note(self, records: list[Any], holder: str) -> None:
        for record in records:
            if not is_atomic(record):
                self._shared.note(record, holder)

    def _copied(self, records: list[Any], copies: list[Any]) -> None:
        """What others hold of a record they would hold of its copy if it were sent as it is."""
        for record, copied in zip(records, copies, strict=True):
            if copied is not record and (holder := self._shared.holder(record)) is not None:
                self._shared.note(copied, holder)

    # -- around calls of user code --------------------------------------------------------------------------

    def _watching(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*values: Any) -> Any:
            self._begin(values)
            made = call(*values)
            self._compare(name)
            return made

        return watched

    def _watching_all(self, call: Callable[..., Iterable[Any]], name: str) -> Callable[..., Iterator[Any]]:
        def watched(*values: Any) -> Iterator[Any]:
            self._begin(values)
            given = iter(call(*values))
            while True:
                try:
                    output = next(given)
                except StopIteration:
                    break
                self._compare(name)
                yield output
            self._compare(name)

        return watched

    def _begin(self, values: tuple[Any, ...]) -> None:
        for value in values:
            holder = self._shared.holder(value)
            if holder is not None and not any(watched.record is value for watched in self._watched):
                self._watched.append(_Watched(value, holder))

    def _compare(self, name: str) -> None:
        for watched in self._watched:
            now = _pickled(watched.record)
            if now != watched.pickled:
                before, watched.pickled = watched.pickled, now
                raise SharedRecordError(
                    f"{name!r} changes a record that is shared: {_text(before)} became {shorten(watched.record)};"
                    f" {watched.holder}. Emit a changed copy instead, such as {{**record, ...}},"
                    " dataclasses.replace(record, ...) or copy.deepcopy(record)"
                )


class _Sent(list[Any]):
    """The buffer of an output, which tells what comes into it."""

    def __init__(self, watch: RecordWatch, holder: str) -> None:
        super().__init__()
        self._watch = watch
        self._holder = holder

    def append(self, record: Any) -> None:
        super().append(record)
        self._watch.sent(record, self._holder)


def _pickled(record: Any) -> bytes | None:
    """None: it cannot be pickled. Pickling runs foreign code, which may raise anything."""
    try:
        return pickle.dumps(record, 5)
    except Exception:
        return _pickled_by_value(record)  # of a local class, perhaps


def _pickled_by_value(record: Any) -> bytes | None:
    try:
        return by_value.dumps(record)
    except Exception:
        return None


def _text(pickled: bytes | None) -> str:
    try:
        return "an unknown value" if pickled is None else shorten(pickle.loads(pickled))
    except Exception as error:
        return f"a value that does not unpickle ({type(error).__name__})"


def _other_readers(plan: Plan) -> dict[int, str]:
    """Of each edge whose records others read, too: who, as a sentence."""
    found = {}
    for edge in plan.edges:
        others = [
            plan.chains[other.target].head.name if other.target >= 0 else "the driver"
            for other in plan.edges
            if other is not edge and (other.source, other.operator, other.tag) == (edge.source, edge.operator, edge.tag)
        ]
        if others:
            found[edge.id] = f"{', '.join(map(repr, others))} {'reads' if len(others) == 1 else 'read'} it, too"
        elif edge.partitioning is Partitioning.BROADCAST and edge.target >= 0:
            target = plan.chains[edge.target]
            if target.parallelism > 1:
                found[edge.id] = f"all {target.parallelism} subtasks of {target.head.name!r} read it"
    return found
