"""The host of queues: turns messages of links into events of `HostedQueue`s, and their decisions into messages.

All of it runs on the exchange thread, which never waits: a request that has to wait is in a line of its queue.
"""

from __future__ import annotations

import hmac
import logging
import os
import threading
import time
import weakref
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar, cast

from sage_flow.errors import LinkClosed, ProtocolError
from sage_flow.links.address import Address
from sage_flow.links.listener import Listener
from sage_flow.links.local_link import AnyLink, LocalLink, OnClosed, OnMessage
from sage_flow.links.loop import exchange_loop
from sage_flow.links.silence import Silence
from sage_flow.queues import opcodes
from sage_flow.queues.hosted import RESUME_S, HostedQueue
from sage_flow.queues.hosted_decisions import Decision
from sage_flow.queues.hosted_messages import handle, message_of
from sage_flow.queues.opcodes import Opcode

_log = logging.getLogger("sage_flow.channels")

_CLOSED: Final = 10_000  # closed queues that are remembered, so that no client waits at a new one of that name


_Address = TypeVar("_Address", bound=Address)
_QueueName = tuple[str, str]  # scope, channel_id


class _Subscription:
    """A client of a queue, and where its answers go."""

    __slots__ = ("link", "name", "number", "queue", "session")

    def __init__(self, link: AnyLink, number: int, name: _QueueName, queue: HostedQueue, session: str) -> None:
        self.link = link
        self.number = number
        self.name = name
        self.queue = queue
        self.session = session

    def send(self, message: tuple[Any, ...]) -> None:
        try:
            self.link.send((self.number, *message), lane=self.number, copy_buffers=False)
        except LinkClosed:
            pass  # `on_closed` comes next, and the session may resume


class QueueHost:
    """Serves any number of queues at `address`, each made when it is first asked for.

    Raises: ChannelNotReachable if it cannot listen there.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._id = os.urandom(8).hex()
        self._queues: dict[_QueueName, HostedQueue] = {}
        self._closed: dict[_QueueName, str] = {}  # and why
        self._links: dict[AnyLink, dict[int, _Subscription]] = {}
        self._subscriptions: dict[tuple[_QueueName, str], _Subscription] = {}  # by queue and session
        self._ended = False
        self._key = key
        self._listeners = [self._listen(address)]
        self.address = self._listeners[0].address
        self.answers_at(self.address)

    def listen_also(self, address: _Address) -> _Address:
        """Serve at this address, too; return it as others may dial it. Raises: ChannelNotReachable."""
        listener = self._listen(address)
        self._listeners.append(listener)
        return cast(_Address, listener.address)

    def answers_at(self, address: Address) -> None:
        """Clients in this process that dial `address` connect to this host."""
        _here[address] = self

    def connect(self, on_message: OnMessage, on_closed: OnClosed) -> LocalLink:
        """Return a link for a client in this process."""
        ours, theirs = LocalLink.pair((self._on_message, self._on_link_closed), (on_message, on_closed))
        exchange_loop().call_soon_threadsafe(partial(self._on_link, ours))
        return theirs

    def close(self, flush_s: float = 1.0) -> None:
        """Close all queues, tell their clients, and listen no more. From any thread."""
        for address in [address for address, host in _here.items() if host is self]:
            del _here[address]
        exchange_loop().call_soon_threadsafe(self._end)
        for listener in self._listeners:
            listener.close(flush_s)

    @property
    def open_queues(self) -> list[tuple[str, str]]:
        """Scope and channel_id of each."""
        return list(self._queues)

    def statistics(self) -> dict[str, Any]:
        """`queues`: those of each, by scope and channel_id; and those of the first listener. From any thread."""
        loop = exchange_loop()
        if threading.get_ident() == loop.thread:
            return self._report()
        report: Future[dict[str, Any]] = Future()

        def fill() -> None:  # on the exchange thread, where nothing changes meanwhile
            try:
                report.set_result(self._report())
            except Exception as error:
                report.set_exception(error)

        loop.call_soon_threadsafe(fill)
        return report.result()

    def on_orphan(self, name: tuple[str, str]) -> None:
        """A queue has ended with the session that owned it. On the exchange thread."""

    def _listen(self, address: Address) -> Listener:
        return Listener(
            address,
            self._key,
            opcodes.PROTOCOL,
            on_link=self._on_link,
            on_message=self._on_message,
            on_closed=self._on_link_closed,
        )

    # All below runs on the exchange thread.

    def _report(self) -> dict[str, Any]:
        now = time.monotonic()
        queues = {name: queue.statistics(now) for name, queue in self._queues.items()}
        return {"queues": queues, **self._listeners[0].statistics()}

    def _on_link(self, link: AnyLink) -> None:
        self._links[link] = {}

    def _on_link_closed(self, link: AnyLink, reason: str) -> None:
        for client in self._links.pop(link).values():
            if self._is_current(client):
                self._decide(client, client.queue.disconnect(client.session, time.monotonic()))
                self._await_return(client, Silence(RESUME_S, time.monotonic()))

    def _await_return(self, client: _Subscription, silence: Silence) -> None:
        """Wait for a session to come back, and do not count the time for which this process was suspended."""

        def look() -> None:
            now, name = time.monotonic(), (client.name, client.session)
            if self._subscriptions.get(name) is not client:
                return  # it has come back over another link, or left
            if silence.is_over(now):
                decisions = client.queue.expire(now)
                if client.session not in client.queue.sessions:
                    del self._subscriptions[name]
                self._decide(client, decisions)
                self._close_if_orphaned(client)
            elif silence.stood_still_s:
                client.queue.sessions.excuse(client.session, silence.stood_still_s)
            if self._subscriptions.get(name) is client:
                self._await_return(client, silence)

        exchange_loop().call_later(silence.pause_s, look)

    def _on_message(self, link: AnyLink, message: tuple[Any, ...], size: int) -> None:
        number, opcode, *rest = message
        if opcode == Opcode.ATTACH:
            self._attach(link, number, *rest)
            return
        client = self._links[link].get(number)
        if client is None and opcode == Opcode.LEAVE:
            return  # the subscription was never used, or not over this link
        if client is None:
            raise ProtocolError(f"a message for subscription {number}, which does not exist")
        if not self._is_current(client):
            return  # the session has made its open requests again over another link
        if opcode == Opcode.LEAVE:
            self._leave(client)
        elif opcode == Opcode.CLOSE:
            self._close_queue(client.name, client.queue, "a process closed it")
            client.send((int(Opcode.REPORT), rest[0], None))
        else:
            self._decide(client, handle(client.queue, client.session, opcode, rest, time.monotonic()))

    def _is_current(self, client: _Subscription) -> bool:
        """Whether the session has not come back over another link since."""
        return self._subscriptions.get((client.name, client.session)) is client

    def _attach(
        self,
        link: AnyLink,
        number: int,
        scope: str,
        channel_id: str,
        maxsize: int,
        part: int,
        host: str | None,
        session: str,
        received: int,
        open_gets: list[int],
        refused: list[int],
        attempt: int,
        epoch: int,
    ) -> None:
        name, now = (scope, channel_id), time.monotonic()
        if host not in (None, self._id):  # it asks for a queue that was lost with the host before this one
            link.send((number, int(Opcode.ATTACHED), self._id, False), lane=number)
            return
        queue = self._queues.get(name)
        if queue is None:
            queue = HostedQueue(maxsize, now, session if part == opcodes.OWNER else None)
            if name in self._closed or self._ended or part == opcodes.VISITOR:
                queue.close(now)
            else:
                self._queues[name] = queue
        if queue.sessions.is_stale(session, attempt):
            return  # it was sent over a link that the client gave up before it attached over another one
        client = _Subscription(link, number, name, queue, session)
        if not queue.closed and max(queue.maxsize, 0) != max(maxsize, 0):
            client.send((int(Opcode.CONFLICT), queue.maxsize))
            return
        self._links[link][number] = self._subscriptions[name, session] = client
        known, decisions = queue.attach(session, received, open_gets, now, refused, attempt, epoch)
        client.send((int(Opcode.ATTACHED), self._id, known))
        self._decide(client, decisions)

    def _leave(self, client: _Subscription) -> None:
        self._links[client.link].pop(client.number, None)
        self._subscriptions.pop((client.name, client.session), None)
        self._decide(client, client.queue.leave(client.session, time.monotonic()))
        self._close_if_orphaned(client)

    def _end(self) -> None:
        self._ended = True
        for name, queue in list(self._queues.items()):
            self._close_queue(name, queue, "its server was closed")
        for link in list(self._links):
            if isinstance(link, LocalLink):  # the listener closes the others
                link.close()

    def _close_if_orphaned(self, client: _Subscription) -> None:
        if client.queue.is_orphaned:
            self._close_queue(client.name, client.queue, "the process that it was created for is gone")
            self.on_orphan(client.name)

    def _close_queue(self, name: _QueueName, queue: HostedQueue, why: str) -> None:
        if queue.closed:
            return
        dropped = queue.depth
        del self._queues[name]
        if queue.owner is None:  # a queue with an owner is made by its owner only, which knows that it has ended
            self._closed[name] = why
            if len(self._closed) > _CLOSED:
                del self._closed[next(iter(self._closed))]
        if dropped and not queue.is_orphaned:
            _log.warning("queue %s was closed; the %d items in it were dropped", name[1], dropped)
        for decision in queue.close(time.monotonic()):
            self._send(name, decision)

    def _decide(self, client: _Subscription, decisions: list[Decision]) -> None:
        for decision in decisions:
            self._send(client.name, decision)

    def _send(self, name: _QueueName, decision: Decision) -> None:
        client = self._subscriptions.get((name, decision.session))
        if client is None:
            raise ProtocolError(f"{decision!r} for a session without a subscription")
        client.send(message_of(decision, time.monotonic(), self._closed.get(name, "closed")))


_here: weakref.WeakValueDictionary[Address, QueueHost] = weakref.WeakValueDictionary()


def host_here(address: Address, key: bytes) -> QueueHost | None:
    """Return the host in this process that listens at `address`, if `key` is its key."""
    host = _here.get(address)
    if host is None or not hmac.compare_digest(host._key, key) or _has_tls(host.address) != _has_tls(address):
        return None
    return host


def hosts_here() -> set[QueueHost]:
    """Return the hosts of this process."""
    return set(_here.values())


def _has_tls(address: Address) -> bool:
    return getattr(address, "ssl_context", None) is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_here.clear)
