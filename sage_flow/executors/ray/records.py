"""What outlives every process of a job: its plan, its log, its state and its outcome.

It is kept in Ray's GCS, under the namespace of the job. A killed master finds it there when Ray starts it again, and
clients find the outcomes of jobs that are over there.
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
"""Bytes; the rows of a larger outcome stay with the master until they were fetched."""
REMEMBERED: Final = 200
"""The number of ended jobs whose records are kept."""

RequestedEnd = Literal["cancel", "drain", "stop"]
"""How a job was asked to end."""


@dataclass(frozen=True)
class JobOptions:
    """How a job is to be led.

    `lease_s`: a process that sends nothing for so many seconds is lost. `start_timeout_s`: seconds for all actors of an
    attempt to start. `is_attached`: the job is cancelled if the program that submitted it does not renew its lease.
    `encrypts`: TLS between nodes. `actors`: the options of actors whose operators set none. `pool`: names of worker
    actors to use instead of new ones. `search_path`: where the user's modules are. `queues`: those of the job, which
    end with it. `keeps_actors`: an attempt takes over the actors of the one before, if the job may restart.
    `metrics_interval_s`: how often its metrics are given to Ray.
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
    keeps_actors: bool = True
    metrics_interval_s: float = 10.0


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
        """Return it in types of JSON."""
        return {**asdict(self), "status": str(self.status)}


class JobRecords:
    """The jobs of a namespace. `limit_s` is that of `KeyValues`, which `store` is."""

    def __init__(self, namespace: str, limit_s: float | None = None) -> None:
        self.store = KeyValues(namespace, limit_s)
        self._namespace = namespace

    def add(self, name: str, plan: bytes, options: JobOptions, submission_id: str | None) -> JobRecord:
        """Store a new job and take its name. Raises PipelineError if that name is in use, or the plan is too large."""
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
        """Return plan and options of a job. Raises KeyError if none are stored."""
        return self.store.get(f"plan/{job_id}"), self.options(job_id)

    def options(self, job_id: str) -> JobOptions:
        """Return the options of a job, which stay when it is over. Raises KeyError if none are stored."""
        options: JobOptions = pickle.loads(self.store.get(f"options/{job_id}"))
        return options

    def history(self, job_id: str) -> tuple[RestartHistory, FailureClock] | None:
        """Return the restart history of a job and its clock; None if there were no failures."""
        stored = self.store.find(f"history/{job_id}")
        return None if stored is None else pickle.loads(stored)

    def write_history(self, job_id: str, history: RestartHistory, clock: FailureClock) -> None:
        """Store the restart history for the next master."""
        self.store.put(f"history/{job_id}", pickle.dumps((history, clock)))

    def requested_end(self, job_id: str, what: RequestedEnd) -> str | None:
        """Return why this end was requested, None if it was not."""
        stored = self.store.find(f"requested_end/{job_id}/{what}")
        return None if stored is None else stored.decode()

    def write_requested_end(self, job_id: str, what: RequestedEnd, reason: str = "") -> None:
        """Store the request, so that the next master knows of it if this one dies."""
        self.store.put(f"requested_end/{job_id}/{what}", reason.encode())

    def write(self, record: JobRecord) -> None:
        """Store the state of a job."""
        self.store.put(f"record/{record.id}", json.dumps(record.as_dict()).encode())

    def write_outcome(self, record: JobRecord, outcome: JobOutcome, reason: str = "") -> bool:
        """Store the outcome of a job; return whether that includes its rows, so that the master is not needed any more.

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
        """Return the outcome of a job, None if it is not over; without rows if they were too many to be stored."""
        stored = self.store.find(f"outcome/{job_id}")
        return None if stored is None else pickle.loads(stored)

    def read(self, job_id: str) -> JobRecord | None:
        """Return the record of a job, None if there is none."""
        stored = self.store.find(f"record/{job_id}")
        return None if stored is None else _record(stored)

    def all(self) -> list[JobRecord]:
        """Return all records, the latest first."""
        found = self.store.below("record/").values()
        return sorted(map(_record, found), key=lambda record: -record.submitted)

    def find(self, job: str) -> JobRecord:
        """Return the job of this id, or the latest of this name or submission. Raises PipelineError that lists jobs."""
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
    """Return an outcome without its rows, which are too many to be stored."""
    return replace(outcome, collected={}, has_rows=False)


def is_led(namespace: str, record: JobRecord) -> bool:
    """Whether the master of a job runs, or is being started. Raises ClusterError if the cluster does not answer."""
    if find_actor(namespace, record.master) is None:
        return time.time() - record.submitted < 10  # the master may be starting
    return True


def find_actor(namespace: str, name: str) -> Any:
    """Return a handle of this actor; None if there is none. Raises ClusterError if the cluster does not answer."""
    import ray

    try:
        return answered(partial(ray.get_actor, name, namespace=namespace), "the GCS of the cluster")
    except ValueError:
        return None


def _record(stored: bytes) -> JobRecord:
    told = json.loads(stored)
    return JobRecord(**{**told, "status": JobStatus(told["status"])})
