"""The worker actors of one attempt of a job: gathered, joined to each other, started, watched."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from sage_flow.errors import JobCancelled, PipelineError, WorkerDied
from sage_flow.executors.ray.actors import DEFAULT_CPUS, actor_specs, check_cluster, pooled_specs, wanted
from sage_flow.executors.ray.records import JobOptions
from sage_flow.executors.ray.staff import Member, Staff, why_died
from sage_flow.executors.ray.worker import Assignment
from sage_flow.links.endpoint import Credentials
from sage_flow.plan.physical import Plan

__all__ = ["Crew"]

_log = logging.getLogger("sage_flow")

_LOOK_S: Final = 0.2  # between looks whether the job was cancelled while it starts
_LONGEST_LOOK_S: Final = 2.0  # the most that one look counts: in a longer one this process was suspended
_PATIENCE_S: Final = 5.0  # before a message says that actors wait for resources
_SERVED_ANSWER_S: Final = 2.0  # for an actor that has served before to say where it is


class Crew:
    """The worker actors of one attempt, which `staff` gives it."""

    def __init__(self, job_id: str, attempt: int, plan: Plan, options: JobOptions, staff: Staff) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._options = options
        self._staff = staff
        self._plan = plan
        self._run = "" if plan.checkpoints is None else plan.job_id
        pool = options.pool
        specs = pooled_specs(plan, len(pool)) if pool else actor_specs(plan, options.actors)
        self.members = {spec.number: Member(spec) for spec in specs}

    def gather(self, is_cancelled: Callable[[], bool]) -> None:
        """Make the actors and wait for all of them.

        Raises: PipelineError if the cluster cannot run them, or not in time; JobCancelled; WorkerDied.
        """
        import ray

        if not self._options.pool:
            check_cluster([member.spec for member in self.members.values()], ray.nodes())
        for member in self.members.values():
            self._staff.place(member, self._attempt)
        asked = {member.actor.place.remote(): member for member in self.members.values()}
        waited_s, looked, told = 0.0, time.monotonic(), False
        while asked:
            done, _ = ray.wait(list(asked), timeout=_LOOK_S)
            for reference in done:
                member = asked.pop(reference)
                if not self._took_place(member, reference):
                    asked[member.actor.place.remote()] = member
            now = time.monotonic()
            waited_s += min(now - looked, _LONGEST_LOOK_S)
            looked = now
            if is_cancelled():
                raise JobCancelled("cancelled while its actors were being started")
            if waited_s > _SERVED_ANSWER_S:
                for reference, member in list(asked.items()):
                    if member.has_served:  # perhaps it is frozen
                        del asked[reference]
                        self._replace(member, f"it gave no answer for {_SERVED_ANSWER_S:g} s")
                        asked[member.actor.place.remote()] = member
            if asked and waited_s > _PATIENCE_S and not told:
                told = True
                _log.warning("job %s starts: %s", self._job_id, self._missing(list(asked.values())))
            if asked and waited_s > (limit_s := self._options.start_timeout_s):
                raise PipelineError(
                    f"not all actors of job {self._job_id!r} could be started within"
                    f" {limit_s:g} s (start_timeout_s): {self._missing(list(asked.values()))}"
                )

    def _took_place(self, member: Member, reference: Any) -> bool:
        """Whether the actor has told where it is. One that has served before and has died since is replaced."""
        try:
            member.place = self._answer(member, reference)
        except WorkerDied as error:
            if not member.has_served:
                raise
            self._replace(member, str(error))
            return False
        return True

    def _replace(self, member: Member, why: str) -> None:
        _log.info("%s of job %s is replaced: %s", member, self._job_id, why)
        self._staff.replace(member, self._attempt)

    def _missing(self, waiting: list[Member]) -> str:
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
            part = Assignment(number, self._job_id, self._attempt, *limits, options.search_path, key, member.spec.name)
            part = replace(part, run=self._run, checkpoints=self._plan.checkpoints, restores=self._plan.restores)
            references[number] = member.actor.join.remote(part, spans_nodes, credentials)
        return {number: self._answer(self.members[number], r) for number, r in references.items()}

    def _answer(self, member: Member, reference: Any) -> Any:
        import ray

        limit_s = self._options.start_timeout_s
        try:
            return ray.get(reference, timeout=limit_s)
        except ray.exceptions.RayActorError as error:
            raise WorkerDied(f"{member} of job {self._job_id!r} could not be started: {why_died(error)}") from error
        except ray.exceptions.GetTimeoutError as error:
            raise WorkerDied(
                f"{member} of job {self._job_id!r} could not be started: it gave no answer for {limit_s:g} s"
                " (start_timeout_s)"
            ) from error

    def start(self, plan: Any, process_of: dict[int, int], endpoints: dict[int, Any]) -> None:
        """Let all of them run. `plan`: a reference to its bytes."""
        for member in self.members.values():
            member.run = member.actor.run.remote(plan, process_of, endpoints)

    def watch(self, on_end: Callable[[Member, str | None], None]) -> None:
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
                    reason = why_died(error)
                except Exception as error:  # a bug of the engine, or a failure of Ray: the subtasks are gone
                    reason = f"{type(error).__name__}: {error}"
                on_end(member, reason)
