"""The subtasks of one worker process, of whatever kind it is: a thread each, an exchange to the other processes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping

from sage_flow.executors.exchange import Exchange
from sage_flow.executors.process_shell import ProcessShell
from sage_flow.executors.threads import LocalTransport
from sage_flow.executors.worker import Worker
from sage_flow.links.address import Address
from sage_flow.plan.physical import Plan
from sage_flow.runtime.failure import add_notes, pack_error
from sage_flow.runtime.messages import DRIVER, Failed, PeerLost

__all__ = ["SWITCH_S", "WorkerProcess"]

SWITCH_S = 0.0005
"""The interpreter's switch interval where there is an exchange: at the default of 5 ms a CPU-bound operator would keep
its thread waiting for as long."""


class WorkerProcess:
    """A process's part in an attempt: it has to `listen`, then to `run` the subtasks that are its own.

    `on_driver_lost(reason)` must end the process: nobody waits for the job any more, and what a sink wrote stays
    temporary. It is not called once each subtask has told the driver that it is over, because then the driver may go.
    The other options are those of the `Exchange`.
    """

    def __init__(
        self,
        process: int,
        *,
        addresses: Callable[[int], Address],
        key: bytes,
        job: str,
        attempt: int,
        on_driver_lost: Callable[[str], None],
        connect_timeout_s: float,
        bind_timeout_s: float | None,
        lease_s: float | None = None,
    ) -> None:
        self._process = process
        self._on_driver_lost = on_driver_lost
        self._transport = LocalTransport()
        self._workers: list[Worker] = []
        self.exchange = Exchange(
            process,
            addresses,
            key,
            job=job,
            attempt=attempt,
            on_message=self._transport.deliver,
            on_peer_lost=self.on_peer_lost,
            connect_timeout_s=connect_timeout_s,
            bind_timeout_s=bind_timeout_s,
            lease_s=lease_s,
        )

    def listen(self) -> None:
        """Let the others connect. It comes before the plan is loaded, whose imports may take long."""
        self._transport.hold_early()
        self.exchange.start()

    def load(self, load: Callable[[], Plan], process_of: Mapping[int, int], where: str) -> Plan:
        """Load the plan. If that fails the driver is told why, `where` it was, and the error is raised."""
        try:
            return load()
        except BaseException as error:  # above all an import that fails: the driver must know which
            mine = [address for address, process in process_of.items() if process == self._process]
            add_notes(error, [f"raised in {where}, which cannot load the plan"])
            self.exchange.send(0, DRIVER, Failed(mine[0], None, pack_error(error)))
            self.exchange.close()
            raise

    def run(self, plan: Plan, process_of: Mapping[int, int]) -> None:
        """Run the subtasks of this process to the end, and close the exchange."""
        shell = ProcessShell(self._process, process_of, self._transport)
        shell.exchange = self.exchange
        mine = [subtask for subtask in plan.subtasks if process_of[subtask.address] == self._process]
        workers = [(subtask.name, Worker(plan, subtask, shell)) for subtask in mine]
        for subtask, (_, worker) in zip(mine, workers, strict=True):
            self._transport.register(subtask.address, worker.port.deliver)
        self._workers = [worker for _, worker in workers]
        self._transport.end_early()
        gc.collect()
        gc.freeze()  # full collections need not go through Ray, and all that was imported, each time
        threads = [threading.Thread(target=worker.run, name=name, daemon=True) for name, worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.exchange.close()
        gc.unfreeze()

    @property
    def is_done(self) -> bool:
        """Each of its subtasks has told the driver that it is over."""
        return bool(self._workers) and all(worker.has_ended for worker in self._workers)

    def on_peer_lost(self, peer: int, reason: str) -> None:
        """A connection has ended. Called by the exchange."""
        if self.is_done:
            return  # the job is over, and the others go, too
        if peer == 0:
            self._on_driver_lost(reason)
        else:  # perhaps only the way to it is broken: whoever watches decides
            self.exchange.send(0, DRIVER, PeerLost(self._process, peer, reason))
