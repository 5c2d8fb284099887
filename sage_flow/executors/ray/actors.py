"""Decides which subtasks share an actor and what each actor requests of Ray; checks that the cluster has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sage_flow.errors import PipelineError
from sage_flow.plan.physical import Plan, Subtask
from sage_flow.plan.resources import ActorOptions

__all__ = ["ActorSpec", "actor_specs", "check_cluster", "is_plain", "pooled_specs", "ray_options", "wanted"]

DEFAULT_CPUS: Final = 0.01
"""CPUs of an actor whose operators set none: so few that many such actors fit on a small machine."""

_NAME_LENGTH: Final = 80


@dataclass(frozen=True)
class ActorSpec:
    """A process of a job: its number in the job (from 1), a name for messages, and its subtasks."""

    number: int
    name: str
    subtasks: tuple[Subtask, ...]
    options: ActorOptions

    @property
    def addresses(self) -> tuple[int, ...]:
        """The addresses of its subtasks."""
        return tuple(subtask.address for subtask in self.subtasks)


def actor_specs(plan: Plan, defaults: ActorOptions) -> list[ActorSpec]:
    """Return an actor per subtask; the subtasks of one index in one slot sharing group share an actor.

    Raises PipelineError if the operators of a group have different placements.
    """
    slots: dict[tuple[str, int], list[Subtask]] = {}
    for subtask in plan.subtasks:
        group = subtask.chain.options.slot_sharing_group or defaults.slot_sharing_group
        slots.setdefault((f"group {group}" if group else f"chain {subtask.chain.id}", subtask.index), []).append(
            subtask
        )
    return [
        ActorSpec(number, _name(subtasks), tuple(subtasks), _merged(subtasks, defaults))
        for number, subtasks in enumerate(slots.values(), start=1)
    ]


def pooled_specs(plan: Plan, size: int) -> list[ActorSpec]:
    """Return the subtasks spread over `size` actors that exist already."""
    spread = [plan.subtasks[first::size] for first in range(min(size, len(plan.subtasks)))]
    return [ActorSpec(n, _name(subtasks), tuple(subtasks), ActorOptions()) for n, subtasks in enumerate(spread, 1)]


def ray_options(spec: ActorSpec) -> dict[str, Any]:
    """Return the arguments for `ActorClass.options`."""
    options = spec.options
    found: dict[str, Any] = {
        "num_cpus": DEFAULT_CPUS if options.num_cpus is None else options.num_cpus,
        "num_gpus": options.num_gpus,
        "memory": options.memory,
        "resources": dict(options.resources) or None,
        "scheduling_strategy": _strategy(options.placement),
    }
    return {name: value for name, value in found.items() if value is not None}


def is_plain(spec: ActorSpec) -> bool:
    """Whether it asks for nothing of its own, so that any other plain actor can take its place."""
    return ray_options(spec) == {"num_cpus": DEFAULT_CPUS}


def wanted(spec: ActorSpec) -> dict[str, float]:
    """Return the resources that an actor requests, by Ray's names."""
    options = spec.options
    found = {"CPU": options.num_cpus, "GPU": options.num_gpus, "memory": options.memory, **dict(options.resources)}
    return {name: amount for name, amount in found.items() if amount}


def check_cluster(specs: Sequence[ActorSpec], nodes: Iterable[Mapping[str, Any]]) -> None:
    """Raises PipelineError, naming what is missing, if these nodes could never run all of the actors.

    `nodes`: as `ray.nodes()` returns them.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    total: dict[str, float] = {}
    for spec in specs:
        needs = wanted(spec)
        if not any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in there):
            raise PipelineError(
                f"no node can run {spec.name!r}: it asks for {_text(needs)}, and {_most(needs, there)} at most"
            )
        for name, amount in needs.items():
            total[name] = total.get(name, 0) + amount
    for name, amount in total.items():
        if amount > (has := sum(node.get(name, 0) for node in there)):
            raise PipelineError(
                f"the actors of this job ask for {_text({name: amount})} together, and the cluster has"
                f" {_text({name: has})}: ask for less, or add nodes"
            )


def _most(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    lacking = {name: max((node.get(name, 0) for node in nodes), default=0) for name in needs}
    short = {name: most for name, most in lacking.items() if most < needs[name]} or lacking
    return f"a node has {_text(short)}"


def _text(resources: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 2**20:,.0f} MiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in resources.items()
    )


def _name(subtasks: Sequence[Subtask]) -> str:
    first, *others = [subtask.name for subtask in subtasks]
    if len(first) > _NAME_LENGTH:
        first = f"{first[: _NAME_LENGTH - 10]}...{first[-7:]}"
    return first if not others else f"{first} and {len(others)} more"


def _merged(subtasks: Sequence[Subtask], defaults: ActorOptions) -> ActorOptions:
    """Return what the subtasks request together."""
    asked = [subtask.chain.options for subtask in subtasks]
    placements = [options.placement for options in asked if options.placement is not None]
    if any(placement != placements[0] for placement in placements):
        group = asked[0].slot_sharing_group
        raise PipelineError(f"the operators of slot sharing group {group!r} want different placements: {placements}")
    custom: dict[str, float] = {}
    for options in asked:
        for name, amount in options.resources:
            custom[name] = custom.get(name, 0) + amount
    return replace(
        asked[0],
        num_cpus=_sum((options.num_cpus for options in asked), defaults.num_cpus),
        num_gpus=_sum((options.num_gpus for options in asked), defaults.num_gpus),
        memory=_sum((options.memory for options in asked), defaults.memory),
        resources=tuple(custom.items()) or defaults.resources,
        placement=placements[0] if placements else defaults.placement,
    )


def _sum(amounts: Iterable[Any], default: Any) -> Any:
    said = [amount for amount in amounts if amount is not None]
    return sum(said) if said else default


def _strategy(placement: Any) -> Any:
    """Return Ray's strategy for a placement: "spread", "pack", "node:<id>", or a placement group."""
    if placement is None or placement == "pack":  # Ray's default packs
        return None
    if placement == "spread":
        return "SPREAD"
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

    if isinstance(placement, str):
        return NodeAffinitySchedulingStrategy(placement.removeprefix("node:"), soft=False)
    return PlacementGroupSchedulingStrategy(placement)
