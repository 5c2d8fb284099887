"""The state of session windows: for each key its live sessions, mostly one.

The window of a record is [t, t + gap). It is brought together with the sessions of its key that it overlaps; whether it
is late is judged by the window that comes of that. A session fires when the time is at its end. With allowed lateness
it lives for that much longer, and fires again at once for each change.

When sessions are due is kept in a heap with one entry for each session: an entry for a session that has grown meanwhile
goes back into the heap with the new end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.firing import Results
from sage_flow.runtime.held import Held
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.state import check_key
from sage_flow.windows import Firing, SessionWindow

if TYPE_CHECKING:
    from sage_flow.runtime.lines.aggregates import Aggregation
    from sage_flow.runtime.operators import BoundOperator

__all__ = ["SessionWindows"]


class _Session:
    __slots__ = ("end", "has_fired", "is_changed", "is_live", "key", "start", "value")

    def __init__(self, key: Any, start: int, end: int, value: Any) -> None:
        self.key = key
        self.start = start
        self.end = end
        self.value = value
        self.has_fired = False
        self.is_changed = True  # since it has fired
        self.is_live = True  # it is neither over nor part of another one


class SessionWindows(Held):
    """The sessions of one operator in one subtask. `add` is what the compiled chain calls."""

    def __init__(self, bound: BoundOperator, aggregation: Aggregation, window: SessionWindow, lateness_ms: int) -> None:
        self._bound = bound
        self._aggregation = aggregation
        self._step = aggregation.adder()
        self._results = Results(bound, aggregation.result)
        self._gap_ms = window.gap_ms
        self._touch_ms = 1 if window.touching == "merge" else 0
        self._lateness_ms = lateness_ms
        self._sessions: dict[Any, list[_Session]] = {}  # by key
        self._looks: list[tuple[int, int, _Session]] = []  # when to look at a session again
        self._numbers = count()
        self._again: list[_Session] = []  # those that have to fire at once

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """A session whose end has passed got a record."""
        return bool(self._again)

    # -- records --------------------------------------------------------------------------------------------

    def add(self, key: Any, value: Any, timestamp: int) -> bool:
        """Take a record; return False if it is late."""
        sessions = self._sessions.get(key)
        start, end = timestamp, timestamp + self._gap_ms
        if sessions is None:
            check_key(key)
            sessions = []
        touch = self._touch_ms
        met = [session for session in sessions if session.start < end + touch and start < session.end + touch]
        now = self._bound.now
        if not met and end + self._lateness_ms <= now:
            return False
        if not met:
            self._begin(sessions, _Session(key, start, end, self._step(self._aggregation.first(), value)))
            return True
        kept = met[0]
        before = kept.value if len(met) == 1 else self._aggregation.merged([session.value for session in met])
        kept.value = self._step(before, value)
        kept.start = min(start, *(session.start for session in met))
        kept.end = max(end, *(session.end for session in met))
        kept.is_changed = True
        for other in met[1:]:
            sessions.remove(other)
            other.is_live = False
        if kept.end <= now:
            self._again.append(kept)
        elif kept.has_fired:
            kept.has_fired = False
            self._look_again(kept, kept.end)  # before the time at which it would have been over
        return True

    def _begin(self, sessions: list[_Session], session: _Session) -> None:
        sessions.append(session)
        sessions.sort(key=lambda other: other.start)
        self._sessions[session.key] = sessions
        self._look_again(session, session.end)
        if session.end <= self._bound.now:
            self._again.append(session)

    def _look_again(self, session: _Session, at: int) -> None:
        heappush(self._looks, (at, next(self._numbers), session))

    # -- results --------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterable[list[Any]]:
        """Fire the sessions that end up to `now`, and forget those that nothing can change any more."""
        batch: list[Any] = []
        again, self._again = self._again, []
        for session in sorted(dict.fromkeys(again), key=lambda one: (one.end, one.start)):
            if session.is_live and session.is_changed:
                batch += self._fire(session, "late")
        while self._looks and self._looks[0][0] <= now:
            session = heappop(self._looks)[2]
            if session.is_live:
                batch += self._look_at(session, now)
            if len(batch) >= FRAME_RECORDS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _look_at(self, session: _Session, now: float) -> Iterable[Any]:
        over_at = session.end + self._lateness_ms
        if over_at <= now:
            self._forget(session)
        else:
            self._look_again(session, session.end if session.end > now else over_at)
        return self._fire(session, "on_time") if session.end <= now and session.is_changed else ()

    def _forget(self, session: _Session) -> None:
        session.is_live = False
        sessions = self._sessions[session.key]
        sessions.remove(session)
        if not sessions:
            del self._sessions[session.key]

    def _fire(self, session: _Session, firing: Firing) -> Iterator[Any]:
        session.is_changed = False
        session.has_fired = True
        return self._results.of(((session.key, session.value),), session.start, session.end, firing)
