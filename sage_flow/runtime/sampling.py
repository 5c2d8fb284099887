"""Which operator of a chain takes the time: a sample of where its thread is, each time that somebody looks.

The operators of a chain run in one loop, and to time each of them for each record would cost more than many of them do.
But the loop is generated, with a line for each operator, so the line in which a thread is tells the operator.
"""

from __future__ import annotations

import weakref
from collections import Counter
from types import CodeType, FrameType
from typing import Final, Protocol

from sage_flow.plan.graph import Operator

__all__ = ["Samples", "is_sampled", "operator_in"]

_MOST: Final = 64
"""From so many samples on older ones count half, so that the shares are those of the last minute or so."""


class _Line(Protocol):
    @property
    def operator(self) -> Operator: ...


class _Sampled(Protocol):
    def line_at(self, number: int) -> _Line | None: ...


_chains: weakref.WeakValueDictionary[int, _Sampled] = weakref.WeakValueDictionary()  # by the ids of their code


def is_sampled(code: CodeType, chain: _Sampled) -> None:
    """From now on a frame of this code is known to be one of this chain, as long as the chain lives."""
    _chains[id(code)] = chain


def operator_in(frame: FrameType | None, readers: dict[CodeType, str]) -> str | None:
    """Return the name of the operator whose code has led to this frame, None if it is the engine's own.

    `readers`: code that is the work of an operator as a whole, by its name.
    """
    while frame is not None:
        if (name := readers.get(frame.f_code)) is not None:
            return name
        chain = _chains.get(id(frame.f_code))
        if chain is not None:
            line = chain.line_at(frame.f_lineno)
            return None if line is None else line.operator.name
        frame = frame.f_back
    return None


class Samples:
    """How often each operator was found at work."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, operator: str | None) -> None:
        """Count one sample; None counts nothing."""
        if operator is None:
            return
        if self._counts.total() >= _MOST:
            self._counts = Counter({name: count // 2 for name, count in self._counts.items() if count > 1})
        self._counts[operator] += 1

    def told(self) -> dict[str, int]:
        """Return the counts now."""
        return dict(self._counts)
