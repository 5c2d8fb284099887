"""What can be said about the operator that was just written: on the stream of its outputs, or on a sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.plan.graph import Partitioning, Tap
from sage_flow.plan.resources import ActorOptionsDict, actor_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DataStreamSink", "HasOptions"]

S = TypeVar("S", bound="HasOptions")


class HasOptions:
    """A base of what methods that write an operator return."""

    _taps: tuple[Tap, ...]

    def options(self: S, **options: Unpack[ActorOptionsDict]) -> S:
        """Say what the Ray actors of the operator just written need; without Ray it is checked and ignored.

        A key that is said again is replaced. An operator that says nothing may run in the actors of the one
        before it; one that says something else than that one has actors of its own.

        Args:
            num_cpus, num_gpus: what each of its actors takes of a node's; fractions are allowed (of one GPU at most).
            memory: bytes that each takes of a node's.
            resources: amounts of custom resources, by name.
            placement: "spread", "pack", "node:<node id>" or a Ray placement group.
            slot_sharing_group: the name of a group of operators that share actors.

        >>> squares = stream_of(1, 2, 3).map(lambda n: n * n).options(num_cpus=0.5, placement="spread")
        >>> collect(squares)
        [1, 4, 9]
        """
        if len(self._taps) != 1 or self._taps[0].tag is not None or self._taps[0].partitioning is not Partitioning.AUTO:
            raise PipelineError(
                "options() says what one operator needs: put it right behind that operator"
                " (key_by, union, rebalance, side_output and their like have no subtask of their own)"
            )
        node = self._taps[0].node
        owner = f"{node.name!r} ({node.operator.location})"
        node.actor_options = actor_options(owner, options).over(node.actor_options)
        return self


class DataStreamSink(HasOptions):
    """A sink that was written; it can be told what it needs."""

    def __init__(self, tap: Tap) -> None:
        self._taps = (tap,)

    def __repr__(self) -> str:
        operator = self._taps[0].node.operator
        rows = "" if operator.label == operator.name else f" of the rows {operator.label!r}"
        return f"<sink {operator.name!r}{rows}>"
