"""`sage-flow drain`, `stop` and `cancel` for a job that runs on this machine, for this user, without Ray."""

from __future__ import annotations

import argparse
import json
from typing import Final

from sage_flow.cli.console import FAILED, OK, tell
from sage_flow.errors import ChannelNotReachable
from sage_flow.executors.running_jobs import find_job, jobs_called
from sage_flow.runtime.coordinator import JobStatus

__all__ = ["end_local"]

_WHAT: Final = {
    "drain": "its sources end, and it processes the records that they emitted",
    "stop": "it makes a last checkpoint, and --restore latest goes on from it",
    "cancel": "it publishes nothing",
}


def end_local(arguments: argparse.Namespace) -> int | None:
    """Do the command if a job of this name or process id runs here, and return the exit code; else None.

    Raises PipelineError if several do; ChannelNotReachable if it does not answer.
    """
    try:
        if not jobs_called(arguments.job):
            return None
    except ChannelNotReachable as error:  # the place where jobs announce themselves; it may be one of a cluster
        tell(f"sage-flow: cannot look for jobs on this machine: {error}")
        return None
    job = find_job(arguments.job)
    what = _WHAT[arguments.name]
    status = job.end(arguments.name, lambda: tell(f"sage-flow: {arguments.name} of job {job} has begun: {what}"))
    told = {"name": job.name, "pid": job.pid, "status": str(status)}
    print(json.dumps(told, indent=2) if arguments.json else f"job {job} is: {status}")
    return FAILED if status is JobStatus.FAILED else OK
