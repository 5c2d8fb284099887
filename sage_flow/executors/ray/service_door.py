"""The services of a job on Ray, for callers outside of it.

A process on a node of the cluster gets an address and a key from the master, by an actor call, and then calls over a
socket: no call passes through Ray. A driver that is connected by `ray://` cannot reach such sockets; its calls are
actor calls of the master, which passes them on.
"""

from __future__ import annotations

import pickle
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sage_flow.errors import ServiceUnavailable
from sage_flow.executors.calling import CallingPort
from sage_flow.executors.execution import LocalExecution
from sage_flow.executors.link_transport import LinkTransport
from sage_flow.executors.ray.worker import node_ip, this_node
from sage_flow.executors.remote_service import Door, ServedService
from sage_flow.links.address import TcpAddress, UnixAddress
from sage_flow.links.endpoint import Credentials, Endpoint
from sage_flow.plan.physical import Plan, ServicePlan
from sage_flow.runtime.calls import OpenCall, Outcome
from sage_flow.runtime.failure import PackedError, pack_error
from sage_flow.runtime.messages import Message, Reply
from sage_flow.service import Call
from sage_flow.wire import by_value

__all__ = ["RelayPort", "ServiceAddress", "ServiceDoors"]


@dataclass(frozen=True)
class ServiceAddress:
    """How to call one service of a running attempt. It travels through Ray only."""

    endpoint: Endpoint
    key: bytes = field(repr=False)
    credentials: Credentials | None = field(default=None, repr=False)

    def door(self, node: str) -> Door:
        """Return address and key for a caller on `node`."""
        tls = None if self.credentials is None else self.credentials.client()
        return self.endpoint.address_from(node, tls), self.key


class ServiceDoors:
    """The services of one attempt. Each is served from the first request for it to the end of the attempt."""

    def __init__(self, execution: LocalExecution, *, encrypts: bool) -> None:
        self._execution = execution
        self._encrypts = encrypts
        self._lock = threading.Lock()
        self._open: dict[tuple[str, bool], ServiceAddress] = {}

    def open(self, service: str, node: str) -> ServiceAddress:
        """Return how a process of `node` reaches the service. Raises UnknownService."""
        self._execution.service(service)
        is_near = node == this_node()
        with self._lock:
            if (service, is_near) not in self._open:
                self._open[service, is_near] = self._serve(service, is_near)
            return self._open[service, is_near]

    def _serve(self, service: str, is_near: bool) -> ServiceAddress:
        key = secrets.token_bytes(32)
        if is_near:
            address = UnixAddress.unnamed()
            self._served(service, address, key)
            return ServiceAddress(Endpoint(this_node(), address.path), key)
        credentials = Credentials.make(service) if self._encrypts else None
        host = node_ip()
        tls = None if credentials is None else credentials.server()
        served = self._served(service, TcpAddress(host, 0, tls), key)
        return ServiceAddress(Endpoint(this_node(), "", host, served.port), key, credentials)

    def _served(self, service: str, address: UnixAddress | TcpAddress, key: bytes) -> ServedService:
        return ServedService(self._execution.outside, self._execution.services[service], address, key)

    def call(self, call: Call, timeout_s: float, group: int | None) -> tuple[Any, PackedError | None]:
        """Make a call for another process, and wait for it; return the reply or the error."""
        outside = self._execution.outside
        made = outside.call(self._execution.services[call.service], call, timeout_s, group)
        outside.await_calls([made], 1, None)
        return _packed(outside.poll(made))


def _packed(outcome: Outcome | None) -> tuple[Any, PackedError | None]:
    if outcome is None:
        return None, pack_error(ServiceUnavailable("the call did not end in time"))
    error = outcome.remote_error
    if outcome.error is not None:
        error = pack_error(outcome.error)
    return outcome.value, error


class RelayPort(CallingPort):
    """Calls through the master, `ask(call, timeout_s, group)`, whose result is a `concurrent.futures.Future`."""

    def __init__(self, plan: Plan, ask: Callable[..., Any]) -> None:
        super().__init__(plan, 0, LinkTransport(self._take_back))
        self._ask = ask

    def in_activation(self) -> bool:
        return False

    def _choose_replica(self, service: ServicePlan, group: int | None) -> int:
        return -1 if group is None else group  # the port of the master chooses

    def _send(self, made: OpenCall, call: Call) -> None:
        group = None if made.target == -1 else made.target
        future = self._ask(by_value.dumps(call), made.deadline - self.now(), group)
        future.add_done_callback(lambda done: self.take_reply(_reply(made, done)))

    def _take_back(self, message: Message) -> None:
        """Nothing to do: a call that the master has begun is not cancelled."""


def _reply(made: OpenCall, done: Any) -> Reply:
    error = done.exception()
    if error is not None:
        return Reply(made.id, 0, (), pack_error(ServiceUnavailable(f"{made.label}: the job's master: {error}")))
    value, packed = pickle.loads(done.result())
    return Reply(made.id, 1, () if packed else (value,), packed)
