"""What outlives every process of a job: its plan, its log, where it is, what it came to.

It is kept in Ray's GCS, under the namespace of the job. A master that was killed finds it there when Ray starts it
again; whoever asks about a job that is over finds its end there.
"""

from __future__ import annotations

import json
import pickle
import re
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

from sage_flow.errors import PipelineError
from sage_flow.executors.driver import DriverOptions
from sage_flow.executors.execution import JobOutcome
from sage_flow.executors.ray.answers import answered
from sage_flow.executors.ray.key_values import KeyValues
from sage_flow.executors.ray.search_path import SearchPath
from sage_flow.plan.queues import JobQueues
from sage_flow.plan.resources import ActorOptions
from sage_flow.restart import FailureClock, RestartHistory
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.wire import by_value

__all__ = [
    "REMEMBERED",
    "SMALL_OUTCOME",
    "JobOptions",
    "JobRecord",
    "JobRecords",
    "find_actor",
    "is_led",
    "without_rows",
]

_MOST_BYTES: Final = 95_000_000  # a message to the GCS has at most 100 MB
SMALL_OUTCOME: Final = 1 << 20
"""Bytes; the rows of a larger one stay with the master until somebody has fetched them."""
REMEMBERED: Final = 200
"""So many jobs that are over are known."""

RequestedEnd = Literal["cancel", "drain"]
"""How somebody wants a job to end."""


@dataclass(frozen=True)
class JobOptions:
    """How a job is to be led.

    `lease_s`: a process that says nothing for so long is lost. `start_timeout_s`: for all actors of an attempt to be
    there. `is_attached`: the job is cancelled when nobody renews the lease of whoever submitted it. `encrypts`: TLS
    between nodes. `actors`: what an actor gets whose operators do not say. `pool`: names of worker actors to use
    instead of new ones. `search_path`: where the user's modules are. `queues`: the job's own, which end with it.
    """

    driver: DriverOptions = field(default_factory=DriverOptions)
    lease_s: float = 10.0
    start_timeout_s: float = 60.0
    is_attached: bool = True
    encrypts: bool = True
    actors: ActorOptions = field(default_factory=ActorOptions)
    pool: tuple[str, ...] = ()
    search_path: SearchPath = field(default_factory=SearchPath)
    queues: JobQueues | None = None


@dataclass(frozen=True)
class JobRecord:
    """A job as others see it. Times are seconds since the epoch; `submission_id` is that of Ray's job API, if any."""

    id: str
    name: str
    status: JobStatus
    submitted: float
    attempt: int = 0
    ended: float | None = None
    message: str = ""
    submission_id: str | None = None
    is_attached: bool = True

    @property
    def master(self) -> str:
        """The name of the actor that leads it."""
        return f"{self.id}/master"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "status": str(self.status)}


class JobRecords:
    """The jobs of a namespace. `limit_s` is that of `KeyValues`, which `store` is."""

    def __init__(self, namespace: str, limit_s: float | None = None) -> None:
        self.store = KeyValues(namespace, limit_s)
        self._namespace = namespace

    def add(self, name: str, plan: bytes, options: JobOptions, submission_id: str | None) -> JobRecord:
        """Store a new job and take its name. Raises PipelineError if a job of this name runs, or it is too large."""
        if len(plan) > _MOST_BYTES:
            raise PipelineError(
                f"the plan of job {name!r} has {len(plan):,} bytes, over the {_MOST_BYTES:,} that Ray can store: load"
                " large objects in open(), or from a file, instead of putting them into functions and collections"
            )
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60]
        record = JobRecord(
            f"{slug}-{secrets.token_hex(3)}",
            name,
            JobStatus.CREATED,
            time.time(),
            submission_id=submission_id,
            is_attached=options.is_attached,
        )
        self._take_name(record)
        self.store.put(f"plan/{record.id}", plan)
        self.store.put(f"options/{record.id}", by_value.dumps(options))
        self.write(record)
        self._forget_the_oldest()
        return record

    def plan(self, job_id: str) -> tuple[bytes, JobOptions]:
        """What was stored. Raises KeyError if nothing was."""
        return self.store.get(f"plan/{job_id}"), self.options(job_id)

    def options(self, job_id: str) -> JobOptions:
        """Those that were stored; they stay when the job is over. Raises KeyError if nothing was."""
        options: JobOptions = pickle.loads(self.store.get(f"options/{job_id}"))
        return options

    def history(self, job_id: str) -> tuple[RestartHistory, FailureClock] | None:
        """The failures so far, if there were any, and their clock."""
        stored = self.store.find(f"history/{job_id}")
        return None if stored is None else pickle.loads(stored)

    def write_history(self, job_id: str, history: RestartHistory, clock: FailureClock) -> None:
        """Keep it for the next master."""
        self.store.put(f"history/{job_id}", pickle.dumps((history, clock)))

    def requested_end(self, job_id: str, what: RequestedEnd) -> str | None:
        """Why it was requested, None if it was not."""
        stored = self.store.find(f"requested_end/{job_id}/{what}")
        return None if stored is None else stored.decode()

    def write_requested_end(self, job_id: str, what: RequestedEnd, reason: str = "") -> None:
        """Keep it for the next master, if this one does not live to see it come true."""
        self.store.put(f"requested_end/{job_id}/{what}", reason.encode())

    def write(self, record: JobRecord) -> None:
        """Tell where a job is."""
        self.store.put(f"record/{record.id}", json.dumps(record.as_dict()).encode())

    def write_outcome(self, record: JobRecord, outcome: JobOutcome, reason: str = "") -> bool:
        """Tell what a job came to; return whether its rows are stored, too, and its master is not needed any more.

        `reason`: why it was cancelled, if it was.
        """
        content = by_value.dumps(outcome)
        is_whole = len(content) <= SMALL_OUTCOME
        self.store.create(f"outcome/{record.id}", content if is_whole else by_value.dumps(without_rows(outcome)))
        message = reason if outcome.failure is None else f"{outcome.failure.type_name}: {outcome.failure.message}"
        self.write(replace(record, status=outcome.status, ended=time.time(), message=message))
        self.store.delete(f"plan/{record.id}")
        if self.store.find(f"name/{record.name}") == record.id.encode():
            self.store.delete(f"name/{record.name}")
        return is_whole

    def outcome(self, job_id: str) -> JobOutcome | None:
        """What it came to, if it is over; without rows if they were too many to be stored."""
        stored = self.store.find(f"outcome/{job_id}")
        return None if stored is None else pickle.loads(stored)

    def read(self, job_id: str) -> JobRecord | None:
        """Where it is, if it is known."""
        stored = self.store.find(f"record/{job_id}")
        return None if stored is None else _record(stored)

    def all(self) -> list[JobRecord]:
        """All that are known, the latest first."""
        found = self.store.below("record/").values()
        return sorted(map(_record, found), key=lambda record: -record.submitted)

    def find(self, job: str) -> JobRecord:
        """The job of this id, or the latest of this name or submission. Raises PipelineError, with what there is."""
        jobs = self.all()
        for record in jobs:
            if job in (record.id, record.name, record.submission_id):
                return record
        there = ", ".join(record.id for record in jobs[:10]) or "none"
        raise PipelineError(f"no job {job!r} is known here; there are: {there}")

    def _take_name(self, record: JobRecord) -> None:
        key = f"name/{record.name}"
        while not self.store.create(key, record.id.encode()):
            other = self.read((self.store.find(key) or b"").decode())
            if other is not None and not other.status.is_final and is_led(self._namespace, other):
                raise PipelineError(
                    f"a job named {record.name!r} runs already ({other.id}): cancel it, or give this one another name"
                )
            self.store.delete(key)

    def _forget_the_oldest(self) -> None:
        over = [record for record in self.all() if record.status.is_final]
        for record in over[REMEMBERED:]:
            for kind in ("record", "outcome", "options", "history"):
                self.store.delete(f"{kind}/{record.id}")
            for kind in ("log", "requested_end"):
                self.store.delete(f"{kind}/{record.id}/", and_below=True)


def without_rows(outcome: JobOutcome) -> JobOutcome:
    """The outcome of a job whose rows are too many to be stored."""
    return replace(outcome, collected={}, has_rows=False)


def is_led(namespace: str, record: JobRecord) -> bool:
    """Whether the master of a job is there, or comes back. Raises ClusterError if the cluster does not answer."""
    if find_actor(namespace, record.master) is None:
        return time.time() - record.submitted < 10  # it may be on its way
    return True


def find_actor(namespace: str, name: str) -> Any:
    """A handle of this actor; None if there is none. Raises ClusterError if the cluster does not answer."""
    import ray

    try:
        return answered(partial(ray.get_actor, name, namespace=namespace), "the GCS of the cluster")
    except ValueError:
        return None


def _record(stored: bytes) -> JobRecord:
    told = json.loads(stored)
    return JobRecord(**{**told, "status": JobStatus(told["status"])})
