"""What is wrong with a pipeline that can be known before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sage_flow.errors import PipelineError
from sage_flow.plan.graph import (
    AGGREGATES,
    DEAD_LETTERS,
    SINKS,
    Kind,
    Node,
    Operator,
    Partitioning,
    ServiceDefinition,
    Tap,
)

__all__ = ["main_consumers", "validate"]


def validate(nodes: Sequence[Node], services: Mapping[str, ServiceDefinition], keys: Sequence[Operator]) -> None:
    """Raises PipelineError for the first fault, in the order of definition. `keys`: of key_by, which is no node."""
    if not any(node.kind in SINKS for node in nodes):
        raise PipelineError(
            "the pipeline has no sink, so nothing would come of it: end it with .collect(), .write_csv() ..."
        )
    _check_uses(services)
    taps = _all_taps(nodes, services.values())
    _check_keys(keys, taps)
    read = {(tap.node, tap.tag) for tap in taps}
    for node in nodes:
        _check_is_read(node, read)
        if node.service is not None:
            _check_in_service(node)
        for tap in (tap for side in node.inputs for tap in side):
            _check_scope(node, tap)


def _check_uses(services: Mapping[str, ServiceDefinition]) -> None:
    for service in services.values():
        for used in service.uses:
            if used not in services:
                raise PipelineError(
                    f"service {service.name!r} ({service.location}) uses {used!r}, which is not registered;"
                    f" registered: {', '.join(map(repr, services))}"
                )
        circle = _circle(service.name, services, (service.name,))
        if circle is not None:
            raise PipelineError(
                f"service {service.name!r} ({service.location}) would wait for itself: {' -> '.join(circle)}"
            )


def _circle(start: str, services: Mapping[str, ServiceDefinition], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """A path of declared uses from the end of `path` back to `start`."""
    for used in services[path[-1]].uses:
        if used == start:
            return (*path, used)
        if used not in path and used in services and (found := _circle(start, services, (*path, used))):
            return found
    return None


def main_consumers(nodes: Iterable[Node], services: Iterable[ServiceDefinition]) -> dict[Node, int]:
    """How many readers the main output of each node has."""
    counts: dict[Node, int] = {}
    for tap in _all_taps(nodes, services):
        if tap.tag is None:
            counts[tap.node] = counts.get(tap.node, 0) + 1
    return counts


def _all_taps(nodes: Iterable[Node], services: Iterable[ServiceDefinition]) -> list[Tap]:
    taps = [tap for node in nodes for side in node.inputs for tap in side]
    return taps + [tap for service in services for tap in service.output]


def _check_keys(keys: Iterable[Operator], taps: Iterable[Tap]) -> None:
    used = [tap.key for tap in taps]
    for key in keys:
        if not any(key is other for other in used):
            raise PipelineError(
                f"nothing is keyed by {key.name!r} ({key.location}): use the stream that it returns, or remove it"
            )


def _check_is_read(node: Node, read: set[tuple[Node, str | None]]) -> None:
    tags = {tag for reader, tag in read if reader is node}
    if node.kind not in SINKS and node.kind is not Kind.REQUESTS and not tags:
        raise PipelineError(
            f"nothing reads the output of {node.name!r} ({node.operator.location}):"
            " end the branch with a sink such as .collect(), or remove it"
        )
    if node.operator.on_error == "dead_letter" and DEAD_LETTERS not in tags:
        raise PipelineError(
            f'{node.name!r} ({node.operator.location}) has on_error="dead_letter" but nothing reads its dead letters:'
            ' use its .dead_letters() stream, or on_error="skip" to only count them'
        )


def _check_in_service(node: Node) -> None:
    operator = node.operator
    if operator.kind is Kind.SOURCE:
        raise PipelineError(
            f"{node.name!r} ({operator.location}) is a source inside a PipelineService, which reads its requests only"
        )
    ends = operator.kind is Kind.MAP_BATCHES or (operator.kind in AGGREGATES and operator.emits_at_end)
    if ends:
        raise PipelineError(
            f"{node.name!r} ({operator.location}) joins records of several requests, which a PipelineService cannot"
            " answer one by one: every output must descend from one request"
        )
    for tap in (tap for side in node.inputs for tap in side):
        if tap.partitioning is Partitioning.BROADCAST:
            raise PipelineError(
                f"{node.name!r} ({operator.location}) reads a broadcast inside a PipelineService:"
                " every copy would be an output of the same request"
            )


def _check_scope(node: Node, tap: Tap) -> None:
    if tap.node.service == node.service:
        return
    inside = f"the service {node.service!r}" if node.service else "the main pipeline"
    outside = f"the service {tap.node.service!r}" if tap.node.service else "the main pipeline"
    raise PipelineError(
        f"{node.name!r} ({node.operator.location}) in {inside} reads {tap.node.name!r} of {outside}:"
        " a service's pipeline can only read its requests"
    )
