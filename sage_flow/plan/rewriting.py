"""Pipelines that are written piece by piece, in cells of a notebook that run again.

What a later cell writes under a name that an earlier one gave is no second operator but a new version of the first. A
sink of that name leaves the pipeline, and with it what fed nothing else; another operator must not be read any more.
Outside of a notebook nothing here applies: a second operator of a name is an error there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.functions import Sink
from sage_flow.plan import kinds
from sage_flow.plan.graph import Node, Operator, ServiceDefinition
from sage_flow.plan.location import Location
from sage_flow.plan.outputs import file_identity

__all__ = [
    "check_reads_alone",
    "check_sources_read_alone",
    "check_up_to_date",
    "keys_of",
    "leading_to_sinks",
    "outdated_readers",
    "without_leftovers",
    "without_replaced_files",
]

Outdated = Sequence[tuple[Operator, Location]]
"""Operators whose names a later cell has taken, and where."""


def leading_to_sinks(nodes: Sequence[Node], services: Mapping[str, ServiceDefinition], cell: int) -> list[Node]:
    """The nodes of which something comes: sinks, services, and what they read; and what this cell has written.

    The rest was written by earlier cells, and waits for a reader, or has lost it.
    """
    ends = [node for node in nodes if node.kind.is_sink or node.service in services]
    this_cell = [node for node in nodes if node.operator.location.cell == cell]
    wanted = _upstream([*ends, *this_cell])
    return [node for node in nodes if node in wanted]


def without_replaced_files(nodes: Sequence[Node]) -> list[Node]:
    """The nodes without the sinks whose file a sink of a later cell writes."""
    latest: dict[object, Node] = {}
    replaced: set[Node] = set()
    for node in nodes:
        for path in _files_written(node):
            earlier = latest.get(identity := file_identity(path))
            if earlier is not None and node.operator.location.is_after(earlier.operator.location):
                replaced.add(earlier)
            latest[identity] = node
    return [node for node in nodes if node not in replaced]


def _files_written(node: Node) -> Iterable[str]:
    for function in node.operator.functions:
        if isinstance(function, Sink):
            yield from function.files_written(node.parallelism or 1)


def without_leftovers(nodes: Sequence[Node], outdated: Outdated) -> list[Node]:
    """The nodes without those that nothing reads, and that a later cell has written again."""
    read = {tap.node for node in nodes for side in node.inputs for tap in side}
    places = [node.operator.location for node in nodes]

    def is_leftover(node: Node) -> bool:
        again = any(place.is_again(node.operator.location) for place in places)
        return again or any(operator is node.operator for operator, _ in outdated)

    kept = [node for node in nodes if node in read or node.kind.is_sink or not is_leftover(node)]
    return kept if len(kept) == len(nodes) else without_leftovers(kept, outdated)


def keys_of(keys: Sequence[Operator], nodes: Iterable[Node], cell: int) -> list[Operator]:
    """The keys by which these nodes read, and those that this cell has written."""
    used = [tap.key for node in nodes for side in node.inputs for tap in side]
    return [key for key in keys if key.location.cell == cell or any(key is other for other in used)]


def check_reads_alone(source: Any, operator: Operator, nodes: Iterable[Node]) -> None:
    """Raises PipelineError if another source reads the iterator of this one: two would split its items at random.

    One that an earlier cell wrote may; whether both are in the plan is known when that is made.
    """
    iterator = getattr(source, "iterator", None)
    for node in nodes:
        other = node.operator.functions[0] if node.kind is kinds.SOURCE else None
        is_shared = iterator is not None and getattr(other, "iterator", None) is iterator
        if is_shared and not operator.location.is_after(node.operator.location):
            raise PipelineError(
                f"a {type(iterator).__name__} can be read only once, and {node.name!r} ({node.operator.location})"
                " reads this one: use the stream of that source twice, or pass a function that returns the iterator"
            )


def check_sources_read_alone(nodes: Sequence[Node]) -> None:
    """Raises PipelineError if two sources in the plan read one iterator."""
    for number, node in enumerate(nodes):
        if node.kind is kinds.SOURCE:
            check_reads_alone(node.operator.functions[0], node.operator, nodes[number + 1 :])


def check_up_to_date(nodes: Sequence[Node], outdated: Outdated) -> None:
    """Raises PipelineError if a sink still reads what a later cell has written again."""
    for fault in outdated_readers(nodes, outdated):
        raise PipelineError(fault)


def outdated_readers(nodes: Sequence[Node], outdated: Outdated) -> list[str]:
    """One text for each sink that still reads what a later cell has written again."""
    found = []
    for operator, later in outdated:
        for sink in (node for node in nodes if node.kind.is_sink):
            upstream = _upstream([sink])
            keys = [tap.key for node in upstream for side in node.inputs for tap in side]
            if any(operator is other for other in [*(node.operator for node in upstream), *keys]):
                found.append(
                    f"{sink.operator.label!r} ({sink.operator.location}) still reads {operator.name!r} of"
                    f" {operator.location}, which {later} has replaced: run the cells between them again"
                )
    return found


def _upstream(ends: Iterable[Node]) -> set[Node]:
    """These nodes and all that they read, directly or not."""
    found: set[Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [tap.node for side in node.inputs for tap in side]
    return found
