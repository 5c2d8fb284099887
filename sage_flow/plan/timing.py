"""Which records travel with their timestamps: only those whose time somebody behind them uses.

Timestamps begin at an `assign_timestamps` and go with the records from there on. An operator uses them if its kind
needs them, or if its function takes `ctx`, where it may ask for them. Records between the two carry a timestamp; all
others do not, and their chains are compiled as if time did not exist.

A stream without timestamps can be one side of a connected stream (a table that is looked up), but cannot be united
with a stream that has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sage_flow.plan.graph import Node, Tap

__all__ = ["Timing", "has_time", "untimed_unions"]


def has_time(taps: Iterable[Tap]) -> bool:
    """Whether the records of a stream have timestamps, whoever uses them: there is an `assign_timestamps` before it.

    Iterative, as pipelines may be thousands of operators long.
    """
    waiting, seen = list(taps), set()
    while waiting:
        tap = waiting.pop()
        if tap.node.kind.assigns_time and tap.tag is None:
            return True
        if tap.node not in seen:
            seen.add(tap.node)
            waiting += [other for side in tap.node.inputs for other in side]
    return False


class Timing:
    """What `nodes`, in the order in which they were written, have to do with time."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._has: dict[Node, bool] = {}  # whether its main output has timestamps
        self._had: dict[Node, bool] = {}  # whether some of its inputs have
        for node in nodes:
            self._had[node] = any(self.has_time(tap) for side in node.inputs for tap in side)
            self._has[node] = node.kind.assigns_time or self._had[node]
        self._uses = dict.fromkeys(nodes, False)
        for node in reversed(nodes):
            self._uses[node] = self._uses[node] or node.operator.needs_time
            for tap in (tap for side in node.inputs for tap in side) if self._uses[node] else ():
                if not tap.node.kind.assigns_time or tap.tag is not None:  # an assign gives timestamps of its own
                    self._uses[tap.node] = True

    def has_time(self, tap: Tap) -> bool:
        """Whether the records of a tap have timestamps."""
        if tap.node.kind.assigns_time and tap.tag is not None:
            return self._had[tap.node]  # what failed there has those of before, if any
        return self._has[tap.node]

    def is_timed(self, node: Node) -> bool:
        """Whether the records that `node` is given have timestamps that it, or somebody behind it, uses."""
        return self._had[node] and self._uses[node]

    def carries(self, tap: Tap, node: Node) -> bool:
        """Whether the edge from `tap` to `node` carries timestamps."""
        return self.has_time(tap) and self._uses[node]


def untimed_unions(nodes: Sequence[Node]) -> Iterator[tuple[Node, Tap, Tap]]:
    """Yield each node that uses time and reads a union of streams with and without, and one tap of each kind."""
    timing = Timing(nodes)
    for node in nodes:
        for side in node.inputs if timing.is_timed(node) else ():
            timed = [tap for tap in side if timing.has_time(tap)]
            untimed = [tap for tap in side if not timing.has_time(tap)]
            if timed and untimed:
                yield node, timed[0], untimed[0]
