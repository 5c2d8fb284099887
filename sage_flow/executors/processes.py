"""Processes: subtasks spread over plain OS processes that talk over the exchange. No Ray, nothing shared.

It finds in a second what would show on a cluster: what does not pickle, what relied on shared memory, what
a dead process leaves behind. The driver stays in the calling process, as process 0.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sage_flow.errors import InternalError, PipelineError, WorkerDied
from sage_flow.executors.driver import Driver, DriverOptions, WorkersDied
from sage_flow.executors.exchange import Exchange
from sage_flow.executors.execution import LocalExecution
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.reading_condition import ReadingCondition
from sage_flow.executors.shell import Condition, record_window
from sage_flow.executors.threads import LocalTransport, ThreadShell
from sage_flow.links.address import sockets_in
from sage_flow.links.private_directory import make_private, private_name, remove_private
from sage_flow.plan.physical import Plan
from sage_flow.plan.queues import JobQueues
from sage_flow.queues.job_queues import end_job_queues
from sage_flow.runtime.messages import DRIVER, OUTSIDE, Message, PeerLost
from sage_flow.wire import by_value
from sage_flow.wire.codec import cannot_pickle

__all__ = ["BYTE_WINDOW", "HANDSHAKE_S", "Bootstrap", "ProcessExecutor", "ProcessShell"]

BYTE_WINDOW = 8 * 1024 * 1024
"""Encoded bytes on the way on one channel between two processes."""

_WORKER: Final = """\
import sys
sys.path[:] = sys.argv[1:]
del sys.argv[1:]
from sage_flow.executors.process_worker import main
main()
"""
"""What a worker process runs. `python -m`, or PYTHONPATH, would put the user's folders before the standard library."""

HANDSHAKE_S = 60.0
"""For a process that listens to shake hands: a busy machine, or an import that keeps the interpreter, makes it slow."""

_LOSS_S = 2.0
"""How long the end of a worker's connection may take to be seen after the end of the worker."""


@dataclass(frozen=True)
class Bootstrap:
    """What a worker process is told on its standard input, before the plan."""

    process: int
    directory: str
    key: bytes
    job: str
    process_of: dict[int, int]

    def __repr__(self) -> str:
        return f"Bootstrap(process={self.process}, job={self.job!r})"  # the key is in no repr


class ProcessShell(ThreadShell):
    """Threads in this process; what is for another process goes over the exchange."""

    def __init__(self, process: int, process_of: Mapping[int, int], transport: LocalTransport) -> None:
        super().__init__(transport)
        self._process = process
        self._process_of = process_of
        self.exchange: Exchange | None = None

    def condition(self, address: int | None = None) -> Condition:
        return ReadingCondition(lambda: None if self.exchange is None else self.exchange.loop)

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        process = self._process_of[target]
        if process == self._process or self.exchange is None:
            return super().send(sender, target, message)
        return self.exchange.send(process, target, message, on_hold)

    def flush(self) -> None:
        if self.exchange is not None:
            self.exchange.loop.run_deferred()

    def medium(self, producer: int, consumer: int) -> str:
        return "memory" if self._process_of[producer] == self._process_of[consumer] else "unix socket"

    def shares_objects(self, producer: int, consumer: int) -> bool:
        return self._process_of[producer] == self._process_of[consumer] and super().shares_objects(producer, consumer)

    def window(self, producer: int, consumer: int) -> int:
        return record_window(consumer) if self.medium(producer, consumer) == "memory" else BYTE_WINDOW


@dataclass(frozen=True)
class ProcessExecutor:
    """Runs a job in `workers` processes; subtasks go to them in turn."""

    workers: int = 2

    def start(self, plan: Plan, options: DriverOptions) -> LocalExecution:
        """Start the worker processes. Raises PipelineError if the plan cannot be pickled."""
        payload = pickled_plan(plan)
        process_of = {subtask.address: index % self.workers + 1 for index, subtask in enumerate(plan.subtasks)}
        process_of[DRIVER] = process_of[OUTSIDE] = 0
        group = _WorkerGroup(plan, process_of)
        transport = LocalTransport()
        shell = ProcessShell(0, process_of, transport)
        outside = OutsidePort(plan, shell)
        driver = Driver(plan, shell, options, group.describe, outside)
        transport.register(DRIVER, partial(group.deliver, driver))
        transport.register(OUTSIDE, outside.deliver)
        group.start(payload, shell, driver, transport)
        execution = LocalExecution(driver, on_over=partial(end_job_queues, plan.queues))
        shell.spawn(f"driver of {plan.job}", partial(execution.lead, lambda: group.stop(stuck=bool(driver.stuck))))
        return execution

    def queues(self, scope: str) -> JobQueues:
        """In whichever process of the job uses one first."""
        return JobQueues(scope, home=private_name(), metadata={"use_multiprocessing": True})


class _WorkerGroup:
    """The worker processes of one job, as the driver sees them."""

    def __init__(self, plan: Plan, process_of: Mapping[int, int]) -> None:
        self._plan = plan
        self._process_of = dict(process_of)
        self._directory = make_private()
        self._key = secrets.token_bytes(32)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lost: dict[int, threading.Event] = {}  # by process, as is what follows
        self._over: dict[int, threading.Event] = {}
        self._suspicions: list[str] = []
        self._killed: set[int] = set()  # because of them
        self._is_ending = False
        self._exchange: Exchange | None = None

    def start(self, payload: bytes, shell: ProcessShell, driver: Driver, transport: LocalTransport) -> None:
        """Start the exchange, the processes, and a thread per process that waits for its end."""
        numbers = sorted(set(self._process_of.values()) - {0})
        self._lost = {number: threading.Event() for number in numbers}
        self._over = {number: threading.Event() for number in numbers}
        self._exchange = Exchange(
            0,
            sockets_in(self._directory),
            self._key,
            job=self._plan.job,
            attempt=1,
            on_message=transport.deliver,
            on_peer_lost=self._on_peer_lost,
            connect_timeout_s=HANDSHAKE_S,
            bind_timeout_s=None,  # its watcher says when a process is gone
        )
        shell.exchange = self._exchange
        self._exchange.start()
        for number in numbers:
            self._processes[number] = self._spawn(number, payload)
        for number in numbers:
            shell.spawn(f"watch of worker {number}", self._watcher(number, driver.deliver))

    def _spawn(self, number: int, payload: bytes) -> subprocess.Popen[bytes]:
        search_path = [path or os.getcwd() for path in sys.path]
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *search_path],
            stdin=subprocess.PIPE,
        )
        bootstrap = Bootstrap(number, self._directory, self._key, self._plan.job, self._process_of)
        if process.stdin is None:
            raise InternalError("a worker process must have a pipe as its standard input")
        try:
            with process.stdin as stdin:
                stdin.write(pickle.dumps(bootstrap))
                stdin.write(payload)
        except BrokenPipeError:
            pass  # it died at once; its watcher tells how
        return process

    def _watcher(self, number: int, deliver: Callable[[WorkersDied], None]) -> Callable[[], None]:
        def watch() -> None:
            self._processes[number].wait()
            self._over[number].set()
            self._lost[number].wait(_LOSS_S)  # what it sent before it ended is read by then
            gone = tuple(address for address, process in self._process_of.items() if process == number)
            deliver(WorkersDied(gone, WorkerDied(self._how_it_ended(number))))

        return watch

    def deliver(self, driver: Driver, message: Message) -> None:
        """Take a message for the driver."""
        if isinstance(message, PeerLost):  # between two workers, which both may be alive
            self._suspect(message.peer, f"worker process {message.process}", message.reason)
        else:
            driver.deliver(message)

    def _on_peer_lost(self, number: int, reason: str) -> None:
        self._lost[number].set()
        self._suspect(number, "the driver", reason)

    def _suspect(self, number: int, witness: str, reason: str) -> None:
        """A connection has ended. If the process does not end, too, nobody else will end the job."""
        self._suspicions.append(f"{witness} lost its connection with worker process {number} ({reason})")

        def check() -> None:
            if not self._over[number].wait(_LOSS_S) and not self._is_ending:
                self._killed.add(number)
                self._processes[number].kill()

        threading.Thread(target=check, name=f"suspects worker {number}", daemon=True).start()

    def _how_it_ended(self, number: int) -> str:
        process = self._processes[number]
        code = process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if number in self._killed:
            how = f"was killed: {', '.join(self._suspicions)}"
        names = [s.name for s in self._plan.subtasks if self._process_of[s.address] == number]
        return f"worker process {number} of job {self._plan.job!r} (pid {process.pid}) {how}; it ran {', '.join(names)}"

    def describe(self, address: int) -> str:
        """Where a subtask is that does not answer."""
        number = self._process_of[address]
        return f"unresponsive in worker process {number} (pid {self._processes[number].pid}), which is killed"

    def stop(self, *, stuck: bool) -> None:
        """End every worker process, those whose work is done end by themselves; leave nothing behind."""
        self._is_ending = True
        deadline = time.monotonic() + (0.0 if stuck else _LOSS_S)
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._exchange is not None:
            self._exchange.close()
        remove_private(self._directory)


def pickled_plan(plan: Plan) -> bytes:
    """Return the plan as bytes. Raises PipelineError naming the operator that cannot be pickled."""
    try:
        return by_value.dumps(plan)
    except Exception as error:
        for operator in (operator for chain in plan.chains for operator in chain.operators):
            for part in (*operator.functions, operator.options):
                try:
                    by_value.dumps(part)
                except Exception as culprit:
                    reason = cannot_pickle(part, culprit)
                    raise PipelineError(
                        f"{operator.name!r} ({operator.location}) cannot leave this process: {reason};"
                        " create it in open(), or pass its parameters"
                    ) from culprit
        raise PipelineError(f"the plan of job {plan.job!r} cannot be pickled: {error}") from error
