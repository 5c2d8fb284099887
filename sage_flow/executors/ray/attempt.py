"""One attempt of a job: its actors, the driver that leads them, and what happens when an actor ends."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from sage_flow.errors import InternalError, JobCancelled, PipelineError, WorkerDied
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.driver_process import DriverProcess
from sage_flow.executors.execution import LocalExecution
from sage_flow.executors.ray.actors import (
    DEFAULT_CPUS,
    ActorSpec,
    actor_specs,
    check_cluster,
    pooled_specs,
    ray_options,
    wanted,
)
from sage_flow.executors.ray.records import JobOptions
from sage_flow.executors.ray.worker import AddressBook, Assignment, Place, WorkerActor
from sage_flow.executors.supervisor import Supervisor
from sage_flow.links.endpoint import Credentials
from sage_flow.plan.physical import Plan
from sage_flow.runtime.membership import LEADER, Declare, Suspicion

__all__ = ["Attempt", "Crew"]

_log = logging.getLogger("sage_flow")

_RETURN_S: Final = 2.0  # for an actor of a pool to return from its run
_END_S: Final = 10.0  # for a killed actor to be gone
_LOOK_S: Final = 0.2  # between looks whether the job was cancelled while it starts
_LONGEST_LOOK_S: Final = 2.0  # the most that one look counts: in a longer one this process was suspended
_PATIENCE_S: Final = 5.0  # before a message says that actors wait for resources


@dataclass(eq=False)
class _Member:
    """A worker actor. `over`: its run has returned, or its death was reported."""

    spec: ActorSpec
    actor: Any
    place: Place | None = None
    run: Any = None
    over: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        where = "" if self.place is None else f" (process {self.place.pid} of node {self.place.node[:8]})"
        return f"actor {self.spec.name!r}{where}"


class Crew:
    """The worker actors of one attempt; made here, or taken from a pool of `options`."""

    def __init__(self, job_id: str, attempt: int, plan: Plan, options: JobOptions, namespace: str) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._options = options
        self._namespace = namespace
        self._plan = plan
        self._run = "" if plan.checkpoints is None else plan.job_id
        pool = options.pool
        specs = pooled_specs(plan, len(pool)) if pool else actor_specs(plan, options.actors)
        self.members = {spec.number: _Member(spec, None) for spec in specs}

    def gather(self, is_cancelled: Callable[[], bool]) -> None:
        """Make the actors and wait for all of them.

        Raises: PipelineError if the cluster cannot run them, or not in time; JobCancelled; WorkerDied.
        """
        import ray

        if not self._options.pool:
            check_cluster([member.spec for member in self.members.values()], ray.nodes())
        for number, member in self.members.items():
            member.actor = self._pooled(number) if self._options.pool else self._made(member.spec)
        asked = {member.actor.place.remote(): member for member in self.members.values()}
        waited_s, looked, waiting, told = 0.0, time.monotonic(), list(asked), False
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_LOOK_S)
            for reference in done:
                asked[reference].place = self._answer(asked[reference], reference)
            now = time.monotonic()
            waited_s += min(now - looked, _LONGEST_LOOK_S)
            looked = now
            if is_cancelled():
                raise JobCancelled("cancelled while its actors were being started")
            if waiting and waited_s > _PATIENCE_S and not told:
                told = True
                _log.warning("job %s starts: %s", self._job_id, self._missing([asked[r] for r in waiting]))
            if waiting and waited_s > (limit_s := self._options.start_timeout_s):
                raise PipelineError(
                    f"not all actors of job {self._job_id!r} could be started within"
                    f" {limit_s:g} s (start_timeout_s): {self._missing([asked[r] for r in waiting])}"
                )

    def _made(self, spec: ActorSpec) -> Any:
        import ray

        suffix = "" if self._attempt == 1 else f"#{self._attempt}"
        actor = ray.remote(WorkerActor).options(
            name=f"{self._job_id}/{spec.name}{suffix}",
            namespace=self._namespace,
            max_restarts=0,
            max_task_retries=0,
            **ray_options(spec),
        )
        return actor.remote(f"{self._job_id}/{spec.name}")

    def _pooled(self, number: int) -> Any:
        import ray

        return ray.get_actor(self._options.pool[number - 1], namespace=self._namespace)

    def _missing(self, waiting: list[_Member]) -> str:
        import ray

        free = ray.available_resources()
        needs: dict[str, float] = {}
        for member in waiting:
            for name, amount in (wanted(member.spec) or {"CPU": DEFAULT_CPUS}).items():
                needs[name] = needs.get(name, 0) + amount
        lacking = [f"{amount:g} {name} ({free.get(name, 0):g} free)" for name, amount in needs.items()]
        is_short = any(free.get(name, 0) < amount for name, amount in needs.items())
        why = f"for {', '.join(lacking)}" if is_short else "for their processes to start"
        return f"{', '.join(repr(member.spec.name) for member in waiting)} wait {why}"

    def join(self, key: bytes, credentials: Credentials | None, *, spans_nodes: bool) -> dict[int, Any]:
        """Let all of them listen; return their endpoints."""
        references = {}
        for number, member in self.members.items():
            options = self._options
            limits = options.lease_s, options.start_timeout_s
            part = Assignment(number, self._job_id, self._attempt, *limits, options.search_path, key)
            part = replace(part, run=self._run, checkpoints=self._plan.checkpoints, restores=self._plan.restores)
            references[number] = member.actor.join.remote(part, spans_nodes, credentials)
        return {number: self._answer(self.members[number], r) for number, r in references.items()}

    def _answer(self, member: _Member, reference: Any) -> Any:
        import ray

        limit_s = self._options.start_timeout_s
        try:
            return ray.get(reference, timeout=limit_s)
        except ray.exceptions.RayActorError as error:
            raise WorkerDied(f"{member} of job {self._job_id!r} could not be started: {_why(error)}") from error
        except ray.exceptions.GetTimeoutError as error:
            raise WorkerDied(
                f"{member} of job {self._job_id!r} could not be started: it gave no answer for {limit_s:g} s"
                " (start_timeout_s)"
            ) from error

    def start(self, plan: Any, process_of: dict[int, int], endpoints: dict[int, Any]) -> None:
        """Let all of them run. `plan`: a reference to its bytes."""
        for member in self.members.values():
            member.run = member.actor.run.remote(plan, process_of, endpoints)

    def watch(self, on_end: Callable[[_Member, str | None], None]) -> None:
        """Call `on_end` for each actor that ends, with the reason if it died. Returns when all have."""
        import ray

        runs = {member.run: member for member in self.members.values()}
        while runs:
            done, _ = ray.wait(list(runs), num_returns=1)
            for reference in done:
                member, reason = runs.pop(reference), None
                try:
                    ray.get(reference)
                except ray.exceptions.RayActorError as error:
                    reason = _why(error)
                except Exception as error:  # a bug of the engine, or a failure of Ray: the subtasks are gone
                    reason = f"{type(error).__name__}: {error}"
                member.over.set()
                on_end(member, reason)

    def dismiss(self, *, is_clean: bool) -> None:
        """Kill the actors, and wait for their end. Those of a pool stay if their runs have returned."""
        import ray

        killed = []
        for member in self.members.values():
            if member.actor is None or (self._options.pool and is_clean and member.over.wait(_RETURN_S)):
                continue
            ray.kill(member.actor, no_restart=True)
            if member.run is not None:
                killed.append(member.run)
        if killed:
            ray.wait(killed, num_returns=len(killed), timeout=_END_S)


class Attempt:
    """Runs a plan once. `execution` is there while it runs."""

    def __init__(
        self,
        job_id: str,
        plan: Plan,
        payload: bytes,
        options: JobOptions,
        namespace: str,
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
        self._crew = Crew(job_id, number, plan, options, namespace)
        self._cancelled: str | None = None
        self._lock = threading.Lock()
        self._process: DriverProcess | None = None

    def run(self, on_running: Callable[[], None]) -> LocalExecution:
        """Run to the end. Raises what keeps it from starting, see `Crew.gather`."""
        try:
            self._crew.gather(lambda: self._cancelled is not None)
            execution = self._launch()
            on_running()
            execution.lead()
        except BaseException:
            self._end(is_clean=False)
            raise
        self._end(is_clean=not execution.driver.stuck)
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

    def places(self) -> list[tuple[ActorSpec, Place | None]]:
        """Return the actors and their places."""
        return [(member.spec, member.place) for member in self._crew.members.values()]

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

    def _end(self, *, is_clean: bool) -> None:
        if self._process is not None:
            self._process.supervisor.stop()
        self._crew.dismiss(is_clean=is_clean)
        if self._process is not None:
            self._process.close()

    # -- ends of actors ---------------------------------------------------------------------------------------

    def _on_end(self, supervisor: Supervisor, member: _Member, reason: str | None) -> None:
        is_clean = reason is None
        how = reason or "its run has returned, and not all of its subtasks have ended"
        supervisor.process_ended(member.spec.number, how, is_clean=is_clean)

    def kill(self, process: int) -> None:
        """End a worker actor, whatever it is doing."""
        import ray

        ray.kill(self._crew.members[process].actor, no_restart=True)

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


def _why(error: Exception) -> str:
    """Return the line of Ray's long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "died" in line.lower() or "killed" in line.lower()]
    return (telling or lines or [type(error).__name__])[-1][:300]
