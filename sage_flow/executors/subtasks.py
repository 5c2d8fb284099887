"""The subtasks of one worker process, of whatever kind it is: a thread each, an exchange to the other processes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping

from sage_flow.executors.exchange import Exchange
from sage_flow.executors.processes import ProcessShell
from sage_flow.executors.threads import LocalTransport
from sage_flow.executors.worker import Worker
from sage_flow.plan.physical import Plan
from sage_flow.runtime.failure import add_notes, pack_error
from sage_flow.runtime.messages import DRIVER, Failed

__all__ = ["SWITCH_S", "SubtasksHere", "refuse_plan", "run_subtasks"]

SWITCH_S = 0.0005
"""The interpreter's switch interval where there is an exchange: at the default of 5 ms a CPU-bound operator would keep
its thread waiting for as long."""


class SubtasksHere:
    """The subtasks of this process, for those who hear of the end of their driver."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def are(self, workers: list[Worker]) -> None:
        """These are they."""
        self._workers = workers

    @property
    def have_ended(self) -> bool:
        """Each has told its driver that it is over: the driver may go."""
        return bool(self._workers) and all(worker.has_ended for worker in self._workers)


def run_subtasks(
    plan: Plan,
    process: int,
    process_of: Mapping[int, int],
    transport: LocalTransport,
    exchange: Exchange,
    here: SubtasksHere,
) -> None:
    """Run the subtasks of `process` to the end; close `exchange`, which was started and delivers to `transport`."""
    shell = ProcessShell(process, process_of, transport)
    shell.exchange = exchange
    mine = [subtask for subtask in plan.subtasks if process_of[subtask.address] == process]
    workers = [(subtask.name, Worker(plan, subtask, shell)) for subtask in mine]
    for subtask, (_, worker) in zip(mine, workers, strict=True):
        transport.register(subtask.address, worker.port.deliver)
    here.are([worker for _, worker in workers])
    transport.end_early()
    gc.collect()
    gc.freeze()  # what is there stays: full collections need not go through Ray, and all that was imported, each time
    threads = [threading.Thread(target=worker.run, name=name, daemon=True) for name, worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exchange.close()
    gc.unfreeze()


def refuse_plan(error: BaseException, where: str, address: int, exchange: Exchange) -> None:
    """Tell the driver that the plan cannot be loaded here, in the name of the subtask at `address`."""
    add_notes(error, [f"raised in {where}, which cannot load the plan"])
    exchange.send(0, DRIVER, Failed(address, None, pack_error(error)))
    exchange.close()
