"""Records of several readers: each reader has objects of its own.

Threads share objects and processes do not. So that a pipeline gives the same results in both, all readers in one
process but one get copies, made by the codec as a wire would make them. Exact immutable values are never copied, and
what has one reader is handed over as it is.

When is it copied? What leaves a chain, in one batch before anything of it is sent (`separate`, `Output.make_own`): a
frame that waits for credit is not pickled yet, and must not change meanwhile either. What goes to a side output, at
once, if the operator gives anything else for the same record (`SideRecords`): the chain goes on with that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sage_flow.errors import CodecError
from sage_flow.runtime.failure import add_notes, shown_record
from sage_flow.wire.codec import copy_records, copy_value

if TYPE_CHECKING:
    from sage_flow.runtime.outputs import Output

__all__ = ["SideRecords", "own_records", "separate"]


def own_records(records: list[Any]) -> list[Any]:
    """Copies of the records, for one more reader. Raises: CodecError that tells the record which has no copy."""
    try:
        return copy_records(records)
    except CodecError:
        for record in records:
            _own_record(record)
        raise  # none of them fails alone


def _own_record(record: Any) -> Any:
    try:
        return copy_value(record)
    except CodecError as error:
        told = CodecError(
            f"a record with several readers cannot be copied: {error}; each reader needs an object of its own, so"
            " let one operator read such records, or emit records that can be pickled"
        )
        add_notes(told, [f"record    {shown_record(record)}"])
        raise told from error


def separate(outputs: Iterable[Output]) -> None:
    """Choose which of the outputs with the same records send copies (`Output.sends_copies`).

    One may send the objects themselves: all that pickle what they send, as that changes nothing, else the first.
    """
    groups: dict[tuple[int, str | None], list[Output]] = {}
    for output in outputs:
        groups.setdefault((output.edge.operator, output.edge.tag), []).append(output)
    for group in groups.values():
        handing_over = [output for output in group if output.shares_objects]
        spared = 1 if len(handing_over) == len(group) else 0
        for output in handing_over[spared:]:
            output.sends_copies = True


class SideRecords:
    """What one operator puts on side outputs while it works on a record.

    Its caller may give the same object, or a part of it, to its main output. `is_alone`: what is put on a side output
    is perhaps all that is given for the record, which shows when the operator gives the next thing or comes to its end.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self._may_be_alone = is_alone
        self._is_alone = False
        self._waiting: tuple[Sequence[Output], Any, int | None] | None = None  # outputs, value, timestamp

    def put(
        self, outputs: Sequence[Output], value: Any, timestamp: int | None = None, *, is_last: bool = False
    ) -> None:
        """Add `value` to the outputs. `is_last`: the operator drops the record behind it."""
        if self._is_alone and self._waiting is None:
            self._waiting = (outputs, value, timestamp)
            return
        self.give()
        _add(outputs, value if is_last and not self._may_be_alone else _own_record(value), timestamp)

    def give(self) -> None:
        """The operator gives more for this record, or may change it: what waits goes as a copy."""
        self._is_alone = False
        if self._waiting is not None:
            (outputs, value, timestamp), self._waiting = self._waiting, None
            _add(outputs, _own_record(value), timestamp)

    def watching(self, call: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        """`call`, which gives any number of outputs for a record, so that it is seen what it gives."""

        def watched(value: Any, *ctx: Any) -> Iterator[Any]:
            self._is_alone, self._waiting = self._may_be_alone, None
            try:
                for given in call(value, *ctx):
                    self.give()
                    yield given
            except BaseException:
                self._waiting = None
                raise
            self._is_alone = False
            if self._waiting is not None:
                (outputs, alone, timestamp), self._waiting = self._waiting, None
                _add(outputs, alone, timestamp)

        return watched


def _add(outputs: Sequence[Output], value: Any, timestamp: int | None) -> None:
    for output in outputs:
        output.add(value, timestamp)
