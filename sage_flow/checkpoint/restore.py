"""What each subtask of a plan takes over from a checkpoint, which may be of another parallelism, or of an older plan.

Operators are found by their names. An operator whose parallelism has not changed takes over the entries by key of the
subtask with its index; otherwise each subtask reads those of all former ones and keeps its keys. What has no key is
small, so every subtask reads it of all former ones.

A subtask is restored as finished if its former self had finished or, at another parallelism, all former subtasks of its
operators: it gives no more records.

Pure: metadata and plan in, names of files out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sage_flow.checkpoint.metadata import CheckpointMetadata, OperatorPlace, SubtaskPart
from sage_flow.errors import CheckpointError, PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator, Partitioning
from sage_flow.plan.physical import Plan, Subtask
from sage_flow.split_source import SplitSource

__all__ = ["OperatorShare", "RestorePoint", "SubtaskShare", "check_restore", "places_of", "share_for"]


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """The checkpoint from which an attempt begins. `location`: of the run that its files belong to."""

    location: str
    metadata: CheckpointMetadata


@dataclass(frozen=True, slots=True)
class OperatorShare:
    """The former subtasks of one operator, in their order, and those of them whose entries by key are wanted."""

    operator: str
    parts: tuple[SubtaskPart, ...]
    with_keys: frozenset[int]
    alike: bool


@dataclass(frozen=True, slots=True)
class SubtaskShare:
    """What one subtask takes over, by operator. `is_finished`: it had given all its records."""

    operators: tuple[OperatorShare, ...]
    is_finished: bool


def share_for(metadata: CheckpointMetadata, plan: Plan, subtask: Subtask) -> SubtaskShare:
    """Return what `subtask` takes over."""
    return SubtaskShare(_shares(metadata, plan, subtask), _is_finished(metadata, plan, subtask))


def _shares(metadata: CheckpointMetadata, plan: Plan, subtask: Subtask) -> tuple[OperatorShare, ...]:
    shares = [_share_of_operator(metadata, plan, subtask, operator) for operator in subtask.chain.operators]
    return tuple(share for share in shares if share.parts)


def _is_finished(metadata: CheckpointMetadata, plan: Plan, subtask: Subtask) -> bool:
    """Whether a subtask had given all its records, and nobody before it gives any more.

    Who sends it records may have changed with the parallelism of a source.
    """
    if not _had_finished(metadata, plan, subtask):
        return False
    producers: dict[int, set[int]] = {}
    for channel in plan.channels:
        producers.setdefault(channel.consumer, set()).add(channel.producer)
    by_address = {other.address: other for other in plan.subtasks}
    before, todo = {subtask.address}, [subtask.address]
    while todo:
        new = producers.get(todo.pop(), set()) - before
        if not all(_had_finished(metadata, plan, by_address[address]) for address in new):
            return False
        before |= new
        todo += new
    return True


def _had_finished(metadata: CheckpointMetadata, plan: Plan, subtask: Subtask) -> bool:
    shares = _shares(metadata, plan, subtask)
    former = [part for share in shares for i, part in enumerate(share.parts) if i in share.with_keys]
    return bool(former) and all(part.is_finished for part in former)


def _share_of_operator(metadata: CheckpointMetadata, plan: Plan, subtask: Subtask, operator: Operator) -> OperatorShare:
    parts = sorted((part for part in metadata.parts if operator.name in part.chain), key=lambda part: part.index)
    same = len(parts) == subtask.chain.parallelism
    with_keys = {subtask.index} if same else set(range(len(parts)))
    alike = operator is subtask.chain.head and any(
        edge.target == subtask.chain.id and edge.partitioning is Partitioning.BROADCAST for edge in plan.edges
    )
    return OperatorShare(operator.name, tuple(parts), frozenset(with_keys), alike)


# -- whether it fits ------------------------------------------------------------------------------------------


def places_of(plan: Plan) -> dict[str, OperatorPlace]:
    """Where each operator of the main pipeline stands: what must be the same for an automatic name to be."""
    return {place.name: place for place in _places(plan)}


def _places(plan: Plan) -> Iterator[OperatorPlace]:
    by_id = {chain.id: chain for chain in plan.chains}
    for chain in plan.chains:
        if chain.service is not None:
            continue
        incoming = [edge for edge in plan.edges if edge.target == chain.id]
        before = tuple(sorted(by_id[edge.source].operators[edge.operator].name for edge in incoming))
        key = ",".join(sorted(_told(edge.key.functions[0]) for edge in incoming if edge.key is not None))
        for operator in chain.operators:
            if operator.kind is kinds.KEY_BY:  # in a chain where a single subtask reads it, else on the edge
                key = _told(operator.functions[0])
                continue
            yield OperatorPlace(operator.name, str(operator.kind), operator.is_named, key, before, chain.parallelism)
            before, key = (operator.name,), ""


def _told(function: Any) -> str:
    """Tell a key function from others, in a way that outlives its program: by its name, and what its code mentions."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if code is None:
        return str(name)
    constants = [constant for constant in code.co_consts if constant is None or isinstance(constant, (str, int, float))]
    return f"{name} of {list(code.co_names)} and {constants}"


def check_restore(metadata: CheckpointMetadata, plan: Plan, where: str, *, allow_dropped: bool = False) -> None:
    """Check that a checkpoint fits a plan. `where` is its place, for messages.

    Raises:
        CheckpointError: it is of another job, or of another number of key groups.
        PipelineError: an operator that kept something does not exist any more, is not surely the same, or is a source
            whose positions cannot be divided anew.
    """
    if metadata.job != plan.job:
        raise CheckpointError(
            f"{where}: is a checkpoint of job {metadata.job!r}, and this job is called {plan.job!r}; name the storage"
            " of this job, or a checkpoint of it"
        )
    if metadata.max_parallelism != plan.max_parallelism:
        raise CheckpointError(
            f"{where}: its state is divided into {metadata.max_parallelism} key groups, and this version of sage_flow"
            f" divides it into {plan.max_parallelism}; restore it with the version that wrote it"
        )
    now = places_of(plan)
    dropped = [place.name for place in metadata.operators if place.name not in now]
    if dropped and not allow_dropped:
        raise PipelineError(
            f"{where}: has state of operators that the job does not have any more: {', '.join(sorted(dropped))}; give"
            " them back their names, or let their state go (allow_dropped=True, --allow-dropped)"
        )
    _check_sources(metadata, plan, where)
    for before in metadata.operators:
        place = now.get(before.name)
        if place is None or (before.is_named and place.is_named and before.kind == place.kind):
            continue
        if (changed := _changed(before, place)) is not None:
            raise PipelineError(
                f"{where}: the state of {before.name!r} may be that of another operator: {changed}. Automatic names"
                " count the operators of a kind, so a new one in front takes the name; give it a name="
            )


def _check_sources(metadata: CheckpointMetadata, plan: Plan, where: str) -> None:
    """The position of a source without splits belongs to a subtask, and not to what that reads."""
    subtasks = {name: part.parallelism for part in metadata.parts for name in part.chain}
    for chain in plan.chains:
        source, before = chain.head, subtasks.get(chain.head.name, chain.parallelism)
        if source.kind is kinds.SOURCE and before != chain.parallelism:
            given = source.functions[0]  # a source, or its class
            if not issubclass(given if isinstance(given, type) else type(given), SplitSource):
                raise PipelineError(
                    f"{where}: the source {source.name!r} has {before} subtasks there, and {chain.parallelism} now, and"
                    f" its positions cannot be divided: set parallelism={before}, or make it a SplitSource"
                )


def _changed(before: OperatorPlace, now: OperatorPlace) -> str | None:
    if before.kind != now.kind:
        return f"it was a {before.kind} and is a {now.kind}"
    if before.upstream != now.upstream:
        return f"it read from {', '.join(before.upstream) or 'nothing'} and reads from {', '.join(now.upstream)}"
    if before.key != now.key:
        return "it had another key function"
    return None
