"""A plan as boxes and arrows, for those who draw it and need nothing else of it: texts and numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sage_flow.plan.drawing import how, shown
from sage_flow.plan.physical import DRIVER_CHAIN, REPLY, Plan

__all__ = ["Arrow", "Box", "Picture", "picture_of"]


@dataclass(frozen=True)
class Box:
    """A chain: its operators, by name and as they are shown, and how many subtasks it has."""

    id: int
    operators: tuple[tuple[str, str], ...]
    parallelism: int
    service: str | None = None
    needs: str = ""


@dataclass(frozen=True)
class Arrow:
    """Records go from a box to another one, in this way."""

    source: int
    target: int
    how: str


@dataclass(frozen=True)
class Picture:
    """What there is of a pipeline, and what is missing."""

    job: str
    boxes: tuple[Box, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    missing: tuple[str, ...] = field(default=())

    @property
    def titles(self) -> dict[str, str]:
        """How each operator is shown, by name, without keys, which have no count."""
        return dict(pair for box in self.boxes for pair in box.operators)


def picture_of(plan: Plan, missing: Sequence[str] = ()) -> Picture:
    """Take a picture of a plan."""
    boxes = [
        Box(
            chain.id,
            tuple((operator.name, shown(operator)) for operator in chain.operators if operator.kind.is_counted),
            chain.parallelism,
            chain.service,
            str(chain.options) if chain.options else "",
        )
        for chain in plan.chains
    ]
    arrows = [
        Arrow(edge.source, edge.target, how(edge)) for edge in plan.edges if edge.target not in (DRIVER_CHAIN, REPLY)
    ]
    return Picture(plan.job, tuple(boxes), tuple(arrows), tuple(missing))
