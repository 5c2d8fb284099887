"""The subtasks of one worker process, whoever starts it: a thread each, and an exchange with the other processes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping

from sage_flow.executors.exchange import Exchange
from sage_flow.executors.process_shell import ProcessShell
from sage_flow.executors.resources import Resources
from sage_flow.executors.threads import UNWIND_S, LocalTransport
from sage_flow.executors.worker import Worker
from sage_flow.links.address import Address
from sage_flow.plan.physical import Plan
from sage_flow.runtime.failure import add_notes, pack_error
from sage_flow.runtime.messages import DRIVER, Failed, PeerLost

__all__ = ["SWITCH_S", "WorkerProcess", "freeze_imports"]

SWITCH_S = 0.0005
"""The interpreter's switch interval where there is an exchange: at the default of 5 ms a CPU-bound operator would keep
its thread waiting for as long."""
_LAST_S = 0.1
"""Seconds for the threads beside the subtasks to end when these have ended normally."""

_are_frozen = threading.Event()


def freeze_imports() -> None:
    """Let full collections skip Ray and everything else that was imported, once in a process.

    A second time would also freeze the garbage of the time between, which nobody would collect any more.
    """
    if not _are_frozen.is_set():
        _are_frozen.set()
        gc.collect()
        gc.freeze()


class WorkerProcess:
    """The part of one process in an attempt: call `listen`, then `load`, then `run`.

    `on_driver_lost(reason)` must end the process: nothing that it does can be used any more, and what sinks have
    written stays temporary. It is not called after the last report of each subtask, because then the driver may end.
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
        """Let other processes connect. Call it before `load`, because the imports of a plan may take long."""
        self._transport.hold_early()
        self.exchange.start()

    def load(self, load: Callable[[], Plan], process_of: Mapping[int, int], where: str) -> Plan:
        """Load the plan. If that fails, send the driver the error, with `where` it was raised, and raise it."""
        try:
            return load()
        except BaseException as error:  # above all an import that fails: the driver must know which
            mine = [address for address, process in process_of.items() if process == self._process]
            add_notes(error, [f"raised in {where}, which cannot load the plan"])
            self.exchange.send(0, DRIVER, Failed(mine[0], None, pack_error(error)))
            self.exchange.close()
            raise

    def run(self, plan: Plan, process_of: Mapping[int, int], resources: Resources | None = None) -> list[str]:
        """Run the subtasks of this process to the end, and close the exchange. They share `resources`.

        Returns the threads of the attempt that have not ended: with any of them, no other attempt may run here.
        """
        shell = ProcessShell(self._process, process_of, self._transport, resources)
        shell.exchange = self.exchange
        mine = [subtask for subtask in plan.subtasks if process_of[subtask.address] == self._process]
        workers = [(subtask.name, Worker(plan, subtask, shell)) for subtask in mine]
        for subtask, (_, worker) in zip(mine, workers, strict=True):
            self._transport.register(subtask.address, worker.port.deliver)
        self._workers = [worker for _, worker in workers]
        self._transport.end_early()
        freeze_imports()
        threads = [threading.Thread(target=worker.run, name=name, daemon=True) for name, worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        unwinds = any(worker.port.is_cancelled for _, worker in workers)
        left = shell.left(UNWIND_S if unwinds else _LAST_S, also_storing=True)
        self.exchange.close()
        return left

    @property
    def is_done(self) -> bool:
        """Whether each of its subtasks has sent its last report to the driver."""
        return bool(self._workers) and all(worker.has_ended for worker in self._workers)

    def on_peer_lost(self, peer: int, reason: str) -> None:
        """A connection has ended. Called by the exchange."""
        if self.is_done:
            return  # the job is over, and the other processes end, too
        if peer == 0:
            self._on_driver_lost(reason)
        else:  # perhaps only the connection is broken: the supervisor decides
            self.exchange.send(0, DRIVER, PeerLost(self._process, peer, reason))
