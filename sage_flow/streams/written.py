"""An operator that a method writes: how it enters the graph, and what can be said about it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.plan.builder import Graph, make_operator
from sage_flow.plan.graph import Partitioning, Tap
from sage_flow.plan.kinds import Kind
from sage_flow.plan.resources import ActorOptionsDict, actor_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["HasOptions", "add_operator"]

S = TypeVar("S", bound="HasOptions")


def add_operator(
    graph: Graph,
    kind: Kind,
    functions: Sequence[tuple[Any, int]],
    inputs: Sequence[Sequence[Tap]],
    given: Mapping[str, Any],
    *,
    base: str | None = None,
    keyed: bool = False,
    parallelism: int | None = None,
    own: dict[str, Any] | None = None,
) -> Tap:
    """Add an operator to the graph and return its output. Raises PipelineError.

    Args:
        functions: what it calls, each with the number of values that it is called with.
        inputs: the taps that it reads, a group for each side.
        given: the shared options (`StepOptions`) that the user gave.
        base: its name without a number, where the user gives none; default: that of its kind.
        parallelism: of its subtasks, where the user gives none; default: that of the environment.
        own: options of its kind.
    """
    operator = make_operator(
        graph,
        kind,
        given.get("name"),
        functions,
        base=base,
        keyed=keyed,
        on_error=given.get("on_error", "fail"),
        with_ctx=given.get("with_ctx"),
        options=own,
    )
    subtasks = given.get("parallelism")
    return Tap(graph.add(operator, inputs, parallelism=parallelism if subtasks is None else subtasks))


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
