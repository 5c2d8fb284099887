"""The life of the functions, sources and sinks of one subtask: open, close, and what the sinks do at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sage_flow.functions import Sink
from sage_flow.runtime.blame import Blame
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.port import UNWINDING
from sage_flow.runtime.sinks import SinkOperator, SubtaskSinks, call_all

__all__ = ["Lifecycle"]


class Lifecycle:
    """`operators` in the order of the records; `keys` are the key functions of outputs, which receive last."""

    def __init__(
        self,
        operators: Sequence[BoundOperator],
        keys: Sequence[BoundOperator],
        caller: Caller,
        blame: Blame,
        index: int,
        *,
        follows: bool,
    ) -> None:
        """`follows`: there were earlier attempts, and none of them decided the end of the job."""
        self._operators = operators
        self._keys = keys
        self._caller = caller
        self._blame = blame
        self._follows = follows
        self._opened: list[BoundOperator] = []
        self.sinks = SubtaskSinks(self._sinks(), index, blame.explain)

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
        if self._follows:
            self.sinks.recover(())  # nothing of the attempts before this one is published

    def close(self) -> None:
        """Close what was opened, all of it; raises the first error."""
        self._caller.begin_close()
        opened, self._opened = self._opened[::-1], []
        call_all([(bound.operator, bound.close) for bound in opened], self._blame.explain)

    def _sinks(self) -> Iterator[SinkOperator]:
        for bound in self._operators:
            for function in dict.fromkeys(bound.functions):
                if isinstance(function, Sink):
                    yield SinkOperator(bound.operator, function)
