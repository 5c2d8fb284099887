"""The scheduler of the simulation: one activation runs at a time, and a seed picks which, in virtual time."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from sage_flow.errors import InternalError
from sage_flow.executors.positions import thread_place
from sage_flow.queues.local import wait_by
from sage_flow.runtime.messages import Data, Message
from sage_flow.runtime.port import Crashed

if TYPE_CHECKING:
    pass

_log = logging.getLogger("sage_flow")

__all__ = ["Deadlock", "Scheduler", "SimulatedCondition", "VirtualClock"]

_YIELD_AT_LOCK = 0.1
_YIELD_AT_SEND = 0.3
_LATE = 0.1
_LATE_S = 0.005
_FIRST_USE_LATE = 0.5
_FIRST_USE_LATE_S = 0.05
_LONG_S = 30.0  # real seconds; if an activation keeps the baton for longer, that is logged
_LOOK_S = 0.05  # real seconds between looks at an activation that keeps the baton
_BEGINNING_MS = 1_577_836_800_000  # 2020-01-01T00:00:00Z


class VirtualClock:
    """A clock that moves only when `advance` is called."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds since the clock's beginning."""
        return self._now

    def wall_ms(self) -> int:
        """A wall clock that began at the first moment of 2020 and goes as this one does: ms since 1970."""
        return _BEGINNING_MS + int(self._now * 1000)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises ValueError if they are negative."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        self._now += seconds


class Deadlock(InternalError):
    """No activation can go on, no message is under way, and no deadline is set."""


class _Activation:
    def __init__(self, name: str, run: Callable[[], None], scheduler: Scheduler) -> None:
        self.name = name
        self.waits_for: SimulatedCondition | None = None
        self.deadline: float | None = None
        self.crashes = False
        self.is_over = False
        self.is_abandoned = False
        self.baton = _taken_lock()
        self.thread = threading.Thread(target=self._body, args=(run, scheduler), name=name, daemon=True)
        self.thread.start()

    def _body(self, run: Callable[[], None], scheduler: Scheduler) -> None:
        self.baton.acquire()
        wait_by(lambda: _SimulatedTurn(SimulatedCondition(scheduler)))
        try:
            if not self.crashes:
                run()
        except Crashed:
            pass  # a crash just stops it
        finally:
            self.is_over = True
            scheduler.take_back(self)

    @property
    def is_runnable(self) -> bool:
        return self.waits_for is None and not self.is_over


@dataclass(slots=True)
class _Path:
    """Messages from one address to another, in order."""

    sender: int
    target: int
    messages: deque[tuple[float, Message]] = field(default_factory=deque)
    last_due: float = 0.0


class SimulatedCondition:
    """Exactly one activation runs, so no lock is needed; waiting gives the baton back."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __enter__(self) -> bool:
        self._scheduler.maybe_yield(_YIELD_AT_LOCK)
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Nothing is held."""

    @property
    def lock(self) -> SimulatedCondition:
        return self

    def wait(self, timeout: float | None = None) -> bool:
        return self._scheduler.wait(self, timeout)

    def notify_all(self) -> None:
        self._scheduler.notify(self)


class _SimulatedTurn:
    """The way in which an activation waits at a queue: it gives the baton back."""

    def __init__(self, condition: SimulatedCondition) -> None:
        self._condition = condition
        self._has_come = False

    def wait(self, seconds: float | None) -> None:
        if not self._has_come:
            self._condition.wait(seconds)

    def come(self) -> None:
        self._has_come = True
        self._condition.notify_all()


class Scheduler:
    """Holds the baton between two steps and decides the next one."""

    def __init__(self, seed: int, crash_at: Mapping[str, int], clock: VirtualClock) -> None:
        self.clock = clock
        self.trace: list[str] = []
        self.baton = _taken_lock()
        self.on_crash: Callable[[str], None] = lambda _: None
        self.patience_s: Callable[[str], float] = lambda name: math.inf
        """Returns for how many real seconds an activation may keep the baton; called when one has kept it for long."""
        self._handing_over = threading.Lock()
        self._abandoned: dict[threading.Thread, _Activation] = {}
        self._random = random.Random(seed)
        self._crash_at = dict(crash_at)
        self._activations: list[_Activation] = []
        self._paths: dict[tuple[int, int], _Path] = {}
        self._current: _Activation | None = None
        self._interrupts: deque[Callable[[], None]] = deque()
        self._crashing: list[_Activation] = []
        self._steps = 0

    @property
    def now(self) -> float:
        return self.clock.now()

    # -- from activations -----------------------------------------------------------------------------------

    def spawn(self, name: str, run: Callable[[], None]) -> None:
        self._activations.append(_Activation(name, run, self))

    def send(self, sender: int, target: int, message: Message) -> None:
        self._running_here()
        path = self._paths.get((sender, target))
        if path is None:
            path = self._paths[sender, target] = _Path(sender, target)
            late, most = _FIRST_USE_LATE, _FIRST_USE_LATE_S
        else:
            late, most = _LATE, _LATE_S
        delay = self._random.random() * most if self._random.random() < late else 0.0
        path.last_due = max(path.last_due, self.now + delay)
        path.messages.append((path.last_due, message))
        self.maybe_yield(_YIELD_AT_SEND)

    def maybe_yield(self, probability: float) -> None:
        me = self._running_here()
        if me is not None and self._random.random() < probability:
            self._give_back(me)

    def wait(self, condition: SimulatedCondition, timeout: float | None) -> bool:
        me = self._running_here()
        if me is None:
            raise InternalError("only an activation of the simulation can wait")
        me.waits_for = condition
        me.deadline = None if timeout is None else self.now + timeout
        self._give_back(me)
        timed_out = me.deadline is not None and self.now >= me.deadline
        me.deadline = None
        return not timed_out

    def notify(self, condition: SimulatedCondition) -> None:
        for activation in self._activations:
            if activation.waits_for is condition:
                activation.waits_for = None

    def is_under_way(self, sender: int, target: int) -> bool:
        """Whether something was sent on this path that has not arrived."""
        path = self._paths.get((sender, target))
        return path is not None and bool(path.messages)

    def crash(self, is_victim: Callable[[str], bool]) -> None:
        """End the activations of these names after the current step, as kill -9 would."""
        victims = [a for a in self._activations if not a.is_over and not a.crashes and is_victim(a.name)]
        for victim in victims:
            victim.crashes = True
        self._crashing += victims

    def forget(self, kept: str = "") -> None:
        """End all activations but those of this name, and lose all messages: another attempt begins, or none."""
        self._paths.clear()
        self.crash(lambda name: name != kept)
        self._activations = [activation for activation in self._activations if activation.name == kept]

    def _running_here(self) -> _Activation | None:
        """Return the activation of this thread; None for the scheduler's, and for threads outside the simulation."""
        me = self._current
        if me is not None and me.thread is threading.current_thread():
            return me
        if threading.current_thread() in self._abandoned:
            raise Crashed
        return None

    def _give_back(self, me: _Activation) -> None:
        self.take_back(me)
        if me.is_abandoned:
            raise Crashed
        me.baton.acquire()
        if me.crashes:
            raise Crashed

    def take_back(self, me: _Activation) -> None:
        """Give the baton back, unless the activation was abandoned because it had kept it for too long."""
        with self._handing_over:
            if not me.is_abandoned:
                self.baton.release()

    @property
    def has_interrupts(self) -> bool:
        """Whether a thread outside waits for the running step to end."""
        return bool(self._interrupts)

    def interrupt(self, action: Callable[[], None]) -> None:
        """Call `action` between two steps; for threads outside the simulation."""
        self._interrupts.append(action)

    # -- the steps ------------------------------------------------------------------------------------------

    def run(self, deliver: Callable[[int, Message], None], is_over: Callable[[], bool]) -> None:
        """Step until the job is over; then end what is left. Raises Deadlock."""
        try:
            while not is_over():
                self._step(deliver)
                self._end_crashing()
        finally:
            self.forget()
            self._end_crashing()

    def _end_crashing(self) -> None:
        while self._crashing:
            if not (victim := self._crashing.pop()).is_over:
                self._resume(victim)

    def _step(self, deliver: Callable[[int, Message], None]) -> None:
        while self._interrupts:
            self._interrupts.popleft()()
        choices: list[_Activation | _Path] = [a for a in self._activations if a.is_runnable]
        choices.extend(p for p in self._paths.values() if p.messages and p.messages[0][0] <= self.now)
        if not choices:
            self._let_time_pass()
            return
        choice = choices[self._random.randrange(len(choices))]
        self._steps += 1
        if isinstance(choice, _Path):
            _, message = choice.messages.popleft()
            self._note(f"{choice.sender} -> {choice.target} {_told(message)}")
            deliver(choice.target, message)
            return
        self._note(f"run {choice.name}")
        if self._crash_at.get(choice.name, self._steps + 1) <= self._steps:
            del self._crash_at[choice.name]  # in the next attempt the activation of this name does not crash
            choice.crashes = True
        self._resume(choice)
        if choice.crashes:
            self._note(f"crash {choice.name}")
            self.on_crash(choice.name)

    def _resume(self, activation: _Activation) -> None:
        self._current = activation
        activation.baton.release()
        if not self.baton.acquire(timeout=_LOOK_S):
            self._wait_for(activation)
        self._current = None

    def _wait_for(self, activation: _Activation) -> None:
        since, is_told = time.monotonic(), False
        while not self.baton.acquire(timeout=_LOOK_S):
            if time.monotonic() - since >= _LONG_S and not is_told:
                is_told = True
                place = thread_place(activation.thread.ident)
                _log.warning("the simulation has been blocked for %g s: %s is at %s", _LONG_S, activation.name, place)
            if time.monotonic() - since < self.patience_s(activation.name):
                continue
            with self._handing_over:
                if self.baton.acquire(blocking=False):
                    return
                activation.is_abandoned = activation.is_over = True
                self._abandoned[activation.thread] = activation
            # The driver notices it in virtual time, and asks the subtask where it is.
            self._note(f"abandoned {activation.name}")
            return

    def _let_time_pass(self) -> None:
        deadlines = [a.deadline for a in self._activations if a.waits_for is not None and a.deadline is not None]
        arrivals = [path.messages[0][0] for path in self._paths.values() if path.messages]
        if not deadlines and not arrivals:
            waiting = ", ".join(a.name for a in self._activations if not a.is_over)
            raise Deadlock(f"nothing can happen any more at {self.now:.3f} s; waiting: {waiting}")
        self.clock.advance(min(deadlines + arrivals) - self.now)
        for activation in self._activations:
            if activation.waits_for is not None and activation.deadline is not None and activation.deadline <= self.now:
                activation.waits_for = None

    def _note(self, what: str) -> None:
        self.trace.append(f"{self.now:.6f} {what}")


def _told(message: Message) -> str:
    kind = type(message).__name__
    return f"{kind} of {len(message.records)} on {message.channel}" if isinstance(message, Data) else kind


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
