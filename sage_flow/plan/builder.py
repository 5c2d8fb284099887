"""What grows while the user writes: nodes with unique names, checked functions, registered services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan.callables import check_function, check_life_cycle, takes_context
from sage_flow.plan.graph import Kind, Node, OnError, Operator, ServiceDefinition, Tap
from sage_flow.plan.location import Location, caller_location
from sage_flow.plan.physical import Plan
from sage_flow.plan.planner import build_plan

__all__ = ["Graph", "checked_count", "make_collect", "make_operator"]

_POLICIES = ("fail", "skip", "dead_letter")


class Graph:
    """The pipeline of one environment, as far as it is written."""

    def __init__(self, job: str, parallelism: int, environment: Any = None) -> None:
        self.job = job
        self.environment = environment
        self.parallelism = checked_count(parallelism, "parallelism", job)
        self.nodes: list[Node] = []
        self.keys: list[Operator] = []  # of key_by, which is no node
        self.services: dict[str, ServiceDefinition] = {}
        self._taken: dict[str, Location] = {}
        self._labels: dict[str, Location] = {}  # of the rows of collect sinks
        self._counters: dict[str, int] = {}
        self._service: str | None = None  # whose body is being written

    def plan(self) -> Plan:
        """Validate and plan. Raises PipelineError."""
        return build_plan(self.job, self.nodes, self.services, self.parallelism, self.keys)

    def name_for(self, given: str | None, base: str) -> str:
        """Return the full name: the given one or `base-n`, below the service's name inside its body.

        Raises PipelineError if it is taken.
        """
        name = self._scoped(given) or self._next_name(self._scope + base)
        where = caller_location()
        if name in self._taken:
            raise PipelineError(
                f"two operators are named {name!r} ({self._taken[name]} and {where}):"
                " the name is the identity of an operator's state and counts, give one of them another name="
            )
        self._taken[name] = where
        return name

    def label_for(self, given: str | None, operator: str) -> str:
        """Return the label of the rows of a collect sink: the given one, else the operator's name.

        Raises PipelineError if other rows have it.
        """
        label = self._scoped(given) or operator
        where = caller_location()
        if label in self._labels:
            raise PipelineError(
                f"two collect sinks have the name {label!r} ({self._labels[label]} and {where}):"
                " their rows would be mixed in result.collected, give one of them another name"
            )
        self._labels[label] = where
        return label

    @property
    def _scope(self) -> str:
        """What is in front of the names inside the pipeline of a service."""
        return f"{self._service}/" if self._service else ""

    def _scoped(self, given: str | None) -> str | None:
        if given is not None and (not isinstance(given, str) or not given):
            raise PipelineError(f"name must be a non-empty str, not {given!r}")
        return given and self._scope + given

    def _next_name(self, base: str) -> str:
        while True:
            self._counters[base] = self._counters.get(base, 0) + 1
            name = f"{base}-{self._counters[base]}"
            if name not in self._taken and name not in self._labels:  # a sink without a label is its own
                return name

    def add(
        self,
        operator: Operator,
        inputs: Sequence[Sequence[Tap]] = (),
        *,
        parallelism: int | None = None,
        max_parallelism: int | None = None,
    ) -> Node:
        """Add an operator that reads these taps, a group of taps per input side."""
        if parallelism is not None:
            with self.releasing(operator.name):
                checked_count(parallelism, "parallelism", operator.name)
        taps = tuple(tuple(side) for side in inputs)
        node = Node(operator, taps, parallelism, self._service, max_parallelism)
        self.nodes.append(node)
        return node

    @contextmanager
    def releasing(self, name: str) -> Iterator[None]:
        """If what is inside refuses the operator, its name is free again."""
        try:
            yield
        except PipelineError:
            self._taken.pop(name, None)
            raise

    @contextmanager
    def body_of(self, service: str) -> Iterator[None]:
        """What is written inside belongs to the pipeline of this service; if that fails nothing is left of it."""
        nodes, keys = len(self.nodes), len(self.keys)
        taken, labels, counters = dict(self._taken), dict(self._labels), dict(self._counters)
        self._service = service
        try:
            yield
        except BaseException:
            del self.nodes[nodes:], self.keys[keys:]
            self._taken, self._labels, self._counters = taken, labels, counters
            self.services.pop(service, None)
            raise
        finally:
            self._service = None

    def check_outside(self, service: str) -> None:
        """Raises PipelineError if a service's pipeline is being written."""
        if self._service is not None:
            raise PipelineError(
                f"service {service!r} is registered inside the pipeline of {self._service!r}: register it outside"
            )


def checked_count(value: Any, what: str, owner: str) -> int:
    """Return `value` if it is an int of at least 1. Raises PipelineError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PipelineError(f"{what} of {owner!r} must be a whole number of at least 1, not {value!r}")
    return value


def make_operator(
    graph: Graph,
    kind: Kind,
    name: str | None,
    functions: Sequence[tuple[Any, int]] = (),
    *,
    base: str | None = None,
    keyed: bool = False,
    on_error: OnError = "fail",
    with_ctx: bool | None = None,
    options: dict[str, Any] | None = None,
) -> Operator:
    """Make an operator of functions, each with the number of values it is called with. Raises PipelineError."""
    where = caller_location()
    full_name = graph.name_for(name, base or kind.value)
    with graph.releasing(full_name):
        if on_error not in _POLICIES:
            raise PipelineError(
                f"on_error of {full_name!r} ({where}) must be one of {', '.join(_POLICIES)}, not {on_error!r}"
            )
        owner = f"{full_name!r} ({where})"
        for function, _ in functions:
            check_function(kind, function, owner)
            check_life_cycle(owner, function)
        takes_ctx = tuple(takes_context(function, values, with_ctx, owner) for function, values in functions)
    only_functions = tuple(function for function, _ in functions)
    return Operator(full_name, kind, only_functions, takes_ctx, where, keyed, on_error, options or {})


def make_collect(graph: Graph, given: str | None) -> Operator:
    """Make a collect sink; `given` labels its rows, and is free for an operator. Raises PipelineError."""
    name = graph.name_for(None, Kind.COLLECT.value)
    with graph.releasing(name):
        label = graph.label_for(given, name)
    return Operator(name, Kind.COLLECT, (), (), caller_location(), options={"label": label})
