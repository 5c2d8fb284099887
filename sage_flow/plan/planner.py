"""From the logical graph to the physical plan: resolve parallelism, chain, draw the edges.

Two neighbours share a chain when the edge between them would be forward - equal parallelism, one reader, one
input - and the second one says nothing about the actors it needs, or just what the chain says. With one subtask
on both sides a hash edge is forward too: every key goes to the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sage_flow.batching import batch_limits
from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.graph import Node, Operator, Partitioning, ServiceDefinition, Tap
from sage_flow.plan.outputs import check_outputs
from sage_flow.plan.physical import DRIVER_CHAIN, MAX_PARALLELISM, REPLY, Chain, Edge, Plan, ServicePlan
from sage_flow.plan.resources import ActorOptions
from sage_flow.plan.service_methods import public_methods, type_key
from sage_flow.plan.timing import Timing
from sage_flow.plan.validation import main_consumers, validate

__all__ = ["build_draft", "build_plan"]


def build_plan(
    job: str,
    nodes: Sequence[Node],
    services: Mapping[str, ServiceDefinition],
    default_parallelism: int,
    keys: Sequence[Operator],
) -> Plan:
    """Validate and plan. Raises PipelineError."""
    validate(nodes, services, keys)
    plan = build_draft(job, nodes, services, default_parallelism)
    check_outputs((operator, chain.parallelism) for chain in plan.chains for operator in chain.operators)
    return plan


def build_draft(
    job: str, nodes: Sequence[Node], services: Mapping[str, ServiceDefinition], default_parallelism: int
) -> Plan:
    """Plan what may be half a pipeline, to be looked at. Raises PipelineError for what is wrong."""
    return _Planner(job, nodes, services, default_parallelism).plan()


@dataclass(slots=True)
class _DraftChain:
    id: int
    operators: list[Operator]
    parallelism: int
    service: str | None
    options: ActorOptions


@dataclass(slots=True)
class _Planner:
    job: str
    nodes: Sequence[Node]
    services: Mapping[str, ServiceDefinition]
    default_parallelism: int
    _chains: list[_DraftChain] = field(default_factory=list)
    _edges: list[Edge] = field(default_factory=list)
    _parallelism: dict[Node, int] = field(default_factory=dict)
    _place: dict[Node, tuple[_DraftChain, int]] = field(default_factory=dict)  # chain and index of a node's operator
    _timing: Timing = field(init=False)

    def plan(self) -> Plan:
        self._timing = Timing(self.nodes)
        readers = main_consumers(self.nodes, self.services.values())
        for node in self.nodes:
            self._parallelism[node] = self._resolve_parallelism(node)
            fused = self._fusable_input(node, readers)
            if fused is None:
                self._start_chain(node)
            else:
                self._extend_chain(node, fused)
        planned = {name: self._plan_service(service) for name, service in self.services.items()}
        chains = tuple(Chain(d.id, tuple(d.operators), d.parallelism, d.service, d.options) for d in self._chains)
        return Plan(self.job, chains, tuple(self._edges), planned)

    def _resolve_parallelism(self, node: Node) -> int:
        default = self.default_parallelism
        if node.service is not None:
            default = self.services[node.service].parallelism
        if node.max_parallelism is not None:
            default = node.max_parallelism
            if node.parallelism is not None and node.parallelism > node.max_parallelism:
                raise PipelineError(
                    f"{node.name!r} ({node.operator.location}) cannot share its work:"
                    f" its parallelism is at most {node.max_parallelism}, not {node.parallelism}"
                )
        elif node.kind is kinds.COLLECT or node.kind.assigns_time:
            # As many as feed it, so that it can be part of their chain; and so that it sees the splits of a source.
            feeding = {self._parallelism[tap.node] for tap in node.inputs[0]}
            default = feeding.pop() if len(feeding) == 1 else default
        return node.parallelism or default

    def _fusable_input(self, node: Node, readers: Mapping[Node, int]) -> Tap | None:
        taps = [tap for side in node.inputs for tap in side]
        if len(taps) != 1:
            return None
        tap = taps[0]
        same = self._parallelism[tap.node] == self._parallelism[node]
        forward = tap.partitioning in (Partitioning.AUTO, Partitioning.FORWARD)
        joined = same and (forward or self._parallelism[node] == 1)
        agree = not node.actor_options or self._options(node) == self._place[tap.node][0].options
        return tap if tap.tag is None and readers[tap.node] == 1 and joined and agree else None

    def _options(self, node: Node) -> ActorOptions:
        if node.service is None:
            return node.actor_options
        return node.actor_options.over(self.services[node.service].actor_options)

    def _start_chain(self, node: Node) -> None:
        operators = [self._operator(node)]
        chain = _DraftChain(len(self._chains), operators, self._parallelism[node], node.service, self._options(node))
        self._chains.append(chain)
        self._place[node] = (chain, 0)
        for side, taps in enumerate(node.inputs):
            for tap in taps:
                timed = self._timing.carries(tap, node)
                self._add_edge(tap, chain.id, self._resolve_partitioning(tap, node), side, timed=timed)
        self._finish_node(node, chain)

    def _operator(self, node: Node) -> Operator:
        return replace(node.operator, timed=True) if self._timing.is_timed(node) else node.operator

    def _extend_chain(self, node: Node, tap: Tap) -> None:
        chain, _ = self._place[tap.node]
        if tap.key is not None:
            chain.operators.append(replace(tap.key, timed=self._timing.is_timed(node)))
        self._place[node] = (chain, len(chain.operators))
        chain.operators.append(self._operator(node))
        self._finish_node(node, chain)

    def _finish_node(self, node: Node, chain: _DraftChain) -> None:
        if node.kind is kinds.COLLECT:
            self._add_edge(Tap(node), DRIVER_CHAIN, Partitioning.FORWARD, 0)

    def _resolve_partitioning(self, tap: Tap, node: Node) -> Partitioning:
        sender, receiver = self._parallelism[tap.node], self._parallelism[node]
        if tap.partitioning is Partitioning.AUTO:
            return Partitioning.FORWARD if sender == receiver else Partitioning.REBALANCE
        if tap.partitioning is Partitioning.FORWARD and sender != receiver:
            raise PipelineError(
                f"{node.name!r} ({node.operator.location}) reads {tap.node.name!r} by forward(), which needs equal"
                f" parallelism, not {sender} and {receiver}"
            )
        if tap.partitioning is Partitioning.HASH and receiver > MAX_PARALLELISM:
            raise PipelineError(
                f"{node.name!r} ({node.operator.location}) has parallelism {receiver}, but keys are in"
                f" {MAX_PARALLELISM} groups: more subtasks than that would have no keys"
            )
        return tap.partitioning

    def _add_edge(self, tap: Tap, target: int, partitioning: Partitioning, side: int, *, timed: bool = False) -> None:
        chain, index = self._place[tap.node]
        self._edges.append(Edge(len(self._edges), chain.id, target, index, tap.tag, partitioning, tap.key, side, timed))

    def _plan_service(self, service: ServiceDefinition) -> ServicePlan:
        if service.factory is None:
            head = next(chain for chain in self._chains if chain.service == service.name)
            for tap in service.output:
                self._add_edge(tap, REPLY, Partitioning.FORWARD, 0)
            return _service_plan(service, head.id, methods=frozenset({"process"}))
        options = {"arguments": service.arguments}
        operator = Operator(
            service.name, kinds.SERVICE, (service.factory,), (False,), service.location, options=options
        )
        chain = _DraftChain(len(self._chains), [operator], service.parallelism, service.name, service.actor_options)
        self._chains.append(chain)
        if not isinstance(service.factory, type):
            return _service_plan(service, chain.id)
        kind = service.factory
        methods = public_methods(kind)
        batch = max((limits.max_size for limits in batch_limits(kind, methods).values()), default=1)
        return _service_plan(service, chain.id, methods, type_key(kind), batch)


def _service_plan(
    service: ServiceDefinition,
    chain: int,
    methods: frozenset[str] | None = None,
    type_key: str | None = None,
    batch: int = 1,
) -> ServicePlan:
    has_state = service.factory is not None and not service.stateless
    return ServicePlan(
        service.name,
        chain,
        service.max_pending,
        service.timeout_s,
        service.concurrency,
        service.parallelism,
        has_state and service.parallelism > 1,
        service.many,
        service.uses,
        methods,
        type_key,
        service.open_timeout_s,
        service.requests,
        max(service.concurrency, batch),
    )
