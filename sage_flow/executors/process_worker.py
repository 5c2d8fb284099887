"""A worker process: runs the subtasks that it is given until all have ended, or its driver is gone.

A terminal or a service manager sends its signals to all processes of a job, and the driver reacts to them: it ends the
job in order, and then the workers. Workers have handlers that do nothing; if they ignored the signals, programs that
user code starts would inherit that.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from sage_flow.executors.log_lines import apply_settings, has_settings, log_lines
from sage_flow.executors.processes import HANDSHAKE_S, Bootstrap
from sage_flow.executors.resources import Resources
from sage_flow.executors.subtasks import SWITCH_S, WorkerProcess
from sage_flow.links.address import sockets_in
from sage_flow.queues.job_queues import end_job_queues

_DRIVER_GONE = 70
_CLOSE_S = 30.0
"""Seconds for resources to close, if the driver does not end this process before that."""


def main() -> None:
    """Read the bootstrap and the plan from standard input, and run. The search path has been set before."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    sys.setswitchinterval(SWITCH_S)
    bootstrap: Bootstrap = pickle.load(sys.stdin.buffer)
    if has_settings():
        log_lines(bootstrap.job)
    else:
        apply_settings()
    process = process_of(bootstrap)
    process.listen()
    where = f"worker process {bootstrap.process} of job {bootstrap.job!r}"
    plan = process.load(lambda: pickle.load(sys.stdin.buffer), bootstrap.process_of, where)
    resources = Resources()
    process.run(plan, bootstrap.process_of, resources)
    resources.close(_CLOSE_S)
    end_job_queues(plan.queues, is_owner=False)


def process_of(bootstrap: Bootstrap) -> WorkerProcess:
    """Make this process's part in the attempt."""
    return WorkerProcess(
        bootstrap.process,
        addresses=sockets_in(bootstrap.directory),
        key=bootstrap.key,
        job=bootstrap.job,
        attempt=bootstrap.attempt,
        on_driver_lost=lambda reason: os._exit(_DRIVER_GONE),
        connect_timeout_s=HANDSHAKE_S,
        bind_timeout_s=None,  # the driver watches for the ends of processes
    )
