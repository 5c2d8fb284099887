"""A worker process: runs the subtasks that it is given until all have ended, or its driver is gone."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

from sage_flow.channels.exchange import Exchange
from sage_flow.channels.frame import Message
from sage_flow.executors.processes import Bootstrap, ProcessShell
from sage_flow.executors.threads import LocalPost
from sage_flow.executors.worker import Worker
from sage_flow.plan.physical import Plan

_SWITCH_S = 0.0005
"""A CPU-bound operator would keep the exchange thread waiting for 5 ms at the default interval."""

_DRIVER_GONE = 70


def main() -> None:
    """Read the bootstrap and the plan from standard input, and run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it cancels the job
    sys.setswitchinterval(_SWITCH_S)
    bootstrap: Bootstrap = pickle.load(sys.stdin.buffer)
    sys.path[:] = bootstrap.search_path
    plan: Plan = pickle.load(sys.stdin.buffer)
    run(bootstrap, plan)


def run(bootstrap: Bootstrap, plan: Plan) -> None:
    """Run this process's subtasks, a thread each."""
    post = LocalPost()
    shell = ProcessShell(bootstrap.process, bootstrap.process_of, post)
    mine = [s for s in plan.subtasks if bootstrap.process_of[s.address] == bootstrap.process]
    workers = {subtask.address: Worker(plan, subtask, shell) for subtask in mine}
    for address, worker in workers.items():
        post.register(address, worker.port.deliver)

    def on_message(target: int, message: Message) -> None:
        workers[target].port.deliver(message)

    def on_peer_lost(peer: int, reason: str) -> None:
        if peer == 0:
            os._exit(_DRIVER_GONE)  # nobody waits for this job any more; what a sink wrote stays temporary
        # another worker: the driver sees it too and cancels the job

    exchange = Exchange(
        bootstrap.process,
        bootstrap.directory,
        bootstrap.key,
        job=bootstrap.job,
        attempt=1,
        on_message=on_message,
        on_peer_lost=on_peer_lost,
    )
    shell.exchange = exchange
    exchange.start()
    threads = [threading.Thread(target=workers[s.address].run, name=s.name, daemon=True) for s in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exchange.close()


if __name__ == "__main__":
    main()
