"""What a Ray actor that runs an operator needs, and where it may be: checked as it is written, ignored without Ray.

The keys are those of Ray's actors (`num_cpus`, `num_gpus`, `memory`, `resources`); `placement` stands for its
scheduling strategies; `slot_sharing_group` is Flink's word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from sage_flow.errors import PipelineError

__all__ = ["DEFAULT_OPTIONS", "ActorOptions", "ActorOptionsDict", "actor_options"]

_PLACEMENTS = ("spread", "pack")
_NODE = "node:"
_OWN_KEYS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # of Ray's resources


class ActorOptionsDict(TypedDict, total=False):
    """The options as a user gives them.

    num_cpus, num_gpus: shares of a node that each subtask's actor takes; fractions are allowed (of one GPU at most).
    memory: bytes that it takes of a node's.
    resources: amounts of custom resources, by name.
    placement: "spread", "pack", "node:<node id>" or a Ray placement group.
    slot_sharing_group: operators of one group share actors.
    """

    num_cpus: float | None
    num_gpus: float | None
    memory: int | None
    resources: Mapping[str, float] | None
    placement: Any
    slot_sharing_group: str | None


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """Checked options of an operator, a chain or a service; None and empty: nothing was said. See `actor_options`."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: tuple[tuple[str, float], ...] = ()
    placement: Any = None
    slot_sharing_group: str | None = None

    def over(self, default: ActorOptions) -> ActorOptions:
        """Return these, and what `default` says where they say nothing."""
        return replace(default, **self._said())

    def __bool__(self) -> bool:
        """Whether anything was said."""
        return bool(self._said())

    def __str__(self) -> str:
        return ", ".join(f"{key}={_as_text(key, value)}" for key, value in self._said().items())

    def _said(self) -> dict[str, Any]:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None and value != ()}


DEFAULT_OPTIONS = ActorOptions()
"""Nothing was said."""


def actor_options(owner: str, given: Any) -> ActorOptions:
    """Check the options of an operator or a service, `owner` in messages. None stands for what was not given.

    Raises PipelineError.
    """
    if not isinstance(given, Mapping):
        raise PipelineError(f"the actor options of {owner} must be a dict, not {given!r}")
    for key in given:
        if key not in _CHECKS:
            raise PipelineError(f"{owner} has no actor option {key!r}; there are: {', '.join(_CHECKS)}")
    said = {key: value for key, value in given.items() if value is not None}
    return ActorOptions(**{key: _CHECKS[key](f"{key} of {owner}", value) for key, value in said.items()})


def _is_amount(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _amount(what: str, value: Any) -> float:
    if not _is_amount(value):
        raise PipelineError(f"{what} must be a number, 0 or more, not {value!r}")
    amount: float = value
    return amount


def _gpus(what: str, value: Any) -> float:
    amount = _amount(what, value)
    if amount > 1 and amount != int(amount):
        raise PipelineError(f"{what} must be a whole number or a part of one GPU, not {value!r}")
    return amount


def _memory(what: str, value: Any) -> int:
    if not _is_amount(value) or not isinstance(value, int):
        raise PipelineError(f"{what} must be a whole number of bytes, 0 or more, not {value!r}")
    return value


def _resources(what: str, value: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise PipelineError(f"{what} must be a dict of amounts by the names of custom resources, not {value!r}")
    for name in value:
        if name in _OWN_KEYS:
            raise PipelineError(f"{what} are custom ones: say {_OWN_KEYS[name]}= instead of {name!r}")
    return tuple(sorted((name, _amount(f"{name!r} in {what}", amount)) for name, amount in value.items()))


def _placement(what: str, value: Any) -> Any:
    if isinstance(value, str):
        is_known = value in _PLACEMENTS or (value.startswith(_NODE) and len(value) > len(_NODE))
    else:
        is_known = _is_placement_group(value)
    if is_known:
        return value
    raise PipelineError(f'{what} must be "spread", "pack", "node:<node id>" or a Ray placement group, not {value!r}')


def _is_placement_group(value: Any) -> bool:
    """Told by its shape, of the class: to read the bundles of a group may ask the cluster."""
    return hasattr(type(value), "bundle_specs") and hasattr(value, "id")


def _group(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise PipelineError(f"{what} must be a non-empty str, not {value!r}")
    return value


def _as_text(key: str, value: Any) -> str:
    if key == "resources":
        return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in value) + "}"
    if key == "placement" and not isinstance(value, str):
        return f"placement group {value.id}"
    return str(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "num_cpus": _amount,
    "num_gpus": _gpus,
    "memory": _memory,
    "resources": _resources,
    "placement": _placement,
    "slot_sharing_group": _group,
}
