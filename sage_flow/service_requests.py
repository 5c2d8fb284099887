"""Which queues a service may take requests from, as users say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    from sage_flow.channels import BaseQueueDescriptor

__all__ = ["checked_requests", "made_requests"]


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


def _is_descriptor(value: Any) -> bool:
    from sage_flow.channels import BaseQueueDescriptor  # most jobs need none of it

    return isinstance(value, BaseQueueDescriptor)
