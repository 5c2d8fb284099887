"""What a join calls for two rows that meet, or for a row that met none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.first_values import look_at
from sage_flow.runtime.key_table import MISSING

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Pairs"]


class Pairs:
    """The user's function of a left and a right row, in one subtask.

    `call(left, right)` returns its value; MISSING if it failed and `on_error` lets the job go on without the pair.

    Attributes:
        sides: the sides whose rows go out alone if they met none: 0 is the left one.
        time: the timestamp of the pair, which a dead letter has. To be set before `call` where `wants_time`.
    """

    def __init__(self, bound: BoundOperator) -> None:
        self._bound = bound
        operator = bound.operator
        self.sides: tuple[int, ...] = {"inner": (), "left": (0,), "outer": (0, 1)}[operator.options["how"]]
        self.wants_time = operator.timed and operator.on_error == "dead_letter"
        self.time = 0
        self._function: Callable[[Any, Any], Any] = bound.functions[0]
        if (look := look_at(operator, self._function)) is not None:
            self._function, look.on_done = look, self._call_directly
        self._bind()

    def _bind(self) -> None:
        fails = self._bound.operator.on_error == "fail"
        self.call: Callable[[Any, Any], Any] = self._function if fails else self._guarded

    def _call_directly(self) -> None:
        self._function = self._bound.functions[0]
        self._bind()

    def alone(self, side: int, value: Any) -> Any:
        """Call the function for a row that met none: None stands for the other one."""
        left, right = (value, None) if side == 0 else (None, value)
        try:
            return self.call(left, right)
        except Exception:
            self.failed(left, right)
            raise

    def failed(self, left: Any, right: Any) -> None:
        """The call for this pair has raised, and the job fails: its error shows both rows."""
        self._bound.held.under_way = (left, right)

    def _guarded(self, left: Any, right: Any) -> Any:
        try:
            return self._function(left, right)
        except Exception as error:
            if self.wants_time:
                self._bound.context.timestamp = self.time
            self._bound.reject((left, right), error)
            return MISSING
