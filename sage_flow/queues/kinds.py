"""The kinds of queue descriptors: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sage_flow.queues.descriptor import BaseQueueDescriptor

_KINDS = {
    "python": "python.PythonQueueDescriptor",
    "ray": "ray.RayQueueDescriptor",
    "rpc": "rpc.RPCQueueDescriptor",
}


def resolve_descriptor(data: Mapping[str, Any]) -> BaseQueueDescriptor:
    """Return the descriptor that `to_dict` of a descriptor of any kind has described.

    >>> from sage_flow.channels import PythonQueueDescriptor
    >>> queue = PythonQueueDescriptor()
    >>> resolve_descriptor(queue.to_dict()) == queue
    True

    Raises: ValueError that names what is wrong.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"not a descriptor: a {type(data).__name__} instead of a dict")
    kind = data.get("queue_type")
    if kind not in _KINDS:
        raise ValueError(f"not a descriptor: 'queue_type' is {kind!r}, there are {', '.join(map(repr, _KINDS))}")
    module, _, name = _KINDS[kind].partition(".")
    found: type[BaseQueueDescriptor] = getattr(import_module(f"sage_flow.queues.{module}"), name)
    return found.from_dict(data)
