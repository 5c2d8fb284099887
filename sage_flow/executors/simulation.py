"""Simulation: a job under a scheduler that a seed drives, in virtual time.

Every activation is a thread, but exactly one runs: it holds the baton. Wherever real threads could be
preempted in a way that matters - before a lock, at a send, in a wait - it may give the baton back, and the
seed picks what happens next: another activation continues, or a message arrives. Messages keep their order
per sender and receiver and are late at random, the first on each path by more. Time moves only when nothing
else can happen, so if a deadline passes, something really did not come. When nothing can ever happen again the
run ends with an error that names the activations that wait.

The same seed gives the same trace, in any process (deterministic simulation testing, as in FoundationDB).

User code that blocks in real time (`time.sleep`, a lock of its own) keeps the baton, and virtual time stands still.
While the job runs there is no limit for that. At its end and after a cancel the grace times hold in real seconds, too:
after them the activation is abandoned.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from sage_flow.errors import PipelineError, WorkerDied
from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.execution import JobOutcome, LocalExecution
from sage_flow.executors.led_execution import LedExecution, LocalAttempt
from sage_flow.executors.resources import Resources
from sage_flow.executors.scheduler import Deadlock, Scheduler, SimulatedCondition, VirtualClock
from sage_flow.executors.shell import records_in_memory
from sage_flow.executors.simulated_processes import ProcessDeath, SimulatedProcesses
from sage_flow.executors.threads import LocalTransport, queues_of_process
from sage_flow.executors.worker import Worker
from sage_flow.plan.physical import Plan
from sage_flow.plan.queues import JobQueues
from sage_flow.queues.job_queues import end_job_queues
from sage_flow.runtime.failure import add_notes, pack_error
from sage_flow.runtime.messages import Data, Message

if TYPE_CHECKING:
    import asyncio

__all__ = ["Deadlock", "ProcessDeath", "SimulationExecutor", "VirtualClock"]

_DRIVER = "driver"


class SimulationShell:
    """The shell over a scheduler. Blocking sources are called inline."""

    feeds_sources = False

    def __init__(self, scheduler: Scheduler, transport: LocalTransport, resources: Resources) -> None:
        self.resources = resources
        self._scheduler = scheduler
        self._transport = transport

    def condition(self, address: int | None = None) -> SimulatedCondition:
        return SimulatedCondition(self._scheduler)

    def spawn(self, name: str, run: Callable[[], None], *, stores: bool = False) -> None:
        self._scheduler.spawn(name, run)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        from sage_flow.executors.simulated_loop import SimulatedEventLoop

        return SimulatedEventLoop(self.condition(), self.now)

    def now(self) -> float:
        return self._scheduler.now

    def wall_ms(self) -> int:
        return self._scheduler.clock.wall_ms()

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

    def most_cost(self, producer: int, consumer: int) -> int:
        return records_in_memory(consumer)


class SimulatedExecution(LedExecution):
    """A job in the simulation. Each of its errors names the seed that repeats it."""

    def __init__(
        self,
        plan: Plan,
        options: DriverOptions,
        start: Callable[[Plan, DriverOptions, DriverCalls], LocalAttempt],
        scheduler: Scheduler,
        seed: int,
        resources: Resources,
    ) -> None:
        def on_over() -> None:
            resources.close(options.close_grace_s)
            end_job_queues(plan.queues)

        condition, clock = SimulatedCondition(scheduler), scheduler.clock
        super().__init__(plan, options, start, condition, lambda: scheduler.now, on_over, clock.wall_ms)
        self._scheduler = scheduler
        self._note = f"simulation with seed {seed}, which gives the same schedule again"

    def cancel(self, reason: str) -> None:
        self._scheduler.interrupt(lambda: super(SimulatedExecution, self).cancel(reason))

    def drain(self) -> None:
        self._scheduler.interrupt(super().drain)

    def stop(self) -> None:
        self._scheduler.interrupt(super().stop)

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


class _Simulation:
    """One job: its scheduler, and the attempt that runs."""

    def __init__(self, scheduler: Scheduler, plan: Plan, options: DriverOptions, executor: SimulationExecutor) -> None:
        self._scheduler = scheduler
        self._options = options
        self._executor = executor
        self._processes: SimulatedProcesses | None = None  # of the attempt that runs, as are the next two
        self._workers: dict[int, Worker] = {}
        self._driver: Driver | None = None
        self._resources = Resources(SimulatedCondition(scheduler))
        self.job = SimulatedExecution(plan, options, self._start_attempt, scheduler, executor.seed, self._resources)
        scheduler.on_crash, scheduler.patience_s = self._on_crash, self._patience_s

    def start(self) -> None:
        """Begin the job; `run` does its steps."""
        self.job.begin()
        self._scheduler.spawn(_DRIVER, self.job.lead)

    def run(self) -> None:
        """Do all steps, in the calling thread."""
        try:
            self._scheduler.run(self._deliver, lambda: self.job.is_over)
        except BaseException as error:  # above all a deadlock: `outcome` raises it
            self.job.end(error)

    def _start_attempt(self, plan: Plan, options: DriverOptions, calls: DriverCalls) -> LocalAttempt:
        self._scheduler.forget(kept=_DRIVER)
        shell = SimulationShell(self._scheduler, LocalTransport(copies_records=True), self._resources)
        self._resources.reset()
        driver = self._driver = Driver(plan, shell, options, leader=calls)
        deaths = self._executor.deaths if plan.attempt == 1 else ()
        count = self._executor.processes
        processes = SimulatedProcesses(plan, self._scheduler, shell.condition, driver.deliver, count, deaths)
        self._processes = processes
        self._workers = {subtask.address: Worker(plan, subtask, shell) for subtask in plan.subtasks}
        for subtask in plan.subtasks:
            self._scheduler.spawn(subtask.name, self._workers[subtask.address].run)
        processes.start({address: worker.port.deliver for address, worker in self._workers.items()})
        return LocalAttempt(LocalExecution(driver), ends_stuck=count > 0)  # processes are killed, threads cannot be

    def _deliver(self, target: int, message: Message) -> None:
        if self._processes is not None:
            self._processes.deliver(target, message)

    def _on_crash(self, name: str) -> None:
        if self._processes is not None and self._processes.addresses_of(name):
            self._processes.crash(name)
        else:  # the driver, or what it has beside itself, such as the activation that records a checkpoint
            self._crash_all()

    def _crash_all(self) -> None:
        """Crash the process of the driver, and so all others; a new driver leads the job by the log."""
        self._scheduler.forget()
        self._processes = self._driver = None
        self.job.take_over(pack_error(WorkerDied("the driver was crashed by the simulation")))
        self._scheduler.spawn(_DRIVER, self.job.lead)

    def _patience_s(self, name: str) -> float:
        driver, processes = self._driver, self._processes
        if driver is None or processes is None:
            return self._options.cancel_grace_s
        if self.job.is_over or self._scheduler.has_interrupts or driver.is_cancelled:
            return self._options.cancel_grace_s
        owners = processes.addresses_of(name)
        ends = any(driver.is_ending(address) or self._workers[address].is_ending for address in owners)
        return self._options.close_grace_s if ends else math.inf


@dataclass
class SimulationExecutor:
    """Runs jobs in the simulation.

    `seed` picks the schedule. `crash_at` kills the process of a subtask, by name, at the first turn of the subtask from
    this step on; it does so once, so not in a later attempt. `"driver"` stands for the process that leads the job: then
    the whole job dies, and another process continues by the log, as the master of a job on Ray does. `processes`: their
    number; subtasks go to them in turn; 0: one for each subtask. `deaths`: deaths of processes in the first attempt.
    `clock` shows the virtual time, also to user code. `trace` is that of the last job: one line per step.
    """

    seed: int = 0
    crash_at: Mapping[str, int] = field(default_factory=dict)
    processes: int = 0
    deaths: Sequence[ProcessDeath] = ()
    clock: VirtualClock = field(default_factory=VirtualClock)
    trace: list[str] = field(default_factory=list, repr=False)
    is_one_process: ClassVar[bool] = True

    def start(self, plan: Plan, options: DriverOptions) -> SimulatedExecution:
        """Start the scheduler in a separate thread. Raises PipelineError for what the simulation cannot do."""
        taking = [name for name, service in plan.services.items() if service.requests is not None]
        if taking:
            raise PipelineError(
                f"service {taking[0]!r} takes requests from a queue, which the simulation cannot support: the times at"
                " which they arrive would not be repeatable"
            )
        scheduler = self.new_scheduler()
        self.trace = scheduler.trace
        simulation = _Simulation(scheduler, plan, options, self)
        simulation.start()
        threading.Thread(target=simulation.run, name=f"simulation of {plan.job}", daemon=True).start()
        return simulation.job

    def new_scheduler(self) -> Scheduler:
        """Of one job; a subclass may give one that does more."""
        return Scheduler(self.seed, self.crash_at, self.clock)

    def queues(self, scope: str) -> JobQueues:
        """In this process."""
        return queues_of_process(scope)
