"""One attempt of a job: its crew of actors, the driver that leads them, and what happens when an actor ends."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from sage_flow.errors import InternalError, WorkerDied
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.driver_process import DriverProcess
from sage_flow.executors.execution import LocalExecution
from sage_flow.executors.ray.crew import Crew
from sage_flow.executors.ray.records import JobOptions
from sage_flow.executors.ray.staff import Member, Staff, kill_actor
from sage_flow.executors.ray.worker import AddressBook
from sage_flow.executors.supervisor import Supervisor
from sage_flow.links.endpoint import Credentials
from sage_flow.plan.physical import Plan
from sage_flow.runtime.membership import LEADER, Declare, Suspicion

__all__ = ["Attempt"]

_log = logging.getLogger("sage_flow")

_RETURN_S: Final = 1.5  # for the runs of actors to return whose subtasks have ended
_STUCK_RETURN_S: Final = 0.3  # the same, if it is known that some do not


class Attempt:
    """Runs a plan once. `execution` is there while it runs."""

    def __init__(
        self,
        job_id: str,
        plan: Plan,
        payload: bytes,
        options: JobOptions,
        staff: Staff,
        leader: DriverCalls,
    ) -> None:
        self.number = number = plan.attempt
        self.execution: LocalExecution | None = None
        self._leader = leader
        self._drains = self._stops = False
        self._job_id = job_id
        self._plan = plan
        self._payload = payload
        self._options = options
        self._staff = staff
        self._crew = Crew(job_id, number, plan, options, staff)
        self._cancelled: str | None = None
        self._lock = threading.Lock()
        self._process: DriverProcess | None = None

    def run(self, on_running: Callable[[], None]) -> LocalExecution:
        """Run to the end. Raises what keeps it from starting, see `Crew.gather`."""
        try:
            self._crew.gather(lambda: self._cancelled is not None)
            execution = self._launch()
            on_running()
            self._staff.want_spare([member.spec for member in self._crew.members.values()], self.number)
            execution.lead()
        except BaseException:
            self._end(_STUCK_RETURN_S)
            raise
        self._end(_STUCK_RETURN_S if execution.driver.stuck else _RETURN_S)
        return execution

    def cancel(self, reason: str) -> None:
        """End the attempt, from any thread, whether it has started or not."""
        with self._lock:
            self._cancelled = reason
            execution = self.execution
        if execution is not None:
            execution.cancel(reason)

    def drain(self) -> None:
        """Let its sources end, from any thread, whether it has started or not."""
        with self._lock:
            self._drains = True
            execution = self.execution
        if execution is not None:
            execution.drain()

    def stop(self) -> None:
        """Let it make a last checkpoint and end, from any thread, whether it has started or not."""
        with self._lock:
            self._stops = True
            execution = self.execution
        if execution is not None:
            execution.stop()

    def members(self) -> list[Member]:
        """Return its actors."""
        return list(self._crew.members.values())

    def _launch(self) -> LocalExecution:
        import ray

        book = AddressBook(0)
        nodes = {member.place.node for member in self._crew.members.values() if member.place is not None}
        spans_nodes = bool(nodes - {book.node})
        credentials = Credentials.make(self._job_id) if spans_nodes and self._options.encrypts else None
        key = secrets.token_bytes(32)
        process = self._process = DriverProcess(
            self._plan,
            self._options.driver,
            {address: n for n, member in self._crew.members.items() for address in member.spec.addresses},
            self,
            addresses=book,
            key=key,
            job=self._job_id,
            attempt=self.number,
            connect_timeout_s=self._options.start_timeout_s,
            bind_timeout_s=self._options.start_timeout_s,
            lease_s=self._options.lease_s,
            start_s=self._options.start_timeout_s,
            leader=self._leader,
        )
        own = book.own_endpoint(process.exchange, spans_nodes, credentials)
        endpoints = {0: own, **self._crew.join(key, credentials, spans_nodes=spans_nodes)}
        book.learn(endpoints)
        process.start()
        execution = LocalExecution(process.driver)
        self._crew.start(ray.put(self._payload), process.process_of, endpoints)
        process.shell.spawn("watch of workers", partial(self._crew.watch, partial(self._on_end, process.supervisor)))
        with self._lock:
            self.execution = execution
            cancelled, drains, stops = self._cancelled, self._drains, self._stops
        if drains:
            execution.drain()
        if stops:
            execution.stop()
        if cancelled is not None:
            execution.cancel(cancelled)
        return execution

    def _end(self, limit_s: float) -> None:
        if self._process is not None:
            self._process.supervisor.stop()
        self._staff.settle(self._crew.members.values(), limit_s)
        if self._process is not None:  # only now: a worker that loses the driver before its run has returned, exits
            self._process.close()

    # -- ends of actors ---------------------------------------------------------------------------------------

    def _on_end(self, supervisor: Supervisor, member: Member, reason: str | None) -> None:
        is_clean = reason is None
        how = reason or "its run has returned, and not all of its subtasks have ended"
        supervisor.process_ended(member.spec.number, how, is_clean=is_clean)

    def kill(self, process: int) -> None:
        """End a worker actor, whatever it is doing."""
        kill_actor(self._crew.members[process])

    def death_of(self, declared: Declare) -> WorkerDied:
        """Return the error that says which actor has ended, and why."""
        if self._process is None:
            raise InternalError("an actor is declared dead before the attempt has started")
        member = self._crew.members[declared.process]
        reason = declared.how or ", ".join(map(self._told, declared.suspicions))
        silence_s = self._process.exchange.silence_s(declared.process)
        names = ", ".join(subtask.name for subtask in member.spec.subtasks)
        error = WorkerDied(
            f"{member} of job {self._job_id!r} has ended: {reason}; it ran {names}; detected {silence_s:.1f} s after"
            " its last sign of life" + "".join(f"; {told}" for told in self._of_connections(declared.process))
        )
        _log.error("%s", error)
        return error

    def _told(self, suspicion: Suspicion) -> str:
        members = self._crew.members
        witness = "the master" if suspicion.witness == LEADER else str(members[suspicion.witness])
        return f"{witness} lost its connection with {members[suspicion.process]} ({suspicion.reason})"

    def _of_connections(self, number: int) -> list[str]:
        """Return what the connections with a process tell about its end, for example another version."""
        if self._process is None:
            return []
        exchange = self._process.exchange
        lost = exchange.loss(number)
        return [f"the master {refusal}" for refusal in exchange.refusals()[-1:]] + (
            [] if lost is None else [f"its connection with the master ended: {lost}"]
        )

    def describe(self, address: int) -> str:
        """Return where a subtask is that does not answer, as text."""
        member = next(m for m in self._crew.members.values() if address in m.spec.addresses)
        return f"unresponsive in {member}, which is killed"
