"""What a stream shows of itself: where its records come from, and in a notebook the pipeline it is a part of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sage_flow.plan.graph import Tap

if TYPE_CHECKING:
    from sage_flow.plan.builder import Graph

__all__ = ["ShownStream"]


class ShownStream:
    """A base of streams, which gives them their repr and their HTML."""

    _graph: Graph

    def _inputs(self) -> Sequence[Sequence[Tap]]:
        """The taps of each side."""
        raise NotImplementedError

    def __repr__(self) -> str:
        sides = " and of ".join(map(_origin, self._inputs()))
        return f"<{type(self).__name__} of {sides} in {self._graph.job!r}>"

    def _repr_html_(self) -> str:
        from sage_flow.notebook.displays import pipeline_html

        names = {tap.node.name for side in self._inputs() for tap in side}
        return pipeline_html(type(self).__name__, self._graph, names, *map(_origin, self._inputs()))


def _origin(taps: Iterable[Tap]) -> str:
    """Where the records of a stream come from, as the user wrote it."""
    texts = []
    for tap in taps:
        side = "" if tap.tag is None else f" (side output {tap.tag!r})"
        key = "" if tap.key is None else f" by {tap.key.name!r}"
        texts.append(f"{tap.node.name!r}{side}{key}")
    return ", ".join(texts)
