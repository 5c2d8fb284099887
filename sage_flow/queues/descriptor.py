"""Queue descriptors: small values that name a queue and say how to reach it.

`queue_id` is a label, `channel_id` the identity. A clone or a share of a bound descriptor, and a descriptor that was
read from its pickle, dict or JSON, name the same channel, in every process and in whatever order they are used.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sage_flow.errors import ChannelConflict, QueueClosed
from sage_flow.queues.channel import QueueChannel, channel
from sage_flow.queues.methods import LiveQueue, QueueMethods
from sage_flow.queues.opcodes import ANYBODY, Part

if TYPE_CHECKING:
    from typing_extensions import Self

CLUSTER = "cluster"
"""The scope of channels that belong to no job."""


class BaseQueueDescriptor(QueueMethods):
    """The base of all kinds. `queue_id`: the label; None for a generated one. `scope`: "cluster", or that of a job.

    The queue is made at its first use, which may come from any number of threads at once. Descriptors are equal if
    their kind, label, channel and configuration are equal; whether they were used does not matter.
    """

    queue_type: ClassVar[str]
    """The name of the kind in `to_dict`, by which `resolve_descriptor` finds its class."""

    _home = ""
    """Where the queue lives, for kinds whose configuration does not say it; fixed at construction."""

    _part: Part = ANYBODY
    """The part that this handle takes at the queue, see `opcodes`; in no serial form."""

    def __init__(self, maxsize: int, queue_id: str | None, scope: str) -> None:
        label = f"{self.queue_type}_{os.urandom(8).hex()}" if queue_id is None else queue_id
        self._label = check_text("queue_id", label)
        self._scope = check_text("scope", scope)
        self._created = time.time()
        self._maxsize = _check_maxsize(maxsize)
        self._live: LiveQueue | None = None
        self._channel = self._find(label)
        if queue_id is not None:
            self._channel.keep()

    # What a kind says.

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """The configuration, as the constructor takes it; no keys."""

    @property
    @abstractmethod
    def _place(self) -> tuple[str, ...]:
        """The place in which a channel_id names one queue; fixed at construction."""

    @property
    @abstractmethod
    def _host(self) -> str:
        """Where the queue is, as text."""

    @abstractmethod
    def _make_live(self) -> LiveQueue:
        """Make the live queue of the channel in this process."""

    def _new_home(self) -> str:
        """The home of channels that this process makes."""
        return ""

    # Names.

    @property
    def maxsize(self) -> int:
        """How many items may wait; 0 or less: any number."""
        return self._maxsize

    @property
    def queue_id(self) -> str:
        """The label."""
        return self._label

    @property
    def channel_id(self) -> str:
        """The identity, together with the scope and the place where the queue is hosted."""
        return self._channel.key[-1]

    @property
    def scope(self) -> str:
        """`cluster`, or the job that the channel belongs to."""
        return self._scope

    @property
    def created_timestamp(self) -> float:
        """When this descriptor was made, in seconds since the epoch."""
        return self._created

    @property
    def is_bound(self) -> bool:
        """Whether the channel was used, shared or serialised, here or where this descriptor comes from."""
        return self._channel.bound

    def is_initialized(self) -> bool:
        """Whether this handle holds the live queue of the channel in this process."""
        return self._live is not None and not self._live.abandoned

    @property
    def can_serialize(self) -> bool:
        """Whether `to_json` works."""
        return True

    def same_channel(self, other: BaseQueueDescriptor) -> bool:
        """Whether both name one channel: what one puts, the other gets."""
        return self._channel.key == other._channel.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseQueueDescriptor) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __str__(self) -> str:
        return f"Queue[{self.queue_type}]({self._label})"

    def __repr__(self) -> str:
        parts = [f"id={self._label!r}", f"type={self.queue_type!r}", "initialized" if self.is_initialized() else "lazy"]
        if self.channel_id != self._label:
            parts.append(f"channel_id={self.channel_id!r}")
        if self._scope != CLUSTER:
            parts.append(f"scope={self._scope!r}")
        if self._live is not None and self._live.closed:
            parts.append("closed")
        return f"{type(self).__name__}({', '.join(parts)})"

    # Handles of the same channel.

    def clone(self, new_queue_id: str | None = None) -> Self:
        """Return a handle with another label: of the same channel if this one is bound, else of an independent queue.

        The label is `new_queue_id`. Without it the label stays the same, or is `<label>_clone` for an independent
        queue, whose identity then ends with random digits. `share()` returns the same channel in any case.
        """
        if new_queue_id is not None:
            check_text("new_queue_id", new_queue_id)
        copy = self._copy()
        if self._channel.bound:
            copy._label = self._label if new_queue_id is None else new_queue_id
            return copy
        copy._label = f"{self._label}_clone" if new_queue_id is None else new_queue_id
        copy._home, copy._live = copy._new_home(), None
        copy._channel = copy._find(f"{copy._label}_{os.urandom(4).hex()}" if new_queue_id is None else new_queue_id)
        if new_queue_id is not None:
            copy._channel.keep()
        return copy

    def share(self) -> Self:
        """Return another handle of this channel with the same label; binds the channel."""
        self._channel.bound = True
        return self._copy()

    @property
    def reply_place(self) -> tuple[Any, ...]:
        """Equal for descriptors whose callers share one queue for replies; for the engine."""
        return (type(self), *self._place_beside(), self._scope, *self._credentials)

    def _place_beside(self) -> tuple[Any, ...]:
        return self._place

    @property
    def _credentials(self) -> tuple[Any, ...]:
        """The secrets of this handle, which no serial form contains."""
        return ()

    def _beside(self, queue_id: str, part: Part, home: str = "") -> Self:
        """Return a handle of another queue in the same place, with the credentials of this one and without a maxsize.

        `home`: that of the other queue, from its serial form. For the engine, see `reply_queues`.
        """
        copy = self._copy()
        copy._label, copy._maxsize, copy._part = queue_id, 0, part
        copy._home, copy._live = home or copy._new_home(), None
        copy._channel = copy._find(queue_id)
        copy._channel.bound = True
        return copy

    def trim(self) -> None:
        """Release the live queue; the next use takes it again. Its contents stay until `close()`."""
        self._live = None

    def clear_cache(self) -> None:
        """`trim()`."""
        self.trim()

    def close(self) -> None:
        """End the channel for everybody: further use raises QueueClosed. Its items are dropped, counted and logged."""
        self._channel.close(self.queue_instance)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """`close()`, if the channel is bound."""
        if self.is_bound:
            with contextlib.suppress(QueueClosed):  # it was closed before
                self.close()

    # Serial forms.

    def to_dict(self) -> dict[str, Any]:
        """Return all that `resolve_descriptor` needs, and no keys; binds the channel."""
        self._channel.bound = True
        self._channel.keep()
        return {
            "queue_type": self.queue_type,
            "queue_id": self._label,
            "channel_id": self.channel_id,
            "scope": self._scope,
            "bound": True,
            "home": self._home,
            "created_timestamp": self._created,
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the descriptor that `to_dict` described. Raises: ValueError that names what is wrong."""
        given = _checked(data, cls.queue_type)
        try:
            made = cls(**given["metadata"], queue_id=given["queue_id"], scope=given["scope"])
        except TypeError as error:
            raise ValueError(f"not a descriptor: its metadata: {error}") from error
        made._created = given["created_timestamp"]
        made._home = given["home"] or made._home
        made._channel = made._find(given["channel_id"])
        made._channel.bound |= given["bound"]
        return made

    def to_json(self) -> str:
        """`to_dict` as JSON. Raises: ValueError if this handle can be used in its own process only."""
        if not self.can_serialize:
            raise ValueError(
                f"{self} is in use and its items are in this process: serialize to_serializable_descriptor() instead"
            )
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the descriptor that `to_json` described. Raises: ValueError."""
        return cls.from_dict(json.loads(text))

    def to_serializable_descriptor(self) -> Self:
        """Return a handle of the same channel without a live queue, which has all serial forms."""
        handle = self.share()
        handle.trim()
        return handle

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self).from_dict, (self.to_dict(),)

    def __copy__(self) -> Self:
        return self.share()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.share()

    # The queue.

    @property
    def queue_instance(self) -> LiveQueue:
        """The live queue: one object for all handles of the channel in this process, made at its first use.

        Raises: ChannelNotReachable, ChannelConflict, QueueClosed.
        """
        live = self._live
        if live is None or live.abandoned:
            live = self._channel.reach(self._make_live)
            if max(live.maxsize, 0) != max(self._maxsize, 0):
                raise ChannelConflict(f"{self} has maxsize={self._maxsize}, the queue was created with {live.maxsize}")
            self._live = live
        return live

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Put all of `items`, neighbours in the queue: all or none.

        Raises: queue.Full if there was no room for all of them in time; QueueClosed; ValueError if they are more than
        `maxsize` or `timeout` is negative.
        """
        self.queue_instance.put_many(items, block, timeout)

    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Take what is there, at least one item and at most `max_items`; waits only for the first.

        Raises: queue.Empty; QueueClosed; ValueError.
        """
        return self.queue_instance.get_many(max_items, block, timeout)

    def qsize(self) -> int:
        """How many items wait, at this moment. Raises: QueueClosed."""
        return self.queue_instance.qsize()

    def statistics(self) -> dict[str, Any]:
        """Kind, host, labels; what is in the queue and who waits; counts, rates, and the story: its last events."""
        return {
            "kind": self.queue_type,
            "host": self._host,
            "queue_id": self._label,
            "channel_id": self.channel_id,
            "scope": self._scope,
            **self.queue_instance.statistics(),
        }

    # Inside.

    def _identity(self) -> tuple[Any, ...]:
        return type(self), self._label, self._channel.key, tuple(self.metadata.items())

    def _find(self, channel_id: str) -> QueueChannel:
        found = channel((self.queue_type, *self._place, self._scope, channel_id))
        found.crosses = self._crosses_processes
        return found

    @property
    def _crosses_processes(self) -> bool:
        """Whether a forked child can reach the queue."""
        return True

    def _copy(self) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy


def _check_maxsize(maxsize: int) -> int:
    """Return `maxsize`. Raises: ValueError if it is not an int."""
    if isinstance(maxsize, bool) or not isinstance(maxsize, int):
        raise ValueError(f"maxsize is {maxsize!r}: give an int, 0 for a queue without bound")
    return maxsize


def check_text(name: str, value: Any) -> str:
    """Return `value`. Raises: ValueError if it is no string, or an empty one."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: give a string that is not empty")
    return value


def _checked(data: Mapping[str, Any], queue_type: str) -> dict[str, Any]:
    """Return what `to_dict` has written, with defaults for what may be left out. Raises: ValueError."""
    if not isinstance(data, Mapping):
        raise ValueError(f"not a descriptor: a {type(data).__name__} instead of a dict")
    defaults: dict[str, Any] = {
        "channel_id": data.get("queue_id"),
        "scope": CLUSTER,
        "bound": False,
        "home": "",
        "created_timestamp": time.time(),
        "metadata": {},
    }
    known = {"queue_type": str, "queue_id": str, "channel_id": str, "scope": str, "bound": bool, "home": str}
    known |= {"created_timestamp": (int, float), "metadata": Mapping}  # type: ignore[dict-item]
    given = {**defaults, **data}
    if unknown := given.keys() - known.keys():
        raise ValueError(f"not a descriptor: unknown {', '.join(sorted(map(repr, unknown)))}")
    for name, kind in known.items():
        if name not in given:
            raise ValueError(f"not a descriptor: {name!r} is missing")
        if not isinstance(given[name], kind):
            raise ValueError(f"not a descriptor: {name!r} is {given[name]!r}")
    if given["queue_type"] != queue_type:
        raise ValueError(f"a descriptor of type {given['queue_type']!r}, not {queue_type!r}: use resolve_descriptor()")
    if not given["channel_id"]:
        raise ValueError("not a descriptor: 'channel_id' is empty")
    return given
