"""A service of a job for other processes: over a link, by a key that opens this one service.

job.serve("answer", port=7001, key=key)                                  # where the job runs

with connect_service("host", 7001, "answer", key=key) as answer:         # anywhere else
    answer.process(question)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from sage_flow.errors import ChannelNotReachable, CodecError, LinkClosed, ServiceOverloaded, ServiceUnavailable
from sage_flow.executors.calling import call_back, cannot_be_sent
from sage_flow.executors.link_transport import LinkTransport
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.reading_port import ReadingPort
from sage_flow.links.address import Address, TcpAddress
from sage_flow.links.dialing import dial
from sage_flow.links.endpoint_options import check_key, check_patience, check_server
from sage_flow.links.link import Link
from sage_flow.links.listener import Listener
from sage_flow.links.local_keys import HiddenKey, LocalKey, found_key, made_key
from sage_flow.plan.physical import Plan, ServicePlan
from sage_flow.runtime.caller import Caller
from sage_flow.runtime.calls import OpenCall, Outcome
from sage_flow.runtime.failure import pack_error
from sage_flow.runtime.messages import CancelRequest, Message, Reply
from sage_flow.service import Call, ServiceHandle

if TYPE_CHECKING:
    import ssl

__all__ = ["Door", "LinkTransport", "ServedService", "ServiceConnection", "connect_service"]

_FIRST_PAUSE_S = 0.1

Door = tuple[Address, bytes | None]
"""The address of a service, and its key."""


# Messages are plain tuples, which cost less than half of named ones: a call (number, remaining seconds, method, args,
# kwargs, the key group that chooses the replica), a cancellation (the number alone), a reply. The listener sends the
# `ServicePlan` as its greeting, and `_OPEN` once the service is open.
_OPEN: Final = ()


class ServedService:
    """A service that other processes can call, until `close()` or the end of its job.

    `host` and `port` are its address, if it listens on TCP; `port` is the real one, also if 0 was given.
    """

    def __init__(self, port: OutsidePort, service: ServicePlan, address: Address, key: bytes | None) -> None:
        self._port = port
        self._service = replace(service, requests=None)  # clients receive it
        # Twice the places, because calls that a client has given up may still be open here.
        self._roomy = replace(service, max_pending=2 * service.most_pending)
        given = check_key(key)
        opens = made_key(address, given)
        self._key = HiddenKey(opens)
        self._listener = Listener(
            address,
            opens,
            _name(service.name),
            on_link=self._greet,
            on_message=self._on_message,
            on_closed=self._on_closed,
            loop=port.loop_of(service.name),
        )
        self.address = self._listener.address
        self.host, self.port = "", 0
        if isinstance(self.address, TcpAddress):
            self.host, self.port = self.address.host, self.address.port
        self._made: LocalKey | None = None
        if opens != given and isinstance(self.address, TcpAddress):
            try:
                self._made = LocalKey(self.address, opens)
            except BaseException:
                self._listener.close()
                raise
        port.at_close(self._end)

    @property
    def key(self) -> bytes:
        """The key for clients: `connect_service(host, port, service, key=served.key)`. Keep it secret."""
        return self._key.reveal()

    def close(self) -> None:
        """Take no more calls; replies of earlier calls are still sent, while the client is connected."""
        self._end(wait=True)

    def _end(self, *, wait: bool = False) -> None:
        if self._made is not None:
            self._made.remove()
        self._listener.close(wait=wait)

    def statistics(self) -> dict[str, Any]:
        """The numbers of connected processes and of refused connections, and the last events."""
        return self._listener.statistics()

    def __repr__(self) -> str:
        return f"ServedService({self._service.name!r}, {self.host!r}, {self.port})"

    def __enter__(self) -> ServedService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # All below runs on whichever thread reads the link, or brings a reply; `_greet` and `_on_closed` on the loop's.

    def _greet(self, link: Link) -> None:
        link.state = {}  # the open calls, by the client's number
        link.send(self._service)
        self._port.when_open(self._service.name, partial(self._tell_open, link))

    def _tell_open(self, link: Link) -> None:
        with contextlib.suppress(LinkClosed):
            link.send(_OPEN)

    def _on_message(self, link: Link, words: tuple[Any, ...], size: int) -> None:
        open_calls: dict[int, OpenCall] = link.state
        if len(words) == 1:
            if (unwanted := open_calls.get(words[0])) is not None:
                self._port.cancel(unwanted)  # its reply, an error, wakes a client thread that reads the link
            return
        call_id, left_s, method, args, kwargs, group = words
        pool = f"{self._service.name} by {id(link)}"
        if not self._port.has_place(self._roomy, pool):  # our clients keep to the limit; this thread must not wait
            why = f"{self._service.name} was not called: too many calls of this client are open (max_pending)"
            self._answer(link, call_id, Outcome(error=ServiceOverloaded(why)))
            return
        made = self._port.call(self._roomy, Call(self._service.name, method, args, kwargs), left_s, group, pool)
        open_calls[call_id] = made
        if link.is_closed:  # perhaps `_on_closed` did not see this one
            self._on_closed(link, "")
        self._port.on_outcome(made, partial(self._on_outcome, link, call_id, made))

    def _on_outcome(self, link: Link, call_id: int, call: OpenCall) -> None:
        if link.state.pop(call_id, None) is not None and call.outcome is not None:
            self._answer(link, call_id, call.outcome)

    def _answer(self, link: Link, call_id: int, outcome: Outcome) -> None:
        error = outcome.remote_error
        if outcome.error is not None:
            error = pack_error(outcome.error)
        try:
            link.send((call_id, 1, () if error else (outcome.value,), error))
        except CodecError as fault:
            link.send((call_id, 0, (), pack_error(fault)))
        except LinkClosed:
            pass  # the client has gone without waiting

    def _on_closed(self, link: Link, reason: str) -> None:
        for call_id in list(link.state):
            if (call := link.state.pop(call_id, None)) is not None:
                self._port.cancel(call)


class _RemotePort(ReadingPort):
    """Calls over a link; it is dialed again if it was lost."""

    def __init__(self, link: Callable[[], Link], current: Callable[[], Link | None], plan: Plan) -> None:
        super().__init__(plan, 0, LinkTransport(self._take_back))
        self._link = link
        self._current = current

    def flush(self) -> None:
        link = self._current()
        if link is not None:
            link.flush()

    def read_while(self, is_waiting: Callable[[], bool], timeout_s: float) -> None:
        link = self._current()
        if link is not None:
            if link.holds:
                link.flush()
            link.read_while(is_waiting, timeout_s, self._calls.__len__)

    def lost(self, why: str) -> None:
        """The link is lost, so no open call can be answered."""
        with self._lock:
            waiting = self._calls.fail_all(ServiceUnavailable(why), self.now())
            self._condition.notify_all()
        call_back(waiting)

    def note_moved(self, service: str) -> None:
        """Another attempt of the job serves it now, or will when it has opened."""
        with self._lock:
            self.openings.forget(service, self.now())

    def _choose_replica(self, service: ServicePlan, group: int | None) -> int:
        return -1 if group is None else group  # the other end chooses

    def _send(self, made: OpenCall, call: Call) -> None:
        group = None if made.target == -1 else made.target
        left_s = made.deadline - self.now()
        try:
            request = (made.id, left_s, call.method, call.args, call.kwargs, group)
            self._link().send(request, subject=call, on_hold=self._more_follow())
        except CodecError as error:
            self._end(made, Outcome(error=cannot_be_sent(f"the arguments of {made.label}", error)))
        except (LinkClosed, ChannelNotReachable) as error:
            self._end(made, Outcome(error=ServiceUnavailable(f"{made.label} cannot be called: {error}")))

    def _take_back(self, message: Message) -> None:
        if isinstance(message, CancelRequest):
            try:
                self._link().send((message.call_id,))
            except (LinkClosed, ChannelNotReachable):
                pass  # nobody is left who could do it


class ServiceConnection:
    """A service of a job in another process. A `with` block gets the handle, and closes the connection at its end."""

    def __init__(self, service: str, where: Callable[[], Door], timeout_s: float, retry_count: int) -> None:
        self._service = service
        self._where = where  # called before every connection, because a job that restarts moves its services
        self._timeout_s = timeout_s
        self._pauses_s = [_FIRST_PAUSE_S * 2**attempt for attempt in range(retry_count)]
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._is_closed = False
        self._greeting: ServicePlan | None = None
        self._greeted = threading.Event()
        self._port: _RemotePort | None = None
        self._is_open = False
        self._connected()
        if not self._greeted.wait(timeout_s) or self._greeting is None:
            raise ChannelNotReachable(f"{where()[0]} does not say what service {service!r} is")
        # The other end adds up the shares of replies, and chooses the replica.
        plan = replace(self._greeting, many=False, max_pending=self._greeting.most_pending)
        self._port = _RemotePort(self._connected, lambda: self._link, Plan(service, (), (), {service: plan}))
        if self._is_open:  # the message may have come before the port was made
            self._port.note_open(service)
        self.handle: ServiceHandle = Caller({service: plan}, self._port).handle(service)

    def close(self) -> None:
        """End the connection; calls that are open end in ServiceUnavailable."""
        with self._lock:
            self._is_closed = True
            link = self._link
        if link is not None:
            link.close()

    def __enter__(self) -> ServiceHandle:
        return self.handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> Link:
        """Return the link; dial if there is none, or the last one is closed."""
        with self._lock:
            if self._is_closed:
                raise LinkClosed(f"the connection to service {self._service!r} was closed here")
            if self._link is None or self._link.is_closed:
                self._link = self._dial()
            return self._link

    def _dial(self) -> Link:
        for pause_s in self._pauses_s:
            try:
                return self._dial_once()
            except ChannelNotReachable:
                time.sleep(pause_s)
        return self._dial_once()

    def _dial_once(self) -> Link:
        address, key = self._where()
        return dial(
            address,
            key or found_key(address),
            _name(self._service),
            on_message=self._on_message,
            on_closed=self._on_closed,
            connect_timeout_s=self._timeout_s,
        )

    def _on_message(self, link: Link, message: Any, size: int) -> None:
        if isinstance(message, ServicePlan):
            self._greeting, self._is_open = message, False
            if self._port is not None:
                self._port.note_moved(self._service)
            self._greeted.set()
        elif message == _OPEN:
            self._is_open = True
            if self._port is not None:
                self._port.note_open(self._service)
        elif self._port is not None:
            self._port.take_reply(Reply._make(message))

    def _on_closed(self, link: Link, reason: str) -> None:
        self._greeted.set()
        if self._port is not None:
            self._port.lost(f"lost the connection to service {self._service!r} at {link.peer}: {reason}")


def connect_service(
    host: str,
    port: int,
    service: str,
    *,
    key: bytes | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout_s: float = 30.0,
    retry_count: int = 3,
) -> ServiceConnection:
    """Connect to a service that a job serves with `JobHandle.serve`.

    A call whose connection breaks ends in ServiceUnavailable and is not repeated, because it may have been carried out.
    The next call connects again, and tries up to `retry_count` more times.

    Raises: ChannelNotReachable if the service cannot be reached, or the key is not that of this service; ValueError and
    TypeError for invalid arguments.
    """
    check_server(host, port)
    check_patience("connect_timeout_s", connect_timeout_s, retry_count)
    door = TcpAddress(host, port, ssl_context), check_key(key)
    return ServiceConnection(service, lambda: door, connect_timeout_s, retry_count)


def _name(service: str) -> str:
    return f"service:{service}"
