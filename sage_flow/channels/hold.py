"""Whether more messages follow at once, so that those of this thread may go together.

What is sent on hold is written by the next message that is not, or by the exchange thread, which is told; whichever
comes first. So a message on hold is late by the work of a moment, and never by that of the user's code.
"""

from __future__ import annotations

import threading


class _State(threading.local):
    on_hold = False


_state = _State()


def is_on_hold() -> bool:
    """Whether this thread said so."""
    return _state.on_hold


class OnHold:
    """In its `with` block this thread's messages are on hold, if `more` follow."""

    __slots__ = ("_before", "_more")

    def __init__(self, more: bool) -> None:
        self._more = more

    def __enter__(self) -> None:
        self._before = _state.on_hold
        _state.on_hold = self._more

    def __exit__(self, *_: object) -> None:
        _state.on_hold = self._before
