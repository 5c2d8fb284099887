"""How a thread of a subtask spends its time: it works, has nothing to do, waits for credit, or waits for calls."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

__all__ = ["Wait", "WorkClock", "WorkTimes", "mean_of"]


class Wait(Enum):
    """What a thread waits for, named as the field of `WorkTimes` that counts it."""

    IDLE = "idle_s"
    CREDIT = "credit_s"
    CALLS = "calls_s"


_IDLE, _CALLS = Wait.IDLE, Wait.CALLS  # members are looked up in their class at each use


_State = tuple[float, float, float, Wait | None, float]


class WorkTimes(NamedTuple):
    """Seconds since the subtask began. Everything that is no wait counts as `busy_s`, user code that blocks too.

    `idle_s`: it waited for records or requests. `credit_s`: it waited because the readers of its output are slower.
    `calls_s`: it waited for replies of services, and for coroutines.
    """

    busy_s: float = 0.0
    idle_s: float = 0.0
    credit_s: float = 0.0
    calls_s: float = 0.0


class WorkClock:
    """The times of one thread. That thread notes its waits; any thread may read the times.

    The state is one tuple that is replaced as a whole, so a reader never sees half of a change.
    """

    __slots__ = ("_began", "_state", "_stepped")

    def __init__(self, now: float) -> None:
        self._began = self._stepped = now
        # Seconds idle, without credit and in calls; the wait under way, since when. Every call of a service passes here
        # four times: plain tuples take a third of the time of named ones.
        self._state: _State = 0.0, 0.0, 0.0, None, now

    def begin(self, wait: Wait, now: float) -> bool:
        """A wait begins. False, and no change, if it is part of another one."""
        idle_s, credit_s, calls_s, current, _ = self._state
        if current is not None:
            return False
        self._state = idle_s, credit_s, calls_s, wait, now
        return True

    def end(self, now: float) -> None:
        """The wait is over."""
        state = self._state
        if state[3] is not None:
            self._state = (*_waits(state, now), None, now)

    def step(self, now: float) -> None:
        """A further slice of records, or a request, begins."""
        self._stepped = now

    def doing(self, now: float) -> tuple[Wait | None, float]:
        """Return what the thread waits for, None if it works, and for how many seconds it has done so."""
        *_, wait, since = self._state
        return wait, max(0.0, now - (since if wait is not None else max(since, self._stepped)))

    def times(self, now: float) -> WorkTimes:
        """Return the times up to now, with the wait under way."""
        state = self._state
        idle_s, credit_s, calls_s = _waits(state, max(now, state[4]))
        busy_s = max(0.0, now - self._began - idle_s - credit_s - calls_s)
        return WorkTimes(busy_s, idle_s, credit_s, calls_s)


def _waits(state: _State, now: float) -> tuple[float, float, float]:
    """The seconds idle, without credit and in calls, up to now."""
    idle_s, credit_s, calls_s, wait, since = state
    if wait is _IDLE:
        return idle_s + now - since, credit_s, calls_s
    if wait is _CALLS:
        return idle_s, credit_s, calls_s + now - since
    return idle_s, credit_s if wait is None else credit_s + now - since, calls_s


def mean_of(times: Sequence[WorkTimes]) -> WorkTimes:
    """Return the mean over several threads: its fields add up to the time that has passed."""
    if not times:
        return WorkTimes()
    return WorkTimes(*(sum(column) / len(times) for column in zip(*times, strict=True)))
