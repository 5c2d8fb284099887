"""Everything that moves between subtasks and processes: queues, frames, codecs, the exchange."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_flow.channels.descriptor import BaseQueueDescriptor
    from sage_flow.channels.descriptor import BaseQueueDescriptor as QueueDescriptor
    from sage_flow.channels.kinds import resolve_descriptor
    from sage_flow.channels.python_queue import PythonQueueDescriptor
    from sage_flow.channels.ray_queue import RayQueueDescriptor
    from sage_flow.channels.rpc_queue import RPCQueueDescriptor
    from sage_flow.channels.rpc_server import RPCQueueServer

__all__ = [
    "BaseQueueDescriptor",
    "PythonQueueDescriptor",
    "QueueDescriptor",
    "RayQueueDescriptor",
    "RPCQueueDescriptor",
    "RPCQueueServer",
    "resolve_descriptor",
]

# Imported when they are asked for: who needs a frame needs no sockets.
_HOMES = {
    "BaseQueueDescriptor": "descriptor.BaseQueueDescriptor",
    "QueueDescriptor": "descriptor.BaseQueueDescriptor",
    "PythonQueueDescriptor": "python_queue.PythonQueueDescriptor",
    "RayQueueDescriptor": "ray_queue.RayQueueDescriptor",
    "RPCQueueDescriptor": "rpc_queue.RPCQueueDescriptor",
    "RPCQueueServer": "rpc_server.RPCQueueServer",
    "resolve_descriptor": "kinds.resolve_descriptor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
