"""What is wrong with a pipeline that can be known before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.callbacks import with_on_end, with_on_timer
from sage_flow.plan.graph import (
    DEAD_LETTERS,
    Node,
    Operator,
    Partitioning,
    ServiceDefinition,
    Tap,
)
from sage_flow.plan.timing import untimed_unions

__all__ = ["main_consumers", "missing", "validate"]


class Fault(NamedTuple):
    """What is wrong with a pipeline. `is_missing`: nothing but what is still to be written."""

    text: str
    is_missing: bool = False


def validate(nodes: Sequence[Node], services: Mapping[str, ServiceDefinition], keys: Sequence[Operator]) -> None:
    """Raises PipelineError for the first fault, in the order of definition. `keys`: of key_by, which is no node."""
    for fault in _faults(nodes, services, keys):
        raise PipelineError(fault.text)


def missing(nodes: Sequence[Node], services: Mapping[str, ServiceDefinition], keys: Sequence[Operator]) -> list[str]:
    """Return what a half-written pipeline lacks. Raises PipelineError for what more writing cannot mend."""
    found = []
    for fault in _faults(nodes, services, keys):
        if not fault.is_missing:
            raise PipelineError(fault.text)
        found.append(fault.text)
    return found


def _faults(
    nodes: Sequence[Node], services: Mapping[str, ServiceDefinition], keys: Sequence[Operator]
) -> Iterator[Fault]:
    if not any(node.kind.is_sink for node in nodes):
        empty = "" if nodes else " (it is empty: streams that another environment made belong to that one)"
        yield Fault(
            f"the pipeline has no sink, so it would have no effect: end it with .collect(), .write_csv() ...{empty}",
            is_missing=True,
        )
    yield from _uses(services)
    taps = _all_taps(nodes, services.values())
    yield from _keys(keys, taps)
    read = {(tap.node, tap.tag) for tap in taps}
    yield from _untimed_unions(nodes)
    for node in nodes:
        yield from _readers(node, read)
        if node.service is not None:
            yield from _in_service(node)
        for tap in (tap for side in node.inputs for tap in side):
            yield from _scope(node, tap)


def _uses(services: Mapping[str, ServiceDefinition]) -> Iterator[Fault]:
    for service in services.values():
        for used in service.uses:
            if used not in services:
                yield Fault(
                    f"service {service.name!r} ({service.location}) uses {used!r}, which is not registered;"
                    f" registered: {', '.join(map(repr, services))}",
                    is_missing=True,
                )
        circle = _circle(service.name, services, (service.name,))
        if circle is not None:
            yield Fault(f"service {service.name!r} ({service.location}) would wait for itself: {' -> '.join(circle)}")


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


def _keys(keys: Iterable[Operator], taps: Iterable[Tap]) -> Iterator[Fault]:
    used = [tap.key for tap in taps]
    for key in keys:
        if not any(key is other for other in used):
            yield Fault(
                f"nothing is keyed by {key.name!r} ({key.location}): use the stream that it returns, or remove it",
                is_missing=True,
            )


def _readers(node: Node, read: set[tuple[Node, str | None]]) -> Iterator[Fault]:
    tags = {tag for reader, tag in read if reader is node}
    if not node.kind.is_sink and node.kind is not kinds.REQUESTS and not tags:
        yield Fault(
            f"nothing reads the output of {node.name!r} ({node.operator.location}):"
            " end the branch with a sink such as .collect(), or remove it",
            is_missing=True,
        )
    if node.operator.on_error == "dead_letter" and DEAD_LETTERS not in tags:
        yield Fault(
            f'{node.name!r} ({node.operator.location}) has on_error="dead_letter" but nothing reads its dead letters:'
            ' use its .dead_letters() stream, or on_error="skip" to only count them',
            is_missing=True,
        )


def _untimed_unions(nodes: Sequence[Node]) -> Iterator[Fault]:
    for node, timed, untimed in untimed_unions(nodes):
        yield Fault(
            f"{node.name!r} ({node.operator.location}) uses the timestamps of its records, but reads a union of a"
            f" stream that has them ({timed.node.name!r}) and one that has none ({untimed.node.name!r}): put"
            " assign_timestamps(...) behind the union, or into both streams"
        )


def _in_service(node: Node) -> Iterator[Fault]:
    operator = node.operator
    if operator.kind is kinds.SOURCE:
        yield Fault(
            f"{node.name!r} ({operator.location}) is a source inside a PipelineService, which reads its requests only"
        )
    if operator.kind.assigns_time:
        yield Fault(
            f"{node.name!r} ({operator.location}) is inside a PipelineService, whose requests are answered one by one:"
            " event time belongs into the main pipeline"
        )
    if operator.kind.has_timers and (with_on_timer(operator.functions) or with_on_end(operator.functions)):
        yield Fault(
            f"{node.name!r} ({operator.location}) has an on_timer or an on_end inside a PipelineService: what they give"
            " would belong to no request"
        )
    if operator.emits_at_end:
        yield Fault(
            f"{node.name!r} ({operator.location}) joins records of several requests, which a PipelineService cannot"
            " answer one by one: every output must descend from one request"
        )
    for tap in (tap for side in node.inputs for tap in side):
        if tap.partitioning is Partitioning.BROADCAST:
            yield Fault(
                f"{node.name!r} ({operator.location}) reads a broadcast inside a PipelineService:"
                " every copy would be an output of the same request"
            )


def _scope(node: Node, tap: Tap) -> Iterator[Fault]:
    if tap.node.service == node.service:
        return
    inside = f"the service {node.service!r}" if node.service else "the main pipeline"
    outside = f"the service {tap.node.service!r}" if tap.node.service else "the main pipeline"
    yield Fault(
        f"{node.name!r} ({node.operator.location}) in {inside} reads {tap.node.name!r} of {outside}:"
        " a service's pipeline can only read its requests"
    )
