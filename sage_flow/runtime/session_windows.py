"""The state of session windows: for each key its live sessions, mostly one.

The window of a record is [t, t + gap). It is brought together with the sessions of its key that it overlaps; whether it
is late is judged by the window that comes of that. A session fires when the time is at its end. With allowed lateness
it lives for that much longer, and fires again at once for each change.

A key that has one session, which has not fired, is in `single`: the compiled chain extends such a session itself.

When sessions are due is kept in a heap with one entry for each session: an entry for a session that has grown meanwhile
goes back into the heap with the new end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from sage_flow.runtime.early_results import EarlyResults
from sage_flow.runtime.firing import results_of
from sage_flow.runtime.held import Held
from sage_flow.runtime.key_table import check_key
from sage_flow.runtime.messages import FRAME_RECORDS
from sage_flow.runtime.parts import Parts
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
        self._results = results_of(bound, aggregation.result)
        self._early = EarlyResults(bound)
        self.gap_ms = window.gap_ms
        self._touch_ms = 1 if window.touching == "merge" else 0
        self._lateness_ms = lateness_ms
        self.single: dict[Any, _Session] = {}  # by key
        self._several: dict[Any, list[_Session]] = {}  # of the other keys
        self._looks: list[tuple[int, int, _Session]] = []  # when to look at a session again
        self._numbers = count()
        self._again: list[_Session] = []  # those that have to fire at once
        self._changed: dict[_Session, None] = {}  # since early results were given, if any are wanted

    @property
    def is_urgent(self) -> bool:  # type: ignore[override]
        """A session whose end has passed got a record, or early results are due."""
        return bool(self._again) or self._early.are_due

    @property
    def look_at(self) -> float:
        """When early results are due."""
        return self._early.look_at

    # -- records --------------------------------------------------------------------------------------------

    def add(self, key: Any, value: Any, timestamp: int) -> bool:
        """Take a record; return False if it is late."""
        start, end = timestamp, timestamp + self.gap_ms
        sessions = self._sessions_of(key)
        if not sessions:
            check_key(key)
        touch = self._touch_ms
        met = [session for session in sessions if session.start < end + touch and start < session.end + touch]
        now = self._bound.now
        if not met and end + self._lateness_ms <= now:
            return False
        if not met:
            session = _Session(key, start, end, self._step(self._aggregation.first(), value))
            self._keep(key, sorted([*sessions, session], key=lambda one: one.start))
            self._look_again(session, end)
        else:
            session = met[0]
            before = session.value if len(met) == 1 else self._aggregation.merged([one.value for one in met])
            session.value = self._step(before, value)
            session.start = min(start, *(one.start for one in met))
            session.end = max(end, *(one.end for one in met))
            session.is_changed = True
            for other in met[1:]:
                other.is_live = False
            self._keep(key, [one for one in sessions if one.is_live])
        if self._early.are_wanted:
            self._early.note_change()
            self._changed[session] = None
        if session.end <= now:
            self._again.append(session)
        elif session.has_fired:
            session.has_fired = False
            self._look_again(session, session.end)  # before the time at which it would have been over
        return True

    def _sessions_of(self, key: Any) -> list[_Session]:
        only = self.single.get(key)
        return self._several.get(key, []) if only is None else [only]

    def _keep(self, key: Any, sessions: list[_Session]) -> None:
        """These are the live sessions of a key, in their order."""
        self.single.pop(key, None)
        self._several.pop(key, None)
        if len(sessions) == 1 and sessions[0].end > self._bound.now:
            self.single[key] = sessions[0]
        elif sessions:
            self._several[key] = sessions

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
        if self._early.are_due and now < math.inf:
            batch += self._early_results(now)
        if batch:
            yield batch

    def _early_results(self, now: float) -> Iterator[Any]:
        self._early.begin()
        changed, self._changed = self._changed, {}
        for session in changed:
            if session.is_live and session.end > now:
                values = ((session.key, session.value),)
                yield from self._results.of(values, session.start, session.end, "early")

    @property
    def extends_in_loop(self) -> bool:
        """Whether the compiled chain may extend the session of a key itself: nobody must know that it has changed."""
        return not self._early.are_wanted

    def _look_at(self, session: _Session, now: float) -> Iterable[Any]:
        if session.end > now:
            self._look_again(session, session.end)
            return ()
        session.is_live = (over_at := session.end + self._lateness_ms) > now
        if session.is_live:
            self._look_again(session, over_at)
        self._keep(session.key, [one for one in self._sessions_of(session.key) if one.is_live])
        return self._fire(session, "on_time") if session.is_changed else ()

    def _fire(self, session: _Session, firing: Firing) -> Iterator[Any]:
        session.is_changed = False
        session.has_fired = True
        return self._results.of(((session.key, session.value),), session.start, session.end, firing)

    # -- snapshots ------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """The live sessions of each key."""
        sessions = [*((key, [one]) for key, one in self.single.items()), *self._several.items()]
        again = set(self._again)
        return Parts(keyed={"sessions": [(key, [self._kept(one, again) for one in live]) for key, live in sessions]})

    def _kept(self, one: _Session, again: set[_Session]) -> tuple[Any, ...]:
        return one.start, one.end, one.value, one.has_fired, one.is_changed, one in self._changed, one in again

    def restore(self, parts: Parts) -> None:
        """These sessions are live. When to look at them follows from their ends."""
        for key, kept in parts.keyed.get("sessions", ()):
            sessions = []
            for start, end, value, has_fired, is_changed, is_unseen, fires_again in kept:
                session = _Session(key, start, end, value)
                session.has_fired, session.is_changed = has_fired, is_changed
                sessions.append(session)
                self._look_again(session, end + self._lateness_ms if has_fired else end)
                if fires_again:
                    self._again.append(session)
                if is_unseen and self._early.are_wanted:
                    self._early.note_change()
                    self._changed[session] = None
            self._keep(key, sessions)
