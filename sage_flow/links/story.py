"""The last events of a long-lived object, which are shown when it has failed."""

from __future__ import annotations

from collections import deque

__all__ = ["Story"]

_EVENTS = 32


class Story:
    """The last 32 events, oldest first; times are those of the clock of whoever notes them.

    >>> story = Story()
    >>> story.note(1.5, "opened")
    >>> story.events()
    ((1.5, 'opened'),)
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: deque[tuple[float, str]] = deque(maxlen=_EVENTS)

    def note(self, now: float, what: str) -> None:
        """Add an event; from any thread."""
        self._events.append((now, what))

    def events(self) -> tuple[tuple[float, str], ...]:
        """Return them."""
        return tuple(self._events)
