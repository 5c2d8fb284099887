"""The actors of one job over its attempts: those that are kept, those that are made, and the spare.

To make an actor costs a second and more of CPU time: Ray starts a process, which imports the engine and the modules of
the plan. So a job that may restart keeps its actors from one attempt to the next. In the place of a dead one goes a
spare, which has done all that before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sage_flow.executors.ray.actors import ActorSpec, is_plain, ray_options
from sage_flow.executors.ray.records import JobOptions
from sage_flow.executors.ray.worker import Place, WorkerActor, this_node
from sage_flow.plan.resources import ActorOptions
from sage_flow.restart import NoRestart

__all__ = ["Member", "Staff", "end_actors_of", "kill_actor", "why_died"]

_log = logging.getLogger("sage_flow")

_END_S: Final = 10.0  # for a killed actor to be gone
_GONE_S: Final = 2.0  # the same, before another attempt; one on another node that is frozen ends when it wakes up
_EXIT_S: Final = 1.0  # for a process that Ray has asked to exit
_LOOK_S: Final = 0.02
_RAY_TITLE: Final = b"ray::"  # how the processes of actors call themselves
_SPARE: Final = ActorSpec(0, "spare", (), ActorOptions())
_SPARE_AFTER_S: Final = 3.0  # to make an actor takes much CPU time, which an attempt that begins needs itself


@dataclass(eq=False)
class Member:
    """A worker actor in an attempt, or between two.

    `name`: of the actor. `has_served`: it was made before the attempt. `run`: what its run returns, once it has begun.
    `has_resources`: some are to be closed.
    """

    spec: ActorSpec
    actor: Any = None
    name: str = ""
    place: Place | None = None
    has_served: bool = False
    has_resources: bool = False
    run: Any = None

    def __str__(self) -> str:
        where = "" if self.place is None else f" (process {self.place.pid} of node {self.place.node[:8]})"
        return f"actor {self.spec.name!r}{where}"


class _Spare(NamedTuple):
    """An actor in reserve. `warmed`: returns when it has loaded the plan."""

    name: str
    actor: Any
    warmed: Any


class Staff:
    """Makes, keeps and ends the worker actors of a job. All but the making of the spare is of the thread that leads.

    `plan`: its bytes, which the spare loads.
    """

    def __init__(self, job_id: str, namespace: str, options: JobOptions, plan: bytes) -> None:
        self._job_id = job_id
        self._namespace = namespace
        self._options = options
        self._plan = plan
        self._kept: dict[str, Member] = {}  # by the name of its spec
        self._made: set[str] = set()  # names of actors
        self._lock = threading.Lock()  # guards the two attributes below
        self._spare: _Spare | None = None
        self._needs_spare = False

    @property
    def keeps(self) -> bool:
        """Whether actors are kept for another attempt."""
        return self._options.keeps_actors and not isinstance(self._options.driver.restart, NoRestart)

    # -- before an attempt ----------------------------------------------------------------------------------

    def place(self, member: Member, attempt: int) -> None:
        """Give the member an actor: the one that it had before, else the spare, else a new one."""
        import ray

        if not self.keeps and not self._options.pool:
            self.dismiss()
        if self._options.pool:
            member.name = self._options.pool[member.spec.number - 1]
            member.actor = ray.get_actor(member.name, namespace=self._namespace)
        elif (kept := self._kept.pop(member.spec.name, None)) is not None:
            member.actor, member.name, member.place = kept.actor, kept.name, kept.place
            member.has_served, member.has_resources = True, kept.has_resources
        elif not is_plain(member.spec) or not self._take_spare_for(member):
            self.replace(member, attempt)

    def replace(self, member: Member, attempt: int) -> None:
        """Give the member a new actor; end the one that it has."""
        if member.actor is not None:
            kill_actor(member)
        suffix = "" if attempt == 1 else f"#{attempt}"
        member.name = self._free_name(f"{self._job_id}/{member.spec.name}{suffix}")
        member.actor = self._new(member.name, f"{self._job_id}/{member.spec.name}", ray_options(member.spec))
        member.place, member.has_served, member.has_resources = None, False, False

    def _free_name(self, name: str) -> str:
        while name in self._made:
            name += "'"
        self._made.add(name)
        return name

    def _new(self, name: str, label: str, options: dict[str, Any]) -> Any:
        import ray

        made = ray.remote(WorkerActor).options(
            name=name, namespace=self._namespace, max_restarts=0, max_task_retries=0, **options
        )
        return made.remote(label)

    # -- the spare ------------------------------------------------------------------------------------------

    def want_spare(self, specs: Iterable[ActorSpec], attempt: int) -> None:
        """Make a spare soon, if there is none and it could replace one of these actors."""
        if not self.keeps or self._options.pool or not any(map(is_plain, specs)):
            return
        with self._lock:
            self._needs_spare = True
        timer = threading.Timer(_SPARE_AFTER_S, self._make_spare, [attempt])
        timer.name, timer.daemon = f"spare actor of {self._job_id}", True
        timer.start()

    def _make_spare(self, attempt: int) -> None:
        import ray

        with self._lock:
            if not self._needs_spare or self._spare is not None:
                return
            self._needs_spare = False
            name = f"{self._job_id}/spare#{attempt}"
            actor = self._new(name, name, ray_options(_SPARE))
            self._spare = _Spare(name, actor, actor.warm.remote(self._options.search_path, ray.put(self._plan)))

    def _take_spare_for(self, member: Member) -> bool:
        """Let the spare be the actor of a member; False: there is none, or it is dead.

        One that is still being started is a head start all the same.
        """
        import ray

        spare = self._take_spare()
        if spare is None:
            return False
        is_warm = bool(ray.wait([spare.warmed], timeout=0)[0])
        if is_warm:
            try:
                ray.get(spare.warmed)
            except ray.exceptions.RayActorError:
                return False
            except ray.exceptions.RayTaskError as error:  # if the plan cannot be loaded, the attempt will tell it
                _log.warning("the spare actor of job %s is not prepared: %s", self._job_id, error)
        member.name, member.actor, member.has_served = spare.name, spare.actor, is_warm
        return True

    def _take_spare(self) -> _Spare | None:
        with self._lock:
            self._needs_spare = False
            spare, self._spare = self._spare, None
            return spare

    # -- after an attempt -----------------------------------------------------------------------------------

    def settle(self, members: Iterable[Member], limit_s: float) -> None:
        """Keep the actors whose runs end within `limit_s`, and leave no thread; kill the others, and wait for that."""
        import ray

        placed = [member for member in members if member.actor is not None]
        runs = [member.run for member in placed if member.run is not None]
        if runs:
            ray.wait(runs, num_returns=len(runs), timeout=limit_s)
        unfit = []
        for member in placed:
            if (why := _why_unfit(member)) is not None:
                _log.info("%s of job %s is not kept: %s", member, self._job_id, why)
                unfit.append(member)
            else:
                has_resources = member.has_resources or (member.run is not None and ray.get(member.run).has_resources)
                self._kept[member.spec.name] = Member(
                    member.spec, member.actor, member.name, member.place, has_resources=has_resources
                )
        self._kill(unfit, _GONE_S)
        _kill_frozen(unfit)

    def dismiss(self) -> None:
        """Let go of all that were kept, and the spare: the job is over, or its next attempt gets new actors."""
        import ray

        kept = list(self._kept.values())
        self._kept.clear()
        limit_s = self._options.driver.close_grace_s
        closing = [member.actor.leave.remote(limit_s) for member in kept if member.has_resources]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=limit_s + _GONE_S)
        if self._options.pool:
            return
        if (spare := self._take_spare()) is not None:
            kept.append(Member(_SPARE, spare.actor, spare.name))
        self._kill(kept)

    def _kill(self, members: list[Member], limit_s: float = _END_S) -> None:
        """Kill actors; wait for the ends of those whose user code may run."""
        import ray

        for member in members:
            ray.kill(member.actor, no_restart=True)
        runs = [member.run for member in members if member.run is not None]
        if runs:
            ray.wait(runs, num_returns=len(runs), timeout=limit_s)


def _why_unfit(member: Member) -> str | None:
    """Return why an actor cannot take part in another attempt; None: it can, or it has not run in this one."""
    import ray

    if member.place is None:
        return "it had not started"
    if member.run is None:
        return None
    try:
        threads = ray.get(member.run, timeout=0).threads
    except ray.exceptions.GetTimeoutError:
        return "its subtasks have not ended in time"
    except ray.exceptions.RayError as error:
        return why_died(error)
    return f"it still runs {', '.join(threads)}" if threads else None


def kill_actor(member: Member) -> None:
    """End an actor that does not answer. Ray asks its process to exit, which a frozen one cannot do."""
    import ray

    ray.kill(member.actor, no_restart=True)
    if _is_here(member):
        _kill_process(member)


def _kill_frozen(members: Iterable[Member]) -> None:
    """Kill the processes of actors on this node that Ray has asked to exit, and that have not done so.

    Not at once: of a process that is killed from outside, Ray tells the user that it has died unexpectedly.
    """
    until = time.monotonic() + _EXIT_S
    for member in members:
        while (is_here := _is_here(member)) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        if is_here:
            _kill_process(member)


def _is_here(member: Member) -> bool:
    """Whether the process of an actor is on this node, and lives."""
    place = member.place
    if place is None or place.node != this_node():
        return False
    try:
        return (
            Path(f"/proc/{place.pid}/cmdline").read_bytes().startswith(_RAY_TITLE)
        )  # no other process has this id now
    except OSError:  # it is gone
        return False


def _kill_process(member: Member) -> None:
    if member.place is not None:
        with contextlib.suppress(OSError):
            os.kill(member.place.pid, signal.SIGKILL)


def end_actors_of(job_id: str, namespace: str, limit_s: float) -> None:
    """Kill the worker actors that an earlier master of a job has made, and wait for their ends, at most `limit_s`.

    Their user code may hold what that of a new attempt needs: a port, the memory of a GPU, a place in a queue.
    """
    import ray

    names = [told["name"] for told in ray.util.list_named_actors(True) if told["namespace"] == namespace]
    asked = []
    for name in names:
        if not name.startswith(f"{job_id}/") or name == f"{job_id}/master":
            continue
        try:
            actor = ray.get_actor(name, namespace=namespace)
        except ValueError:  # it has just ended
            continue
        ray.kill(actor, no_restart=True)
        asked.append(actor.place.remote())
    if asked:
        _log.info("job %s: ended %d actors of its last master", job_id, len(asked))
        began = time.monotonic()
        _, waiting = ray.wait(asked, num_returns=len(asked), timeout=limit_s)
        if waiting:
            _log.warning(
                "%d actors of job %s have not ended within %g s", len(waiting), job_id, time.monotonic() - began
            )


def why_died(error: Exception) -> str:
    """Return the line of Ray's long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "died" in line.lower() or "killed" in line.lower()]
    return (telling or lines or [type(error).__name__])[-1][:300]
