"""Checks of `requests=`, the descriptor of the queue from which a service takes requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    from sage_flow.channels import BaseQueueDescriptor
    from sage_flow.plan.physical import ServicePlan

__all__ = ["check_requests_travel", "checked_requests", "made_requests"]


def checked_requests(requests: Any, service: str) -> Any:
    """Return a share of the descriptor, or the function; binds the channel. Raises PipelineError."""
    if requests is None:
        return None
    if _is_descriptor(requests):
        return requests.share()
    if callable(requests) and not isinstance(requests, type):
        return requests
    raise PipelineError(
        f"requests of service {service!r} must be a queue descriptor, or a function that makes one, not {requests!r}"
    )


def made_requests(
    requests: BaseQueueDescriptor | Callable[[], BaseQueueDescriptor], service: str
) -> BaseQueueDescriptor:
    """The descriptor itself. Raises PipelineError; what the function raises."""
    made = requests if _is_descriptor(requests) else requests()  # type: ignore[operator]
    if not _is_descriptor(made):
        raise PipelineError(f"the function given as requests of service {service!r} made {made!r}, no queue descriptor")
    return made.share()  # type: ignore[union-attr]


def check_requests_travel(services: Iterable[ServicePlan]) -> None:
    """Check that another process, which leads the job, can reach the queues. Raises PipelineError."""
    for service in services:
        requests = service.requests
        if not _is_descriptor(requests):
            continue
        where = f"service {service.name!r} takes requests from {requests}"
        if not requests._crosses_processes:
            raise PipelineError(
                f"{where}, which lives inside this process, and the job's master is another one: use RayQueueDescriptor"
            )
        if requests._credentials:
            raise PipelineError(
                f"{where}, whose key or ssl_context does not travel to the job's master: give a function as requests="
                " that reads the key there and returns the descriptor"
            )


def _is_descriptor(value: Any) -> bool:
    from sage_flow.channels import BaseQueueDescriptor  # most jobs need none of it

    return isinstance(value, BaseQueueDescriptor)
