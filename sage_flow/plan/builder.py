"""What grows while the user writes: nodes with unique names, checked functions, registered services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.callables import check_function, check_life_cycle, takes_context
from sage_flow.plan.callbacks import check_timers
from sage_flow.plan.graph import Node, OnError, Operator, ServiceDefinition, Tap
from sage_flow.plan.kinds import Kind
from sage_flow.plan.location import Location, caller_location, current_cell
from sage_flow.plan.physical import Plan
from sage_flow.plan.planner import build_draft, build_plan
from sage_flow.plan.rewriting import (
    check_sources_read_alone,
    check_up_to_date,
    keys_of,
    leading_to_sinks,
    outdated_readers,
    without_leftovers,
    without_replaced_files,
)
from sage_flow.plan.validation import missing

__all__ = ["Graph", "checked_count", "checked_seconds", "make_collect", "make_operator"]


class _Written(NamedTuple):
    """What a graph holds, to go back to it."""

    nodes: list[Node]
    keys: list[Operator]
    services: dict[str, ServiceDefinition]
    taken: dict[str, Location]
    labels: dict[str, Location]
    counters: dict[str, int]
    outdated: list[tuple[Operator, Location]]


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
        self._outdated: list[tuple[Operator, Location]] = []  # whose names later cells of a notebook have taken
        self._before: dict[str, _Written] = {}  # what there was before a name was taken from an earlier cell
        self._service: str | None = None  # whose body is being written

    def plan(self) -> Plan:
        """Validate and plan. Raises PipelineError.

        In a notebook what earlier cells have written, and nothing reads, is left out.
        """
        nodes, keys, cell = self.nodes, self.keys, current_cell()
        if cell is not None:
            nodes = leading_to_sinks(without_replaced_files(nodes), self.services, cell)
            keys = keys_of(keys, nodes, cell)
            check_up_to_date(nodes, self._outdated)
            check_sources_read_alone(nodes)
        return build_plan(self.job, nodes, self.services, self.parallelism, keys)

    def draft(self) -> tuple[Plan, list[str]]:
        """Plan what is there, be it half a pipeline; say what it lacks.

        Raises PipelineError for what is wrong and more writing cannot mend.
        """
        nodes, keys, cell = self.nodes, self.keys, current_cell()
        if cell is not None:
            nodes = without_leftovers(without_replaced_files(nodes), self._outdated)
            keys = keys_of(keys, nodes, cell)
        lacks = [*outdated_readers(nodes, self._outdated), *missing(nodes, self.services, keys)]
        return build_draft(self.job, nodes, self.services, self.parallelism), lacks

    def name_for(self, given: str | None, kind: Kind, base: str | None = None) -> str:
        """Return the full name: the given one or `base-n`, below the service's name inside its body.

        Raises PipelineError if it is taken.
        """
        where = caller_location()
        name = self._scoped(given)
        if name is None:
            base = self._scope + (base or kind.name)
            again = self._sink_written_again(base, where) if kind.is_sink else None
            name = self._next_name(base) if again is None else again.name
        if (earlier := self._taken.get(name)) is not None:
            if name in self.services or kind is kinds.SERVICE or not where.is_after(earlier):
                raise PipelineError(
                    f"two operators are named {name!r} ({earlier} and {where}):"
                    " the name is the identity of an operator's state and counts, give one of them another name="
                )
            self._take_over(name, where)
        self._taken[name] = where
        return name

    def names_of_rows(self, given: str | None) -> tuple[str, str]:
        """Return the name of a collect sink, and the label of its rows: the given one, else the same.

        Raises PipelineError if other rows have the label.
        """
        where = caller_location()
        label = self._scoped(given)
        if label is None:
            name = label = self.name_for(None, kinds.COLLECT)
        elif (earlier := self._labels.get(label)) is None:
            name = self.name_for(None, kinds.COLLECT)
        elif where.is_after(earlier):
            (name,) = [node.name for node in self.nodes if node.kind is kinds.COLLECT and node.operator.label == label]
            self._take_over(name, where)
            self._taken[name] = where
        else:
            raise PipelineError(
                f"two collect sinks have the name {label!r} ({earlier} and {where}):"
                " their rows would be mixed in result.collected, give one of them another name"
            )
        self._labels[label] = where
        return name, label

    def _sink_written_again(self, base: str, where: Location) -> Node | None:
        """The sink without a name of its own that an earlier run of this cell has written at this line."""
        for node in self.nodes:
            unnamed = node.name.rpartition("-")[0] == base and node.operator.label == node.name
            if node.kind.is_sink and unnamed and where.is_again(node.operator.location):
                return node
        return None

    def _take_over(self, name: str, where: Location) -> None:
        """Let a later cell have the name: a sink leaves, another operator must not be read any more."""
        self._before[name] = self._written()
        for node in self.nodes:
            if node.name == name and node.kind.is_sink:
                self.nodes = [other for other in self.nodes if other is not node]
                self._labels.pop(node.operator.label, None)
        operators = [*(node.operator for node in self.nodes), *self.keys]
        known = [operator for operator, _ in self._outdated]
        self._outdated = [
            *self._outdated,
            *((o, where) for o in operators if o.name == name and not any(o is other for other in known)),
        ]

    def _written(self) -> _Written:
        return _Written(
            list(self.nodes),
            list(self.keys),
            dict(self.services),
            dict(self._taken),
            dict(self._labels),
            dict(self._counters),
            list(self._outdated),
        )

    def _restore(self, written: _Written) -> None:
        self.nodes, self.keys, self.services, self._taken, self._labels, self._counters, self._outdated = written

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
        """If what is inside refuses the operator, its name is free again, or an earlier cell's again."""
        try:
            yield
        except PipelineError:
            self._taken.pop(name, None)
            if name in self._before:
                self._restore(self._before.pop(name))
            raise

    @contextmanager
    def registering(self, service: str) -> Iterator[None]:
        """What is inside registers this service, be it again in a later cell; if that fails all is as it was.

        Raises PipelineError if it is registered already.
        """
        self._check_outside(service)
        before = self._written()
        if service in self.services:
            earlier, where = self.services[service].location, caller_location()
            if not where.is_after(earlier):
                raise PipelineError(
                    f"service {service!r} is registered already ({earlier}): give this one another name"
                )
            self._forget(service)
        try:
            yield
        except BaseException:
            self._restore(before)
            raise

    def _forget(self, service: str) -> None:
        inside = f"{service}/"
        self.nodes = [node for node in self.nodes if node.service != service]
        self.keys = [key for key in self.keys if not key.name.startswith(inside)]
        self.services = {name: other for name, other in self.services.items() if name != service}
        for names in (self._taken, self._labels, self._counters):
            for name in [name for name in names if name == service or name.startswith(inside)]:
                del names[name]

    @contextmanager
    def body_of(self, service: str) -> Iterator[None]:
        """What is written inside belongs to the pipeline of this service."""
        self._service = service
        try:
            yield
        finally:
            self._service = None

    def _check_outside(self, service: str) -> None:
        """Raises PipelineError if a service's pipeline is being written."""
        if self._service is not None:
            raise PipelineError(
                f"service {service!r} is registered inside the pipeline of {self._service!r}: register it outside"
            )


def checked_count(value: Any, what: str, owner: str) -> int:
    """Return `value` if it is an int of at least 1. Raises PipelineError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PipelineError(
            f"{what} of {owner!r} must be a whole number of at least 1, not {value!r} ({caller_location()})"
        )
    return value


def checked_seconds(value: Any, what: str, owner: str) -> float:
    """Return `value` if it is a number of seconds above 0. Raises PipelineError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise PipelineError(f"{what} {owner!r} must be a number of seconds above 0, not {value!r}")
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
    full_name = graph.name_for(name, kind, base)
    with graph.releasing(full_name):
        policies = ("fail", *kind.on_error)
        if on_error not in policies:
            raise PipelineError(
                f"on_error of {full_name!r} ({where}) must be one of {', '.join(policies)}, not {on_error!r}"
            )
        owner = f"{full_name!r} ({where})"
        for side, (function, _) in enumerate(functions):
            iterates = bool((options or {}).get("process"))
            check_function(kind, function, owner, side, sides=len(functions), iterates=iterates)
            check_life_cycle(owner, function)
        takes_ctx = tuple(
            takes_context(function, values, with_ctx, owner, side) for side, (function, values) in enumerate(functions)
        )
        check_timers(kind, [function for function, _ in functions], owner, keyed=keyed)
    only_functions = tuple(function for function, _ in functions)
    return Operator(
        full_name, kind, only_functions, takes_ctx, where, keyed, on_error, options or {}, is_named=name is not None
    )


def make_collect(graph: Graph, given: str | None) -> Operator:
    """Make a collect sink; `given` labels its rows, and is free for an operator. Raises PipelineError."""
    name, label = graph.names_of_rows(given)
    return Operator(
        name, kinds.COLLECT, (), (), caller_location(), options={"label": label}, is_named=given is not None
    )
