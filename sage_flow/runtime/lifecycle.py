"""The life of the functions, sources and sinks of one subtask: open, close, commit, abort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sage_flow.functions import Sink
from sage_flow.runtime.blame import Blame
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.port import UNWINDING, Crashed

__all__ = ["Lifecycle"]


class Lifecycle:
    """`operators` in the order of the records; `keys` are the key functions of outputs, which receive last."""

    def __init__(
        self, operators: Sequence[BoundOperator], keys: Sequence[BoundOperator], caller: Caller, blame: Blame
    ) -> None:
        self._operators = operators
        self._keys = keys
        self._caller = caller
        self._blame = blame
        self._opened: list[BoundOperator] = []

    def open(self) -> None:
        """Open the functions, from the last to the first: each receiver is ready before its sender."""
        for bound in reversed([*self._operators, *self._keys]):
            try:
                bound.open()
            except UNWINDING:
                raise
            except BaseException as error:
                self._blame.explain(error, bound.operator)
                raise
            self._opened.append(bound)

    def close(self) -> None:
        """Close what was opened, all of it; raises the first error."""
        self._caller.begin_close()
        opened, self._opened = self._opened[::-1], []
        self._call_all([(bound, bound.close) for bound in opened])

    def commit(self) -> None:
        """Publish what the sinks wrote; raises the first error."""
        self._call_all([(bound, sink.commit) for bound, sink in self._sinks()])

    def abort(self) -> None:
        """Remove what the sinks wrote; raises the first error."""
        self._call_all([(bound, sink.abort) for bound, sink in self._sinks()])

    def _sinks(self) -> list[tuple[BoundOperator, Sink[Any]]]:
        found = [(bound, function) for bound in self._operators for function in bound.functions]
        return [(bound, function) for bound, function in found if isinstance(function, Sink)]

    def _call_all(self, actions: list[tuple[BoundOperator, Callable[[], None]]]) -> None:
        """Call each, whatever the others raise; raise the first error."""
        first: BaseException | None = None
        for bound, action in actions:
            try:
                action()
            except Crashed:
                raise
            except BaseException as error:  # also SystemExit: the others are still to be closed
                self._blame.explain(error, bound.operator)
                first = first or error
        if first is not None:
            raise first
