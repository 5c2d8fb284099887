"""What the writer of a kind says: how operators are bound to a subtask, and which lines they are in a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.held import Held
from sage_flow.runtime.key_table import KeyTable
from sage_flow.runtime.lines.text import ChainText, Step

if TYPE_CHECKING:
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["Binding", "LineWriter"]


NOTHING_HELD = Held()


@dataclass(frozen=True, slots=True)
class Binding:
    """One operator in one subtask.

    `calls`: what its lines call, one per input side. `at_end` returns what it has held back, when its input has ended.
    `table`: its values by key. `held`: what it keeps back, where event time has a say in it.
    """

    calls: tuple[Callable[..., Any], ...]
    at_end: Callable[[], Iterable[Any]] = tuple
    table: KeyTable | None = None
    held: Held = NOTHING_HELD


class LineWriter:
    """Operators whose lines are alike. It has no state: what one operator needs is in its binding."""

    def bind(self, bound: BoundOperator) -> Binding:
        """By default the lines call the user's functions, and nothing is held back."""
        return Binding(tuple(bound.functions))

    def write(self, text: ChainText, step: Step) -> None:
        """Write what becomes of one record."""
        raise NotImplementedError
