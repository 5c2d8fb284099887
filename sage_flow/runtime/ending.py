"""Limits the time that the end of a subtask takes.

A subtask *ends* once all its records are processed: remaining coroutines are cancelled, a service answers its open
calls, functions are closed, sinks publish. Only user code can block that. After `grace_s` seconds the driver asks the
subtask for its position, and for the remaining time of the callers that wait for it (`Located.left_s`). The subtask is
blocked if it is in user code for which no caller waits any more, or does not answer. A subtask that waits for others
is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from sage_flow.runtime.messages import Located

__all__ = ["ANSWER_S", "Blocked", "EndWatch"]

ANSWER_S: Final = 5.0
"""For a subtask to say where it is, which it can whatever its user code does: unless that keeps the interpreter."""


class Blocked(NamedTuple):
    """The end of this subtask is held up; `places` are lines of user code, None if it gave no answer."""

    address: int
    places: tuple[str, ...] | None


class EndWatch:
    """The subtasks that are ending. Times are seconds of any clock that never goes back."""

    def __init__(self, grace_s: float, not_started: Iterable[int] = ()) -> None:
        self.grace_s = grace_s
        self.give_up_at: float | None = None
        """The job is being cancelled: when it ends without the user code that has not come back; None: it is not."""
        self._not_started = set(not_started)
        self._ends_at_start: set[int] = set()  # their end began before they did
        self._due: dict[int, float] = {}  # when to ask each
        self._asked: dict[int, Located | None] = {}
        self._answer_by = math.inf
        self._answer_s = ANSWER_S

    def begin(self, address: int, now: float) -> None:
        """Only its end is left of a subtask, or its next step."""
        if self.give_up_at is not None:
            return
        if address in self._not_started:
            self._ends_at_start.add(address)
            return
        self._asked.pop(address, None)
        self._due[address] = now + self.grace_s

    def start(self, address: int, now: float) -> None:
        """A subtask tells of itself. The time that a process needs to start is not the time of its end."""
        self._not_started.discard(address)
        if address in self._ends_at_start:
            self._ends_at_start.remove(address)
            self.begin(address, now)

    def over(self, address: int) -> None:
        """It has ended, or that step of it."""
        self._due.pop(address, None)
        self._asked.pop(address, None)

    def on_cancel(self, give_up_at: float, answer_s: float = ANSWER_S) -> None:
        """The end of the job is not the normal one any more: nothing ends, until `give_up_at`.

        `answer_s`: how long the answers of those who are asked then are waited for.
        """
        self.give_up_at = give_up_at
        self._answer_s = answer_s
        self._due.clear()
        self._asked.clear()
        self._ends_at_start.clear()

    def __contains__(self, address: int) -> bool:
        return address in self._due or address in self._asked

    @property
    def next_look(self) -> float:
        """When to look again; infinite while nothing is ending."""
        look_at = self._answer_by if self._asked else min(self._due.values(), default=math.inf)
        return look_at if self.give_up_at is None else min(look_at, self.give_up_at)

    def look(self, now: float) -> tuple[int, ...]:
        """Return the subtasks to be asked now where they are."""
        if self._asked:
            return ()
        late = tuple(address for address, when in self._due.items() if when <= now)
        self.ask(late, now)
        return late

    def look_once(self, alive: tuple[int, ...], now: float) -> tuple[int, ...]:
        """After a cancel: once `give_up_at` has passed, return those that are to be asked where they are."""
        if self.give_up_at is None or now < self.give_up_at:
            return ()
        self.give_up_at = math.inf  # from now on only the answers are waited for
        self.ask(alive, now)
        return alive

    def ask(self, addresses: tuple[int, ...], now: float) -> None:
        """They are asked; `on_located` takes the answers."""
        for address in addresses:
            self._due.pop(address, None)
            self._asked[address] = None
        self._answer_by = now + self._answer_s

    def on_located(self, told: Located) -> None:
        """An answer has come."""
        if told.subtask in self._asked:
            self._asked[told.subtask] = told

    def is_answered(self, now: float) -> bool:
        """Whether all that were asked have answered, or their time is over."""
        return bool(self._asked) and (now >= self._answer_by or None not in self._asked.values())

    def answers(self) -> dict[int, tuple[str, ...] | None]:
        """Where those are that were asked; None: no answer. Nobody is asked any more."""
        asked, self._asked = self._asked, {}
        return {address: None if told is None else told.places for address, told in asked.items()}

    def verdict(self, now: float) -> tuple[Blocked, ...]:
        """Return who is blocked, once all have answered. The others get another while."""
        if not self.is_answered(now):
            return ()
        asked, self._asked = self._asked, {}
        blocked: list[Blocked] = []
        waiting: list[int] = []
        for address, told in asked.items():
            if told is None:
                blocked.append(Blocked(address, None))
            elif told.left_s > 0:
                self._due[address] = now + told.left_s + self.grace_s
            elif told.places:
                blocked.append(Blocked(address, told.places))
            else:
                waiting.append(address)
        if blocked:
            return tuple(blocked)
        if not self._due:  # they wait for each other, or for what was lost: nothing else is left to wait for
            return tuple(Blocked(address, ()) for address in waiting)
        self._due.update(dict.fromkeys(waiting, now + self.grace_s))
        return ()
