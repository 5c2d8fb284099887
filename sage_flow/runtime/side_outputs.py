"""The side outputs of one subtask: who reads which tag of which operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan.graph import DEAD_LETTERS, LATE_RECORDS
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import Output
from sage_flow.runtime.sharing import SideRecords

__all__ = ["SideOutputs"]


class SideOutputs:
    """Takes what functions put on side outputs into the buffers of their readers.

    `on_full` is called when a buffer holds a whole frame.
    """

    def __init__(
        self, operators: Sequence[BoundOperator], outputs: Iterable[Output], on_full: Callable[[], None]
    ) -> None:
        self._on_full = on_full
        self._readers: dict[tuple[int, str], list[Output]] = {}  # by the operator's index and the tag
        for output in outputs:
            if output.edge.tag is not None:
                self._readers.setdefault((output.edge.operator, output.edge.tag), []).append(output)
        self._joins = {index for index, bound in enumerate(operators) if bound.operator.kind.pairs}
        """Operators that keep the records on which they failed: these may be in other pairs."""
        self._records = {index: _watch(operators[index]) for index in {index for index, _ in self._readers}}

    def reads(self, index: int, tag: str) -> bool:
        """Whether a side output of an operator is read."""
        return (index, tag) in self._readers

    def put(self, index: int, name: str, tag: str, value: Any, timestamp: int | None = None) -> None:
        """Put a value on a side output of an operator. Raises PipelineError if nothing reads it. May suspend."""
        readers = self._readers.get((index, tag))
        if readers is None:
            raise PipelineError(
                f"nothing reads side output {tag!r} of {name!r}: read it with .side_output({tag!r})"
                + (" (dead letters are read with .dead_letters())" if tag == DEAD_LETTERS else "")
            )
        is_last = tag == LATE_RECORDS or (tag == DEAD_LETTERS and index not in self._joins)
        self._records[index].put(readers, value, timestamp, is_last=is_last)
        if len(readers[0].records) >= FRAME_RECORDS:
            self._on_full()

    def give(self) -> None:
        """Move what waits to be copied into the buffers, because they are about to be sent."""
        for records in self._records.values():
            records.give()


def _watch(bound: BoundOperator) -> SideRecords:
    """See what the operator gives to its main output, where that can be nothing at all."""
    kind = bound.operator.kind
    gives_any = kind.iterates and not kind.takes_batches
    records = SideRecords(is_alone=gives_any)
    if gives_any:
        bound.calls = tuple(map(records.watching, bound.calls))
    return records
