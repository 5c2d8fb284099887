"""A worker process: runs the subtasks that it is given until all have ended, or its driver is gone.

Signals that a terminal or a service manager sends to all processes of a job are its driver's business: the driver ends
the job in order, and the workers with it. They are handled and not ignored, because a program that user code starts
would inherit that.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from sage_flow.executors.exchange import Exchange
from sage_flow.executors.processes import HANDSHAKE_S, Bootstrap
from sage_flow.executors.subtasks import SWITCH_S, SubtasksHere, refuse_plan, run_subtasks
from sage_flow.executors.threads import LocalTransport
from sage_flow.links.address import sockets_in
from sage_flow.plan.physical import Plan
from sage_flow.queues.job_queues import end_job_queues
from sage_flow.runtime.messages import DRIVER, PeerLost

_DRIVER_GONE = 70


def main() -> None:
    """Read the bootstrap and the plan from standard input, and run. The search path is set."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    sys.setswitchinterval(SWITCH_S)
    bootstrap: Bootstrap = pickle.load(sys.stdin.buffer)
    transport, here = LocalTransport(), SubtasksHere()
    exchange = _exchange(bootstrap, transport, here)
    transport.hold_early()
    exchange.start()  # before the plan, whose imports may take long
    try:
        plan: Plan = pickle.load(sys.stdin.buffer)
    except BaseException as error:  # above all an import that fails: the driver must know which
        mine = [address for address, process in bootstrap.process_of.items() if process == bootstrap.process]
        refuse_plan(error, f"worker process {bootstrap.process} of job {bootstrap.job!r}", mine[0], exchange)
        raise
    run_subtasks(plan, bootstrap.process, bootstrap.process_of, transport, exchange, here)
    end_job_queues(plan.queues, is_owner=False)


def _exchange(bootstrap: Bootstrap, transport: LocalTransport, here: SubtasksHere) -> Exchange:
    def on_peer_lost(peer: int, reason: str) -> None:
        if here.have_ended:
            return  # the job is over, and the others go, too
        if peer == 0:
            os._exit(_DRIVER_GONE)  # nobody waits for this job any more; what a sink wrote stays temporary
        exchange.send(0, DRIVER, PeerLost(bootstrap.process, peer, reason))  # perhaps only the way to it is broken

    exchange = Exchange(
        bootstrap.process,
        sockets_in(bootstrap.directory),
        bootstrap.key,
        job=bootstrap.job,
        attempt=1,
        on_message=transport.deliver,
        on_peer_lost=on_peer_lost,
        connect_timeout_s=HANDSHAKE_S,
        bind_timeout_s=None,  # the driver watches the processes
    )
    return exchange
