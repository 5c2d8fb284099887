"""Whether more messages follow at once, so that those of this thread may go together.

What is sent on hold is written with the next message that is not, when its thread waits for something, or by the
exchange thread; whichever comes first. That thread comes within two milliseconds, so a message on hold is never late by
the work of the user's code.
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
