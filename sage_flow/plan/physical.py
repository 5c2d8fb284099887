"""The physical plan: chains, edges between them, services. Frozen and picklable; all executors run it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.plan.graph import Operator, Partitioning
from sage_flow.plan.queues import JobQueues
from sage_flow.plan.resources import DEFAULT_OPTIONS, ActorOptions
from sage_flow.plan.shared_records import SharedRecords

if TYPE_CHECKING:
    from sage_flow.checkpoint.restore import RestorePoint

__all__ = ["Channel", "Chain", "Edge", "Plan", "ServicePlan", "Subtask", "prepared_for"]

PLAN_VERSION = 5

MAX_PARALLELISM = 128
"""Key groups, the units in which keyed state moves."""

DRIVER_CHAIN = -1
"""Target of edges that lead to the driver (`collect`)."""
REPLY = -2
"""Target of edges that lead back to the caller of a service."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A path from one chain to another.

    `operator` is the index in the source chain of the operator whose output it takes (`tag` None: its main
    output, and then it is the chain's last). `key` computes the key where the partitioning is by hash.
    `side` is the input of the target's first operator: 0, or 1 for the right side of a connected stream.
    Records travel as `value`, `(key, value)`, and with a timestamp behind that if the edge is `timed`.
    """

    id: int
    source: int
    target: int
    operator: int
    tag: str | None
    partitioning: Partitioning
    key: Operator | None = None
    side: int = 0
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """Neighbouring operators that run as one function in `parallelism` subtasks; `options` are of each one's actor."""

    id: int
    operators: tuple[Operator, ...]
    parallelism: int
    service: str | None = None
    options: ActorOptions = DEFAULT_OPTIONS

    @property
    def name(self) -> str:
        return " -> ".join(operator.name for operator in self.operators)

    @property
    def head(self) -> Operator:
        return self.operators[0]


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """How to reach a service: requests go to the subtasks of `chain`.

    `needs_key`: its replicas have a state of their own each, so every call says whose. `many`: its reply is a list.
    `uses` are the services that it said it calls.
    `methods` are the names that can be called, None where only the running object knows (a factory).
    `type_key` is the class a caller may name instead of the service. `open_timeout_s`: for it to open. `requests`
    is the queue descriptor of a channel whose requests it answers, too, or a function that makes it. `most_at_once` is
    how many calls a replica can work on, with those of a batch.
    """

    name: str
    chain: int
    max_pending: int
    timeout_s: float
    concurrency: int = 1
    parallelism: int = 1
    needs_key: bool = False
    many: bool = False
    uses: tuple[str, ...] = ()
    methods: frozenset[str] | None = None
    type_key: str | None = None
    open_timeout_s: float = 300.0
    requests: Any = None
    most_at_once: int = 1

    @property
    def most_pending(self) -> int:
        """The open calls of one caller that does not know which replica answers them."""
        return self.max_pending * self.parallelism


@dataclass(frozen=True, slots=True)
class Subtask:
    """One parallel copy of a chain. `address` is where messages for it go; 0 is the driver's."""

    address: int
    chain: Chain
    index: int

    @property
    def name(self) -> str:
        """`map-1 -> filter-1[2/3]`: counted from 1, as people do."""
        return f"{self.chain.name}[{self.index + 1}/{self.chain.parallelism}]"


def prepared_for(subtask: Subtask, prepared: Iterable[Prepared]) -> tuple[Prepared, ...]:
    """Return what `subtask` publishes of what former subtasks, maybe more than there are now, have prepared."""
    names = {operator.name for operator in subtask.chain.operators}
    count = subtask.chain.parallelism
    return tuple(p for p in prepared if p.operator in names and p.subtask % count == subtask.index)


@dataclass(frozen=True, slots=True)
class Channel:
    """One edge from one subtask to one subtask; the addresses of both ends."""

    id: int
    edge: Edge
    producer: int
    consumer: int


@dataclass(frozen=True)
class Plan:
    """What a job runs. `queues`: where its own queues are; None for a plan that is not to be run.

    `shared_records`: those that are known, where operators that change them are looked for.
    `job_id`: of this run, which no other run has, also none of the same name. `attempt`: how often it has been started.
    `publishes`: the job has finished, and only publishes what its sinks have prepared; see `publishing`.
    `checkpoints`: where the checkpoints of this run are stored, None for a job without. `restores`: the checkpoint from
    which the attempt begins.
    """

    job: str
    chains: tuple[Chain, ...]
    edges: tuple[Edge, ...]
    services: dict[str, ServicePlan] = field(default_factory=dict)
    max_parallelism: int = MAX_PARALLELISM
    version: int = PLAN_VERSION
    queues: JobQueues | None = None
    shared_records: SharedRecords | None = None
    job_id: str = ""
    attempt: int = 1
    publishes: tuple[Prepared, ...] | None = None
    checkpoints: str | None = None
    restores: RestorePoint | None = None

    def publishing(self, attempt: int, prepared: tuple[Prepared, ...]) -> Plan:
        """The plan of an attempt that only publishes `prepared`: it has only the subtasks that have prepared some."""
        return replace(self, attempt=attempt, publishes=prepared, restores=None, edges=(), services={})

    @cached_property
    def subtasks(self) -> tuple[Subtask, ...]:
        """All subtasks; their addresses count from 1 in this order."""
        pairs = [(chain, index) for chain in self.chains for index in range(chain.parallelism)]
        found = tuple(Subtask(address, chain, index) for address, (chain, index) in enumerate(pairs, start=1))
        return found if self.publishes is None else tuple(s for s in found if self.prepared_by(s))

    def prepared_by(self, subtask: Subtask) -> tuple[Prepared, ...]:
        """What `subtask` publishes of `publishes`."""
        return prepared_for(subtask, self.publishes or ())

    def takes_part(self, subtask: Subtask) -> bool:
        """Whether `subtask` has a part in the checkpoints of the job: services have none."""
        return self.checkpoints is not None and subtask.chain.service is None

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """All channels, numbered in order: a forward edge joins equal indices, the others everyone with everyone."""
        found: list[Channel] = []
        for edge in self.edges:
            if edge.target == REPLY:
                continue
            producers = self.addresses(edge.source)
            consumers = [0] if edge.target == DRIVER_CHAIN else self.addresses(edge.target)
            forward = edge.partitioning is Partitioning.FORWARD and edge.target != DRIVER_CHAIN
            pairs = (
                list(zip(producers, consumers, strict=True))
                if forward
                else [(p, c) for p in producers for c in consumers]
            )
            found += [Channel(number, edge, p, c) for number, (p, c) in enumerate(pairs, start=len(found))]
        return tuple(found)

    def addresses(self, chain: int) -> list[int]:
        """The addresses of a chain's subtasks, by index."""
        return [subtask.address for subtask in self.subtasks if subtask.chain.id == chain]
