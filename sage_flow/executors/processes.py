"""Processes: subtasks in plain OS processes that communicate over the exchange, without Ray.

A test with processes finds in a second what would fail on a cluster: objects that do not pickle, code that relies on
shared memory, what a dead process leaves behind. The driver stays in the calling process, as process 0.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sage_flow.errors import InternalError, PipelineError, WorkerDied
from sage_flow.executors.driver import DriverOptions
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.driver_process import DriverProcess
from sage_flow.executors.execution import LocalExecution
from sage_flow.executors.led_execution import LedExecution, LocalAttempt, start_led
from sage_flow.executors.supervisor import Supervisor
from sage_flow.links.address import sockets_in
from sage_flow.links.private_directory import make_private, private_name, remove_private
from sage_flow.plan.physical import Plan
from sage_flow.plan.queues import JobQueues
from sage_flow.runtime.membership import LEADER, Declare, Suspicion
from sage_flow.wire import by_value
from sage_flow.wire.codec import cannot_pickle

__all__ = ["HANDSHAKE_S", "Bootstrap", "ProcessExecutor"]

_WORKER: Final = """\
import sys
sys.path[:] = sys.argv[1:]
del sys.argv[1:]
from sage_flow.executors.process_worker import main
main()
"""
"""What a worker process runs. `python -m`, or PYTHONPATH, would put the user's folders before the standard library."""

HANDSHAKE_S = 60.0
"""Seconds for a handshake: a busy machine, or an import that blocks the interpreter, makes it slow."""

_EXIT_S = 2.0  # for a worker to exit after its subtasks have ended


@dataclass(frozen=True)
class Bootstrap:
    """What a worker process is told on its standard input, before the plan."""

    process: int
    directory: str
    key: bytes
    job: str
    attempt: int
    process_of: dict[int, int]

    def __repr__(self) -> str:
        return f"Bootstrap(process={self.process}, job={self.job!r})"  # the key is in no repr


@dataclass(frozen=True)
class ProcessExecutor:
    """Runs a job in `workers` processes; subtasks go to them in turn."""

    workers: int = 2

    def start(self, plan: Plan, options: DriverOptions) -> LedExecution:
        """Start the worker processes. Raises PipelineError if the plan cannot be pickled."""
        return start_led(plan, options, self._start_attempt)

    def _start_attempt(self, plan: Plan, options: DriverOptions, calls: DriverCalls) -> LocalAttempt:
        payload = pickled_plan(plan)
        process_of = {subtask.address: index % self.workers + 1 for index, subtask in enumerate(plan.subtasks)}
        group = _WorkerGroup(plan, process_of)
        process = DriverProcess(
            plan,
            options,
            process_of,
            group,
            addresses=sockets_in(group.directory),
            key=group.key,
            job=plan.job,
            attempt=plan.attempt,
            connect_timeout_s=HANDSHAKE_S,
            bind_timeout_s=None,  # the thread that waits for a process reports its end
            leader=calls,
        )
        process.start()
        group.start(payload, process)

        def stop() -> None:
            process.supervisor.stop()
            group.stop(stuck=bool(process.driver.stuck))
            process.close()
            remove_private(group.directory)

        return LocalAttempt(LocalExecution(process.driver), stop, ends_stuck=True)

    def queues(self, scope: str) -> JobQueues:
        """In the process of the job that first uses one of them."""
        return JobQueues(scope, home=private_name(), metadata={"use_multiprocessing": True})


class _WorkerGroup:
    """The worker processes of one job: starts them, waits for their ends, kills them."""

    def __init__(self, plan: Plan, process_of: Mapping[int, int]) -> None:
        self.directory = make_private()
        """The directory of their sockets."""
        self.key = secrets.token_bytes(32)
        self._plan = plan
        self._process_of = dict(process_of)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, payload: bytes, process: DriverProcess) -> None:
        """Start the processes, and a thread per process that waits for its end."""
        for number in sorted(set(self._process_of.values())):
            bootstrap = Bootstrap(
                number, self.directory, self.key, self._plan.job, self._plan.attempt, process.process_of
            )
            self._processes[number] = self._spawn(bootstrap, payload)
        for number in self._processes:
            process.shell.spawn(f"watch of worker {number}", partial(self._watch, number, process.supervisor))

    def _spawn(self, bootstrap: Bootstrap, payload: bytes) -> subprocess.Popen[bytes]:
        search_path = [path or os.getcwd() for path in sys.path]
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *search_path],
            stdin=subprocess.PIPE,
        )
        if process.stdin is None:
            raise InternalError("a worker process must have a pipe as its standard input")
        try:
            with process.stdin as stdin:
                stdin.write(pickle.dumps(bootstrap))
                stdin.write(payload)
        except BrokenPipeError:
            pass  # it died at once; the thread that watches it reports how
        return process

    def _watch(self, number: int, supervisor: Supervisor) -> None:
        code = self._processes[number].wait()
        supervisor.process_ended(
            number, f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        )

    def kill(self, process: int) -> None:
        self._processes[process].kill()

    def death_of(self, declared: Declare) -> WorkerDied:
        number, how = declared.process, declared.how
        if how is None:
            how = f"was killed: {', '.join(map(self._told, declared.suspicions))}"
        names = [s.name for s in self._plan.subtasks if self._process_of[s.address] == number]
        return WorkerDied(
            f"worker process {number} of job {self._plan.job!r} (pid {self._processes[number].pid}) {how};"
            f" it ran {', '.join(names)}"
        )

    def _told(self, suspicion: Suspicion) -> str:
        witness = "the driver" if suspicion.witness == LEADER else f"worker process {suspicion.witness}"
        return f"{witness} lost its connection with worker process {suspicion.process} ({suspicion.reason})"

    def describe(self, address: int) -> str:
        number = self._process_of[address]
        return f"unresponsive in worker process {number} (pid {self._processes[number].pid}), which is killed"

    def stop(self, *, stuck: bool) -> None:
        """End every worker process; if not `stuck`, they first get the time to exit by themselves."""
        deadline = time.monotonic() + (0.0 if stuck else _EXIT_S)
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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
