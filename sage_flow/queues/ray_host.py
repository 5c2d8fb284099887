"""The actor that hosts queues in a Ray cluster: one per namespace and scope, detached, made at first use.

It listens at a Unix socket for the processes of its node, and at TCP under TLS once a process of another node asks. A
process asks it through Ray for its location, once per channel; items then go over sockets, without Ray.

The contents of a host are in its memory. After its death the next process that asks makes a new host, which must not
serve an empty queue in the place of a lost one. So each host notes a channel in Ray's key-value store before it tells a
process its location, and refuses channels that another host has noted.

A host to which no process has been connected for `IDLE_S` ends itself. It removes its notes of empty queues, because
nothing is lost with them.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from sage_flow.links.address import TcpAddress, UnixAddress
from sage_flow.links.endpoint import Credentials, Endpoint
from sage_flow.links.local_link import AnyLink
from sage_flow.links.loop import exchange_loop
from sage_flow.queues.host import QueueHost

IDLE_S: Final = 300.0
"""A host ends when no process has been connected for so many seconds."""

_STORE: Final = b"sage_flow queues"  # the part of Ray's key-value store that is for us
_REMEMBERED: Final = 10_000  # closed channels, as everywhere


@dataclass(frozen=True)
class HostLocation:
    """How a process of some node reaches a host. It holds secrets, so it is sent through Ray only, and not stored."""

    endpoint: Endpoint
    key: bytes = field(repr=False)
    credentials: Credentials | None
    """For TLS; None on the host's own node."""


class IdleHost(QueueHost):
    """A host that calls `deserted` when no process has been connected for `idle_s`, on the exchange thread."""

    def __init__(self, address: UnixAddress, key: bytes, idle_s: float) -> None:
        self._idle_s = idle_s
        self._uses = itertools.count(1)
        self._use = 0
        super().__init__(address, key)
        self.note_use()

    def deserted(self, use: int) -> None:
        """The host has been idle for `idle_s` since this use."""

    def note_use(self) -> None:
        """Begin the idle time again. From any thread."""
        use = self._use = next(self._uses)
        exchange_loop().call_soon_threadsafe(
            lambda: exchange_loop().call_later(self._idle_s, lambda: self._check_idle(use))
        )

    def is_idle_since(self, use: int) -> bool:
        """Whether no process is connected, and this use was the last one."""
        return use == self._use and not self._links

    def _check_idle(self, use: int) -> None:
        if self.is_idle_since(use):
            self.deserted(use)

    def _on_link_closed(self, link: AnyLink, reason: str) -> None:
        super()._on_link_closed(link, reason)
        if not self._links:
            self.note_use()


class _ActorsHost(IdleHost):
    """Asks its actor to end: an actor can only do that in a call."""

    def __init__(self, address: UnixAddress, key: bytes, idle_s: float) -> None:
        self._orphans: deque[str] = deque()
        super().__init__(address, key, idle_s)

    def on_orphan(self, name: tuple[str, str]) -> None:
        """Only note it: this thread must not wait for Ray's key-value store."""
        self._orphans.append(name[1])

    def take_orphans(self) -> list[str]:
        """Return the channels that have ended with the sessions that owned them, since the last time."""
        return [self._orphans.popleft() for _ in range(len(self._orphans))]

    def deserted(self, use: int) -> None:
        import ray

        ray.get_runtime_context().current_actor.end_if_deserted.remote(use)


class RayQueueHost:
    """The actor. It runs one call at a time, so `end_if_deserted` knows of every process that was told the location."""

    def __init__(self, namespace: str, scope: str, idle_s: float) -> None:
        import ray

        self._scope = scope
        self._node: str = ray.get_runtime_context().get_node_id()
        self._ip: str = ray.util.get_node_ip_address()
        self._key = secrets.token_bytes(32)
        self._address = UnixAddress.unnamed()
        self._host = _ActorsHost(self._address, self._key, idle_s)
        self._notes = _Notes(namespace, scope)
        self._credentials: Credentials | None = None  # made, with the port, when another node asks
        self._port: int | None = None

    def locate(self, channel_id: str, node: str, visits: bool = False) -> HostLocation | None:
        """Return where a process on `node` reaches the host; None if the channel was lost with an earlier host.

        A visitor (`visits`) creates no queue: it gets None if the queue was not created here.
        """
        self._host.note_use()
        self._notes.forget(self._host.take_orphans())
        if not (channel_id in self._notes.ours if visits else self._notes.claim(channel_id)):
            return None
        self._notes.forget_oldest({channel_id for _, channel_id in self._host.open_queues})
        if node != self._node:
            self._open_port()
        endpoint = Endpoint(self._node, self._address.path, self._ip, self._port)
        return HostLocation(endpoint, self._key, None if node == self._node else self._credentials)

    def end_if_deserted(self, use: int) -> None:
        """The host was idle: end it, unless a process has asked or connected meanwhile."""
        if self._host.is_idle_since(use):
            queues = self._host.statistics()["queues"]
            self._notes.forget([name[1] for name, told in queues.items() if not _contents(told)])
            self._end()

    def end(self) -> None:
        """Close all queues, for everybody, and end; nothing is remembered of them."""
        self._notes.forget(list(self._notes.ours))
        self._end()

    def statistics(self) -> dict[str, Any]:
        """Those of `RPCQueueServer`, and the process, its node and its port."""
        return {"process": os.getpid(), "node": self._node, "port": self._port, **self._host.statistics()}

    def _end(self) -> None:
        import ray

        self._host.close()
        ray.actor.exit_actor()

    def _open_port(self) -> None:
        if self._credentials is None:
            self._credentials = Credentials.make(f"queues of {self._scope}")
            address = self._host.listen_also(TcpAddress(self._ip, 0, self._credentials.server()))
            self._port = address.port


def _contents(told: dict[str, Any]) -> int:
    return int(told["depth"] + told["leases"] + told["held"])


class _Notes:
    """The channels of this host, noted in Ray's key-value store, where the next host reads them."""

    def __init__(self, namespace: str, scope: str) -> None:
        self.ours: dict[str, None] = {}  # the oldest first
        self._host = os.urandom(8).hex().encode()
        self._prefix = f"{len(namespace)}:{namespace}{len(scope)}:{scope}"

    def claim(self, channel_id: str) -> bool:
        """Note a channel; False if another host has noted it."""
        if channel_id in self.ours:
            return True
        from ray.experimental.internal_kv import _internal_kv_put

        if _internal_kv_put(self._name(channel_id), self._host, overwrite=False, namespace=_STORE):
            return False
        self.ours[channel_id] = None
        return True

    def forget(self, channel_ids: Iterable[str]) -> None:
        """Remove the notes of channels, so that they may be made anew."""
        from ray.experimental.internal_kv import _internal_kv_del

        for channel_id in channel_ids:
            self.ours.pop(channel_id, None)
            _internal_kv_del(self._name(channel_id), namespace=_STORE)

    def forget_oldest(self, but: set[str]) -> None:
        """Forget the oldest closed channel if more than `_REMEMBERED` are noted."""
        if len(self.ours) > len(but) + _REMEMBERED:
            self.forget([next(channel_id for channel_id in self.ours if channel_id not in but)])

    def _name(self, channel_id: str) -> bytes:
        return (self._prefix + channel_id).encode()
