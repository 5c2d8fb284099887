"""Simulation: a job under a scheduler that a seed drives, in virtual time.

Every activation is a thread, but exactly one runs: it holds the baton. Wherever real threads could be
preempted in a way that matters - before a lock, at a send, in a wait - it may give the baton back, and the
seed picks what happens next: another activation goes on, or a message arrives. Messages keep their order
per sender and receiver and are late at random, the first on each path by more. Time moves only when
nothing else can; so a deadline that passes means that something really did not come. When nothing can ever
happen again the run ends with an error that says who waits.

The same seed gives the same trace, in any process (deterministic simulation testing, as in FoundationDB).

User code that blocks in real time (`time.sleep`, a lock of its own) keeps the baton, and virtual time stands still.
While the job runs that is the user's affair; at its end and after a cancel the grace times hold in real seconds, too:
then the activation is abandoned.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from sage_flow.errors import InternalError, PipelineError
from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.executors.execution import JobOutcome, LocalExecution
from sage_flow.executors.positions import thread_place
from sage_flow.executors.shell import record_window
from sage_flow.executors.simulated_processes import ProcessDeath, SimulatedProcesses
from sage_flow.executors.threads import LocalTransport, queues_of_process
from sage_flow.executors.worker import Worker
from sage_flow.plan.physical import Plan
from sage_flow.plan.queues import JobQueues
from sage_flow.queues.job_queues import end_job_queues
from sage_flow.queues.local import wait_by
from sage_flow.runtime.failure import add_notes
from sage_flow.runtime.messages import Data, Message
from sage_flow.runtime.port import Crashed

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger("sage_flow")

__all__ = ["Deadlock", "ProcessDeath", "SimulationExecutor", "VirtualClock"]

_YIELD_AT_LOCK = 0.1
_YIELD_AT_SEND = 0.3
_LATE = 0.1
_LATE_S = 0.005
_FIRST_USE_LATE = 0.5
_FIRST_USE_LATE_S = 0.05
_LONG_S = 30.0  # real seconds that nobody expects an activation to keep the baton for
_LOOK_S = 0.05  # real seconds between looks at an activation that does not come back


class VirtualClock:
    """Seconds that pass only when told to."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds since the clock's beginning."""
        return self._now

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
            pass  # what a crash is: it just stops
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
    """Exactly one activation runs, so there is nothing to lock; waiting gives the baton back."""

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
    """How an activation waits at a queue: it gives the baton back."""

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
        """Real seconds that an activation may keep the baton, asked whenever one has it for long."""
        self._handing_over = threading.Lock()
        self._abandoned: dict[threading.Thread, _Activation] = {}
        self._random = random.Random(seed)
        self._crash_at = crash_at
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
        """End the activations of these names behind the current step, as kill -9 would."""
        victims = [a for a in self._activations if not a.is_over and not a.crashes and is_victim(a.name)]
        for victim in victims:
            victim.crashes = True
        self._crashing += victims

    def _running_here(self) -> _Activation | None:
        """The activation that this thread is; None for the scheduler's and for threads outside the simulation."""
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
        """It gives the baton back, unless it has kept it for so long that the others go on without it."""
        with self._handing_over:
            if not me.is_abandoned:
                self.baton.release()

    @property
    def has_interrupts(self) -> bool:
        """Whether somebody outside waits for the running step to end."""
        return bool(self._interrupts)

    def interrupt(self, action: Callable[[], None]) -> None:
        """From a thread outside the simulation: do this between two steps."""
        self._interrupts.append(action)

    # -- the steps ------------------------------------------------------------------------------------------

    def run(self, deliver: Callable[[int, Message], None], is_over: Callable[[], bool]) -> None:
        """Step until the job is over; then end what is left. Raises Deadlock."""
        try:
            while not is_over():
                while self._crashing:
                    if not (victim := self._crashing.pop()).is_over:
                        self._resume(victim)
                self._step(deliver)
        finally:
            for activation in self._activations:
                if not activation.is_over:
                    activation.crashes = True
                    self._resume(activation)

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
            self._note(f"abandoned {activation.name}")  # the driver finds out in virtual time, and asks it where it is
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


class SimulationShell:
    """The shell over a scheduler. Blocking sources are called inline."""

    feeds_sources = False

    def __init__(self, scheduler: Scheduler, transport: LocalTransport) -> None:
        self._scheduler = scheduler
        self._transport = transport

    def condition(self, address: int | None = None) -> SimulatedCondition:
        return SimulatedCondition(self._scheduler)

    def spawn(self, name: str, run: Callable[[], None]) -> None:
        self._scheduler.spawn(name, run)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        from sage_flow.executors.simulated_loop import SimulatedEventLoop

        return SimulatedEventLoop(self.condition(), self.now)

    def now(self) -> float:
        return self._scheduler.now

    def flush(self) -> None:
        """Nothing is ever on hold."""

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        message = self._transport.copied(message)
        self._scheduler.send(sender, target, message)
        return message.cost if isinstance(message, Data) else 0

    def medium(self, producer: int, consumer: int) -> str:
        return "memory"

    def shares_objects(self, producer: int, consumer: int) -> bool:
        return not self._transport.copies_records

    def window(self, producer: int, consumer: int) -> int:
        return record_window(consumer)


class SimulatedExecution(LocalExecution):
    """A job in the simulation. Every error of it tells the seed that repeats it."""

    def __init__(self, driver: Driver, scheduler: Scheduler, seed: int) -> None:
        super().__init__(
            driver,
            lambda reason: scheduler.interrupt(lambda: driver.cancel(reason)),
            lambda: scheduler.interrupt(driver.drain),
            partial(end_job_queues, driver.plan.queues),
        )
        self._note = f"simulation with seed {seed}, which gives the same schedule again"

    def outcome(self) -> JobOutcome:
        try:
            outcome = super().outcome()
        except BaseException as crash:
            self._tell_seed(crash)
            raise
        failure = outcome.failure
        if failure is None:
            return outcome
        if failure.original is not None:
            self._tell_seed(failure.original)
        return replace(outcome, failure=replace(failure, notes=(*failure.notes, self._note)))

    def _tell_seed(self, error: BaseException) -> None:
        if self._note not in getattr(error, "__notes__", ()):
            add_notes(error, [self._note])


@dataclass
class SimulationExecutor:
    """Runs jobs in the simulation.

    `seed` picks the schedule. `crash_at` kills the process of a subtask, by name, at the first turn of the subtask
    from this step on. `processes`: how many there are, to which subtasks go in turn; 0: one for each subtask.
    `deaths`: how some of them die. `clock` shows the virtual time, also to user code. `trace` is that of the last job:
    one line per step.
    """

    seed: int = 0
    crash_at: Mapping[str, int] = field(default_factory=dict)
    processes: int = 0
    deaths: Sequence[ProcessDeath] = ()
    clock: VirtualClock = field(default_factory=VirtualClock)
    trace: list[str] = field(default_factory=list, repr=False)

    def start(self, plan: Plan, options: DriverOptions) -> LocalExecution:
        """Start the scheduler in a thread of its own. Raises PipelineError for what only threads can do."""
        taking = [name for name, service in plan.services.items() if service.requests is not None]
        if taking:
            raise PipelineError(
                f"service {taking[0]!r} takes requests from a queue, which the simulation cannot: when they come would"
                " not be repeatable"
            )
        scheduler = Scheduler(self.seed, self.crash_at, self.clock)
        self.trace = scheduler.trace
        transport = LocalTransport(copies_records=True)
        shell = SimulationShell(scheduler, transport)
        driver = Driver(plan, shell, options)
        processes = SimulatedProcesses(plan, scheduler, shell.condition, driver.deliver, self.processes, self.deaths)
        execution = SimulatedExecution(driver, scheduler, self.seed)
        scheduler.spawn("driver", execution.lead)
        workers = {subtask.address: Worker(plan, subtask, shell) for subtask in plan.subtasks}
        for subtask in plan.subtasks:
            scheduler.spawn(subtask.name, workers[subtask.address].run)
        processes.start({address: worker.port.deliver for address, worker in workers.items()})

        def patience_s(name: str) -> float:
            if execution.is_over or scheduler.has_interrupts or driver.is_cancelled:
                return options.cancel_grace_s
            ends = any(
                driver.is_ending(address) or workers[address].is_ending for address in processes.addresses_of(name)
            )
            return options.close_grace_s if ends else math.inf

        scheduler.on_crash, scheduler.patience_s = processes.crash, patience_s

        def simulate() -> None:
            try:
                scheduler.run(processes.deliver, lambda: execution.is_over)
            except BaseException as error:  # a deadlock, above all: it belongs to whoever waits for the job
                execution.fail(error)

        threading.Thread(target=simulate, name=f"simulation of {plan.job}", daemon=True).start()
        return execution

    def queues(self, scope: str) -> JobQueues:
        """In this process."""
        return queues_of_process(scope)


def _told(message: Message) -> str:
    kind = type(message).__name__
    return f"{kind} of {len(message.records)} on {message.channel}" if isinstance(message, Data) else kind


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
