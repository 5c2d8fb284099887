"""Queue descriptors: the public names of `sage_flow.queues`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_flow.queues.descriptor import BaseQueueDescriptor
    from sage_flow.queues.descriptor import BaseQueueDescriptor as QueueDescriptor
    from sage_flow.queues.kinds import resolve_descriptor
    from sage_flow.queues.python import PythonQueueDescriptor
    from sage_flow.queues.ray import RayQueueDescriptor
    from sage_flow.queues.rpc import RPCQueueDescriptor
    from sage_flow.queues.rpc_server import RPCQueueServer

__all__ = [
    "BaseQueueDescriptor",
    "PythonQueueDescriptor",
    "QueueDescriptor",
    "RayQueueDescriptor",
    "RPCQueueDescriptor",
    "RPCQueueServer",
    "resolve_descriptor",
]

# Imported when they are asked for: `import sage_flow.channels` opens no socket module.
_HOMES = {
    "BaseQueueDescriptor": "descriptor.BaseQueueDescriptor",
    "QueueDescriptor": "descriptor.BaseQueueDescriptor",
    "PythonQueueDescriptor": "python.PythonQueueDescriptor",
    "RayQueueDescriptor": "ray.RayQueueDescriptor",
    "RPCQueueDescriptor": "rpc.RPCQueueDescriptor",
    "RPCQueueServer": "rpc_server.RPCQueueServer",
    "resolve_descriptor": "kinds.resolve_descriptor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(".")
    return getattr(import_module(f"sage_flow.queues.{module}"), attribute)
