"""A worker process: runs the subtasks that it is given until all have ended, or its driver is gone."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable

from sage_flow.channels.exchange import Exchange
from sage_flow.channels.frame import DRIVER, Failed, Message
from sage_flow.channels.transport import sockets_in
from sage_flow.executors.processes import Bootstrap, ProcessShell
from sage_flow.executors.threads import LocalPost
from sage_flow.executors.worker import Worker
from sage_flow.plan.physical import Plan
from sage_flow.runtime.failure import add_notes, pack_error

_SWITCH_S = 0.0005
"""A CPU-bound operator would keep the exchange thread waiting for 5 ms at the default interval."""

_DRIVER_GONE = 70


def main() -> None:
    """Read the bootstrap and the plan from standard input, and run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it cancels the job
    sys.setswitchinterval(_SWITCH_S)
    bootstrap: Bootstrap = pickle.load(sys.stdin.buffer)
    sys.path[:] = bootstrap.search_path
    try:
        plan: Plan = pickle.load(sys.stdin.buffer)
    except BaseException as error:  # above all an import that fails: the driver must know which
        refuse(bootstrap, error)
        raise
    run(bootstrap, plan)


def run(bootstrap: Bootstrap, plan: Plan) -> None:
    """Run this process's subtasks, a thread each."""
    post = LocalPost()
    shell = ProcessShell(bootstrap.process, bootstrap.process_of, post)
    mine = [s for s in plan.subtasks if bootstrap.process_of[s.address] == bootstrap.process]
    workers = {subtask.address: Worker(plan, subtask, shell) for subtask in mine}
    for address, worker in workers.items():
        post.register(address, worker.port.deliver)
    shell.exchange = exchange = _exchange(bootstrap, post.deliver)
    exchange.start()
    threads = [threading.Thread(target=workers[s.address].run, name=s.name, daemon=True) for s in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exchange.close()


def refuse(bootstrap: Bootstrap, error: BaseException) -> None:
    """Tell the driver that the plan cannot be loaded here."""
    add_notes(error, [f"raised in worker process {bootstrap.process}, which cannot load the plan of {bootstrap.job!r}"])
    exchange = _exchange(bootstrap, lambda target, message: None)
    exchange.start()
    mine = [address for address, process in bootstrap.process_of.items() if process == bootstrap.process]
    exchange.send(0, DRIVER, Failed(mine[0], None, pack_error(error)))
    exchange.close()


def _exchange(bootstrap: Bootstrap, on_message: Callable[[int, Message], None]) -> Exchange:
    def on_peer_lost(peer: int, reason: str) -> None:
        if peer == 0:
            os._exit(_DRIVER_GONE)  # nobody waits for this job any more; what a sink wrote stays temporary
        # another worker: the driver sees it too and cancels the job

    return Exchange(
        bootstrap.process,
        sockets_in(bootstrap.directory),
        bootstrap.key,
        job=bootstrap.job,
        attempt=1,
        on_message=on_message,
        on_peer_lost=on_peer_lost,
    )


if __name__ == "__main__":
    main()
