"""The logical graph: one node per operator the user wrote, linked by taps.

A stream is a handful of taps on nodes. `union`, `key_by`, `rebalance` and their like make new taps and no
node: they say how records reach the next operator, and have no subtask of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

from sage_flow.plan.kinds import Kind
from sage_flow.plan.location import Location
from sage_flow.plan.resources import DEFAULT_OPTIONS, ActorOptions

__all__ = [
    "DEAD_LETTERS",
    "LATE_RECORDS",
    "Node",
    "OnError",
    "Partitioning",
    "ServiceDefinition",
    "Tap",
]

OnError = Literal["fail", "skip", "dead_letter"]

DEAD_LETTERS = "dead_letters"
"""The side output on which an operator with on_error="dead_letter" puts its failed records."""
LATE_RECORDS = "late_records"
"""The side output on which a window puts the records that came too late for it."""


class Partitioning(str, Enum):
    """How the records of one subtask are spread over the subtasks of the next operator."""

    AUTO = "auto"  # forward at equal parallelism, else rebalance
    FORWARD = "forward"
    HASH = "hash"
    REBALANCE = "rebalance"
    BROADCAST = "broadcast"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Operator:
    """What runs in a subtask for one operator: picklable, without its links.

    `functions` has one callable, or one per input of a connected stream. `options` are those of the kind
    (`initial`, `emit`, `batch_size`, `label`). `timed`: its records come with timestamps that somebody uses, which the
    planner knows (`timing.py`). `is_named`: the user has given the name, so it stands for this operator alone.
    """

    name: str
    kind: Kind
    functions: tuple[Any, ...]
    with_ctx: tuple[bool, ...]
    location: Location
    keyed: bool = False
    on_error: OnError = "fail"
    options: dict[str, Any] = field(default_factory=dict)
    timed: bool = False
    is_named: bool = False

    @property
    def label(self) -> str:
        """Of a collect sink: the name of its rows."""
        return str(self.options.get("label", self.name))

    @property
    def emits_at_end(self) -> bool:
        """Whether it holds records back until its input ends."""
        return self.kind.holds_back or self.options.get("emit") == "final"

    @property
    def needs_time(self) -> bool:
        """Whether it goes by the timestamps of its records."""
        return self.kind.needs_time or any(self.with_ctx) or self.options.get("ttl_ms") is not None


@dataclass(eq=False, slots=True)
class Node:
    """An operator in the graph. `parallelism` None means the environment's default (see `plan.physical`).

    `actor_options` is what was said about it itself.
    """

    operator: Operator
    inputs: tuple[tuple[Tap, ...], ...]
    parallelism: int | None = None
    service: str | None = None
    max_parallelism: int | None = None  # 1 for sources that cannot share their work
    actor_options: ActorOptions = DEFAULT_OPTIONS

    @property
    def name(self) -> str:
        return self.operator.name

    @property
    def kind(self) -> Kind:
        return self.operator.kind


@dataclass(frozen=True, eq=False, slots=True)
class Tap:
    """One output of a node and how it is to be spread: `tag` None is the main output."""

    node: Node
    tag: str | None = None
    partitioning: Partitioning = Partitioning.AUTO
    key: Operator | None = None

    def keyed(self, key: Operator) -> Tap:
        return replace(self, partitioning=Partitioning.HASH, key=key)

    def spread(self, partitioning: Partitioning) -> Tap:
        return replace(self, partitioning=partitioning, key=None)


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """A registered service: a class with its (positional, keyword) arguments, or the output taps of its pipeline.

    `stateless`: any replica may answer any call. `many`: the reply is a list. `uses`: services that it calls.
    `actor_options`: of its replicas, or of every operator of its pipeline where that says nothing else. `requests`:
    the queue descriptor of a channel whose requests it answers, too, or a function that makes it.
    """

    name: str
    location: Location
    parallelism: int
    max_pending: int
    timeout_s: float
    concurrency: int = 1
    stateless: bool = False
    many: bool = False
    uses: tuple[str, ...] = ()
    factory: Callable[..., Any] | None = None
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = field(default_factory=lambda: ((), {}))
    output: tuple[Tap, ...] = ()
    actor_options: ActorOptions = DEFAULT_OPTIONS
    open_timeout_s: float = 300.0
    requests: Any = None
