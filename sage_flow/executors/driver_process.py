"""The parts of the driver's process, for an attempt whose subtasks are in other processes, whoever starts those.

It is process 0 of the attempt's exchanges. Messages for the driver pass the supervisor, which takes those about the
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from sage_flow.executors.condition import BareCondition
from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.exchange import Exchange
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.process_shell import ProcessShell
from sage_flow.executors.supervisor import Supervisor, WorkerProcesses
from sage_flow.executors.threads import LocalTransport
from sage_flow.links.address import Address
from sage_flow.plan.physical import Plan
from sage_flow.runtime.messages import DRIVER, OUTSIDE

__all__ = ["DriverProcess", "StartedProcesses"]


class StartedProcesses(WorkerProcesses, Protocol):
    """The worker processes, as the driver and its supervisor see them."""

    def describe(self, address: int) -> str:
        """Return where a subtask is that does not answer, as text."""


class DriverProcess:
    """Driver, port of the callers outside, supervisor, and the exchange that connects them with the worker processes.

    `process_of` says which process each subtask is in; `start_s` limits how long one of them may take to connect;
    `leader` is that of the `Driver`. The other options are those of the `Exchange`.
    """

    def __init__(
        self,
        plan: Plan,
        options: DriverOptions,
        process_of: Mapping[int, int],
        processes: StartedProcesses,
        *,
        addresses: Callable[[int], Address],
        key: bytes,
        job: str,
        attempt: int,
        connect_timeout_s: float,
        bind_timeout_s: float | None,
        lease_s: float | None = None,
        start_s: float | None = None,
        leader: DriverCalls,
    ) -> None:
        self.process_of = {**process_of, DRIVER: 0, OUTSIDE: 0}
        """The process of every address of the job."""
        transport = LocalTransport()
        self.shell = ProcessShell(0, self.process_of, transport)
        outside = OutsidePort(plan, self.shell)
        self.driver = Driver(plan, self.shell, options, processes.describe, outside, leader)
        subtasks: dict[int, list[int]] = {}
        for address, process in process_of.items():
            subtasks.setdefault(process, []).append(address)
        self.supervisor = Supervisor(
            subtasks, processes, self.driver.deliver, BareCondition(), self.shell.now, start_s=start_s
        )
        self.exchange = self.shell.exchange = Exchange(
            0,
            addresses,
            key,
            job=job,
            attempt=attempt,
            on_message=transport.deliver,
            on_peer_lost=self.supervisor.peer_lost,
            on_connected=self.supervisor.connected,
            connect_timeout_s=connect_timeout_s,
            bind_timeout_s=bind_timeout_s,
            lease_s=lease_s,
        )
        transport.register(DRIVER, self.supervisor.deliver)
        transport.register(OUTSIDE, outside.deliver)

    def start(self) -> None:
        """Listen, and watch the processes; start those after this. Raises: see `Exchange.start`."""
        self.exchange.start()
        self.shell.spawn("supervisor", self.supervisor.run)

    def close(self) -> None:
        """Stop watching and close the exchange: the attempt and its processes have ended."""
        self.supervisor.stop()
        self.exchange.close()
