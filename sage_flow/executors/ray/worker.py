"""A worker actor: the process of some subtasks of one attempt of a job."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sage_flow.checkpoint.restore import RestorePoint
from sage_flow.errors import InternalError
from sage_flow.executors.exchange import Exchange
from sage_flow.executors.log_lines import log_lines
from sage_flow.executors.ray.search_path import SearchPath
from sage_flow.executors.resources import Resources
from sage_flow.executors.subtasks import SWITCH_S, WorkerProcess, freeze_imports
from sage_flow.links.address import Address, TcpAddress, UnixAddress
from sage_flow.links.endpoint import Credentials, Endpoint

__all__ = ["AddressBook", "Assignment", "Place", "Remains", "WorkerActor", "this_node"]

_FENCED = 70


@dataclass(frozen=True)
class Assignment:
    """The part of one process in an attempt. The key travels through Ray only, and is in no repr.

    `name`: of this actor, in messages. Of a job with checkpoints: the name of its run, where that is stored, and where
    the attempt begins.
    """

    process: int
    job: str
    attempt: int
    lease_s: float
    start_timeout_s: float
    search_path: SearchPath = field(repr=False)
    key: bytes = field(repr=False)
    name: str = ""
    run: str = ""
    checkpoints: str | None = None
    restores: RestorePoint | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Place:
    """Where an actor runs."""

    node: str
    pid: int
    actor_id: str


class Remains(NamedTuple):
    """What is left in an actor after a run.

    With `threads` that have not ended it must not run again. `has_resources`: `leave` closes them.
    """

    threads: tuple[str, ...]
    has_resources: bool


class AddressBook:
    """The addresses of the processes of an attempt, as seen from one of them."""

    def __init__(self, me: int) -> None:
        self._me = me
        self.node = this_node()
        self._own = UnixAddress.unnamed()
        self._tls: Any = None
        self._endpoints: dict[int, Endpoint] = {}

    def __call__(self, process: int) -> Address:
        if process == self._me:
            return self._own
        return self._endpoints[process].address_from(self.node, self._tls)

    def own_endpoint(self, exchange: Exchange, listens: bool, credentials: Credentials | None) -> Endpoint:
        """Return where to dial this process. `listens`: other nodes can, too, under TLS if there are credentials."""
        if not listens:
            return Endpoint(self.node, self._own.path)
        host = node_ip()
        bound = exchange.listen(TcpAddress(host, 0, None if credentials is None else credentials.server()))
        self._tls = None if credentials is None else credentials.client()
        if not isinstance(bound, TcpAddress):
            raise InternalError(f"a listener on TCP must have an address of TCP, not {bound}")
        return Endpoint(self.node, self._own.path, host, bound.port)

    def learn(self, endpoints: dict[int, Endpoint]) -> None:
        """Note the endpoints of the other processes."""
        self._endpoints = endpoints


class WorkerActor:
    """A worker actor. For each attempt the master calls `join`, then `run`; before the first one perhaps `warm`.

    After the last attempt of a job it calls `leave` if there are resources.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._process: WorkerProcess | None = None
        self._book: AddressBook | None = None
        self._assignment: Assignment | None = None
        self._resources = Resources()
        sys.setswitchinterval(SWITCH_S)

    def __repr__(self) -> str:
        return self._label  # Ray puts it before every line that this process prints

    def place(self) -> Place:
        """Return where this actor runs."""
        import ray

        context = ray.get_runtime_context()
        return Place(context.get_node_id(), os.getpid(), context.get_actor_id())

    def warm(self, search_path: SearchPath, plan: bytes) -> None:
        """Import what a plan needs, so that a later attempt begins sooner."""
        search_path.follow()
        pickle.loads(plan)
        freeze_imports()

    def join(self, assignment: Assignment, listens: bool, credentials: Credentials | None) -> Endpoint:
        """Take part in an attempt; return the endpoint of this process. `listens`: for other nodes, too."""
        if self._process is not None:  # of an attempt that has ended before it ran
            self._process.exchange.close()
        self._assignment = assignment
        log_lines(assignment.job)
        if assignment.name:
            self._label = f"{assignment.job}/{assignment.name}"
        self._book = AddressBook(assignment.process)
        self._process = WorkerProcess(
            assignment.process,
            addresses=self._book,
            key=assignment.key,
            job=assignment.job,
            attempt=assignment.attempt,
            on_driver_lost=self._on_driver_lost,
            connect_timeout_s=assignment.start_timeout_s,
            bind_timeout_s=assignment.start_timeout_s,
            lease_s=assignment.lease_s,
        )
        return self._book.own_endpoint(self._process.exchange, listens, credentials)

    def run(self, plan: bytes, process_of: dict[int, int], endpoints: dict[int, Endpoint]) -> Remains:
        """Run the subtasks of this actor to their end.

        The plan is loaded anew for each attempt, so nothing in it remembers the attempt before.
        """
        assignment, process, book = self._assignment, self._process, self._book
        if assignment is None or process is None or book is None:
            raise InternalError("a worker runs before it has joined")
        self._process = None
        book.learn(endpoints)
        process.listen()
        assignment.search_path.follow()
        where = f"actor {self._label!r} (process {os.getpid()} of node {this_node()[:8]})"
        try:
            loaded = process.load(lambda: pickle.loads(plan), process_of, where)
        except BaseException:
            return Remains((), has_resources=bool(self._resources))  # `load` has told the master
        begun = replace(
            loaded,
            job_id=assignment.run or assignment.job,
            attempt=assignment.attempt,
            checkpoints=assignment.checkpoints,
            restores=assignment.restores,
        )
        self._resources.reset()
        left = process.run(begun, process_of, self._resources)
        del process, loaded, begun
        gc.collect()  # the state of this attempt, before the next one restores it beside that
        return Remains(tuple(left), has_resources=bool(self._resources))

    def leave(self, limit_s: float) -> None:
        """The job is over: close what its functions have shared."""
        self._resources.close(limit_s)

    def _on_driver_lost(self, reason: str) -> None:
        print(f"{self._label}: lost the job master ({reason}), this process ends", file=sys.stderr, flush=True)
        os._exit(_FENCED)


def this_node() -> str:
    """Return the id of the node of this process."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def node_ip() -> str:
    """Return the address by which other nodes reach this one."""
    import ray

    node = this_node()
    return next(str(told["NodeManagerAddress"]) for told in ray.nodes() if told["NodeID"] == node)
