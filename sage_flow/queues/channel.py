"""The channels that this process knows, and their live queues: one per channel, however many descriptors there are.

All descriptors of one identity share one `QueueChannel` object. It ends with the last of them, except if the contents
of its queue are in this process and its name may be known elsewhere: then both stay until `close()`.

A channel that was closed here stays closed: a later descriptor with its identity must not wait at a new queue for
processes that used the old one. The last 10,000 closed channels are remembered. The same holds for all channels of a
job that is over, by its scope.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

from sage_flow.errors import QueueClosed
from sage_flow.queues.methods import LiveQueue

ChannelKey = tuple[str, ...]
"""Type of the queue, the place where it is hosted, scope and channel_id."""

_Name = TypeVar("_Name")
_CLOSED: Final = 10_000

_lock = threading.Lock()
_channels: weakref.WeakValueDictionary[ChannelKey, QueueChannel] = weakref.WeakValueDictionary()
_owned: dict[ChannelKey, QueueChannel] = {}  # whose contents are in this process, until `close()`
# Likewise, but until their last descriptor is gone.
_passing: weakref.WeakValueDictionary[ChannelKey, QueueChannel] = weakref.WeakValueDictionary()
_closed: dict[ChannelKey, None] = {}
_ended: dict[str, None] = {}  # scopes
_process = f"{os.getpid()}-{os.urandom(6).hex()}"


def this_process() -> str:
    """Return a name that no other process has, not even one that was forked from this one."""
    return _process


class QueueChannel:
    """One logical channel, as this process knows it."""

    __slots__ = ("__weakref__", "_kept", "_live", "_lock", "bound", "crosses", "key")

    def __init__(self, key: ChannelKey) -> None:
        self.key = key
        self.bound = False
        """It was used, shared or serialised, so its clones are the same channel. Never unset."""
        self.crosses = False
        """Other processes of this machine reach it, too."""
        self._kept = False
        self._lock = threading.Lock()
        self._live: Callable[[], LiveQueue | None] = _none

    def reach(self, make: Callable[[], LiveQueue]) -> LiveQueue:
        """Return the live queue; `make` makes it if there is none. For any number of threads at once.

        Raises: QueueClosed if it was closed here; what `make` raises.
        """
        with self._lock:
            live = self._live()
            if live is not None and (live.owns_contents or not live.closed):
                return live
            self._check_open()
            live = make()
            self.bound = True
            self._live = (lambda: live) if live.owns_contents else weakref.ref(live)
            if live.owns_contents:
                with _lock:
                    (_owned if self._kept else _passing)[self.key] = self
                if self.scope in _ended:  # since `_check_open`
                    self.close(live)
            return live

    @property
    def scope(self) -> str:
        return self.key[-2]

    def keep(self) -> None:
        """Its name may be known elsewhere, or it was serialised: its contents stay when all descriptors are gone."""
        if self._kept:
            return
        with _lock:
            self._kept = True
            if _passing.pop(self.key, None) is not None:
                _owned[self.key] = self

    def close(self, live: LiveQueue) -> None:
        """Close `live`, which `reach` returned, and forget it."""
        live.close()
        if not live.owns_contents:
            return
        with _lock:
            _owned.pop(self.key, None)
            _passing.pop(self.key, None)
            _remember(self.key, _closed)

    def _check_open(self) -> None:
        with _lock:
            if self.scope in _ended:
                raise QueueClosed(f"queue {self.key[-1]} is closed: its job ({self.scope}) is over")
            if self.key in _closed:
                raise QueueClosed(f"queue {self.key[-1]} was closed: take a new queue_id for a new queue")

    def _abandon(self) -> None:
        live = self._live()
        if live is not None:
            live.abandoned = True
        self._live = _none
        self._lock = threading.Lock()


def channel(key: ChannelKey) -> QueueChannel:
    """Return the one object of this channel in this process."""
    with _lock:
        found = _channels.get(key)
        if found is None:
            found = _channels[key] = QueueChannel(key)
        return found


def owned_channels() -> list[tuple[QueueChannel, LiveQueue]]:
    """Return the channels whose contents are in this process, and their live queues."""
    with _lock:
        owned = [*_owned.values(), *_passing.values()]
    return [(known, live) for known in owned if (live := known._live()) is not None]


def end_scope(scope: str) -> None:
    """Close the channels of a job whose contents are in this process; they cannot be made again here."""
    with _lock:
        _remember(scope, _ended)
    for known, live in owned_channels():
        if known.scope == scope:
            known.close(live)


def _remember(name: _Name, among: dict[_Name, None]) -> None:
    among[name] = None
    if len(among) > _CLOSED:
        del among[next(iter(among))]


def _none() -> None:
    return None


def _before_fork() -> None:
    """The child has all descriptors, too: of the channels that it can reach, its handles are shares."""
    with _lock:
        known = list(_channels.values())
    for channel in known:
        channel.bound |= channel.crosses


def _after_fork() -> None:
    """Live queues belong to the parent, which has their contents and their connections."""
    global _lock, _process
    _lock = threading.Lock()
    _process = f"{os.getpid()}-{os.urandom(6).hex()}"
    _owned.clear()
    _passing.clear()
    for known in list(_channels.values()):
        known._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
