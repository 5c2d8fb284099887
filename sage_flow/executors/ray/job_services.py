"""The services of a job on Ray, as its handles call them: over a socket, or through the master by `ray://`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sage_flow.errors import ChannelNotReachable, ServiceUnavailable
from sage_flow.executors.ray.answers import ANSWER_S
from sage_flow.executors.ray.cluster import is_client
from sage_flow.executors.ray.master import START_S
from sage_flow.executors.ray.master_client import MasterClient
from sage_flow.executors.ray.records import JobRecord
from sage_flow.executors.ray.service_door import RelayPort
from sage_flow.executors.ray.worker import this_node
from sage_flow.executors.remote_service import Door, ServiceConnection
from sage_flow.plan.physical import Plan, ServicePlan
from sage_flow.runtime.caller import Caller, find_service
from sage_flow.service import ServiceHandle

__all__ = ["JobServices"]

_DIAL_S: Final = 30.0


class JobServices:
    """Connections with the services of one job, each made at its first use.

    `command(question, limit_s)` asks the master; it returns None if the job is over.
    """

    def __init__(self, record: JobRecord, master: MasterClient, command: Callable[..., Any]) -> None:
        self._record = record
        self._master = master
        self._command = command
        self._lock = threading.Lock()
        self._connections: dict[str, ServiceConnection] = {}

    def handle(self, plans: dict[str, ServicePlan], service: str | type) -> ServiceHandle:
        """Return a handle of a service; `plans` are those of the job. Raises UnknownService."""
        name = find_service(plans, service).name
        if is_client():
            return Caller(plans, RelayPort(Plan(self._record.name, (), (), plans), self._relay)).handle(name)
        with self._lock:
            if name not in self._connections:
                self._connections[name] = ServiceConnection(name, partial(self._door, name), _DIAL_S, 3)
            return self._connections[name].handle

    def close(self) -> None:
        """The job is over."""
        for connection in self._connections.values():
            connection.close()

    def _door(self, service: str) -> Door:
        address = self._command(lambda master: master.door.remote(service, this_node()), START_S + ANSWER_S)
        if address is None:
            raise ChannelNotReachable(f"job {self._record.id!r} is over")
        door: Door = address.door(this_node())
        return door

    def _relay(self, call: bytes, timeout_s: float, group: int | None) -> Any:
        master = self._master.find()
        if master is None:
            raise ServiceUnavailable(f"job {self._record.id!r} has no master")
        return master.call.remote(call, timeout_s, group).future()
