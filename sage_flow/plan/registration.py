"""What is said of a service when it is registered: checked, and kept as its definition."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan.builder import checked_count, checked_seconds
from sage_flow.plan.graph import ServiceDefinition
from sage_flow.plan.location import caller_location
from sage_flow.plan.resources import ActorOptionsDict, actor_options
from sage_flow.plan.service_methods import check_methods
from sage_flow.service import PipelineService

__all__ = ["of_class", "of_pipeline", "service_definition"]


def service_definition(
    name: str,
    *,
    parallelism: int,
    concurrency: int,
    max_pending: int,
    timeout: float,
    open_timeout: float,
    stateless: bool,
    uses: Sequence[str],
    ray_actor_options: ActorOptionsDict | None,
) -> ServiceDefinition:
    """Check the options of `register_service` that both kinds of services have. Raises PipelineError."""
    if not isinstance(name, str) or not name:
        raise PipelineError(f"the name of a service must be a non-empty str, not {name!r}")
    return ServiceDefinition(
        name,
        caller_location(),
        parallelism=checked_count(parallelism, "parallelism", name),
        concurrency=checked_count(concurrency, "concurrency", name),
        max_pending=checked_count(max_pending, "max_pending", name),
        timeout_s=checked_seconds(timeout, "timeout of service", name),
        stateless=stateless,
        uses=_checked_names(uses, name),
        actor_options=actor_options(f"service {name!r}", {} if ray_actor_options is None else ray_actor_options),
        open_timeout_s=checked_seconds(open_timeout, "open_timeout of service", name),
    )


def of_pipeline(
    definition: ServiceDefinition, service: PipelineService, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ServiceDefinition:
    """Return the definition of a service that is a pipeline, still without its output. Raises PipelineError."""
    name, replicas = definition.name, definition.parallelism
    if args or kwargs or definition.concurrency != 1:
        raise PipelineError(f"PipelineService {name!r} takes no arguments and no concurrency: use parallelism")
    replicas = checked_count(replicas if replicas != 1 else service.parallelism, "parallelism", name)
    return replace(definition, parallelism=replicas, stateless=True, many=service.reply == "many")


def of_class(
    definition: ServiceDefinition, factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ServiceDefinition:
    """Return the definition of a service that a class, or a function, makes. Raises PipelineError."""
    name = definition.name
    _check_factory(name, factory, args, kwargs)
    if definition.stateless and hasattr(factory, "snapshot"):
        raise PipelineError(
            f"service {name!r} has a snapshot(), so it keeps a state: register it without stateless=True, or"
            " remove snapshot()"
        )
    return replace(definition, factory=factory, arguments=(args, kwargs))


def _checked_names(uses: Any, name: str) -> tuple[str, ...]:
    if isinstance(uses, str) or not all(isinstance(used, str) for used in uses):
        raise PipelineError(f"uses of service {name!r} must be a list of the names of services, not {uses!r}")
    return tuple(uses)


def _check_factory(name: str, factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not callable(factory):
        raise PipelineError(
            f"service {name!r} is created where it runs: register a class, or a function that returns the object,"
            f" not an instance of {type(factory).__name__}"
        )
    if isinstance(factory, type) and issubclass(factory, PipelineService):
        raise PipelineError(
            f"service {name!r} is a pipeline, which must be registered as an instance:"
            f" register_service({name!r}, {factory.__name__}(build))"
        )
    signature = None
    with contextlib.suppress(ValueError, TypeError):  # some builtin classes have none
        signature = inspect.signature(factory)
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise PipelineError(
            f"service {name!r} cannot be made by {getattr(factory, '__name__', factory)}: {error}"
        ) from None
    if isinstance(factory, type):
        check_methods(name, factory)
