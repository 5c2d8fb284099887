"""What the commands ask a cluster, and tell its jobs: each function does one command and returns its exit code."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from sage_flow.cli.console import FAILED, OK, tell
from sage_flow.cli.known_jobs import JoblessSubmission, KnownJobs, awaited_job, server_of_cluster
from sage_flow.cli.merged_logs import merged
from sage_flow.errors import PipelineError
from sage_flow.executors.ray.answers import ANSWER_S

if TYPE_CHECKING:
    from sage_flow.cluster import Cluster
    from sage_flow.executors.execution import Execution
    from sage_flow.executors.ray.records import JobRecord
    from sage_flow.job import JobHandle

__all__ = [
    "cancel",
    "drain",
    "list_jobs",
    "show_checkpoints",
    "show_logs",
    "show_stacks",
    "show_statistics",
    "show_status",
    "stop",
]

_FOLLOW_S: Final = 1.0
_REPORT_S: Final = 5.0
_SHARES_S: Final = 0.5
_SHARE_LOOKS: Final = 10
"""The time over which it is measured where a job is slow."""
_COLOR: Final = re.compile(r"\x1b\[\d*m")


def list_jobs(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """The jobs of the cluster, and submissions that have started none."""
    from sage_flow.cli.inspection import jobs_text

    known = KnownJobs(cluster)
    jobs = known.shown()
    _print(arguments, jobs, lambda: jobs_text(jobs))
    if known.trouble is not None:
        tell(f"sage-flow: {known.trouble}")
    return OK


def show_status(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """A job: its subtasks, where they are, its counts."""
    from sage_flow.cli.inspection import job_text

    job = KnownJobs(cluster).find(arguments.job)
    told: dict[str, Any] = {**job.as_dict(), "subtasks": [], "operators": {}, "watermarks": {}, "checkpoints": []}
    told["busy"], told["slow"] = {}, []
    if not isinstance(job, JoblessSubmission):
        handle, record = _handle_of(cluster, job)
        busy, slow = ({}, []) if record.status.is_final else _busy_shares(handle)
        metrics = handle.metrics()
        told = {
            **record.as_dict(),
            "subtasks": [vars(subtask) for subtask in handle.subtasks()],
            "operators": {name: metrics["operators"][name]._asdict() for name in [*busy, *metrics["operators"]]},
            "busy": busy,
            "slow": slow,
            "watermarks": metrics["watermarks"],
            "checkpoints": [asdict(info) for info in metrics["checkpoints"]],
        }
    _print(arguments, told, lambda: job_text(told))
    return _code(told["status"])


def _busy_shares(handle: JobHandle) -> tuple[dict[str, float], list[str]]:
    """What part of its time each operator is busy now, from 0 to 1; the busiest operator is the first.

    And a line for each subtask that has been in one call of user code for long.
    """
    from sage_flow.cli.stacks import slow_lines
    from sage_flow.metrics.shares import by_operator, shares_between

    looks = [handle.statistics()]
    for _ in range(_SHARE_LOOKS):  # each of them is a sample of where the time goes inside a chain
        time.sleep(_SHARES_S / _SHARE_LOOKS)
        looks.append(handle.statistics())
    found = by_operator(looks[-1], shares_between(looks[0], looks[-1]))
    return {name: round(busy, 3) for name, busy in found.items()}, slow_lines(looks[-1]["subtasks"])


def show_logs(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """What the processes of a job have printed; with --follow until it ends."""
    job = awaited_job(cluster, arguments.job) if arguments.follow else KnownJobs(cluster).find(arguments.job)
    if isinstance(job, JoblessSubmission):
        return _log_of_driver(job, arguments)
    handle, record = _handle_of(cluster, job)
    if arguments.follow:
        return _follow_logs(cluster, handle, record, arguments)
    logs = _logs_of(handle, record)
    if arguments.by_process:
        _print(arguments, logs, lambda: "\n".join(f"== {name}\n{text}" for name, text in logs.items()))
    else:
        _print(arguments, logs, lambda: "\n".join(merged(logs)))
    return OK


def _log_of_driver(job: JoblessSubmission, arguments: argparse.Namespace) -> int:
    server, id, name = server_of_cluster(), job.submission.id, f"driver ({job.submission.id})"
    if arguments.follow:
        server.follow(id, lambda text: _print_lines(arguments, name, text))
        return server.look(id).code
    log = {name: server.log(id)}
    _print(arguments, log, lambda: log[name])
    return job.submission.code if job.submission.is_over else OK


def _logs_of(handle: JobHandle, record: JobRecord) -> dict[str, str]:
    """By process; that of the driver is known of a submission only, and has the lines of the others, too."""
    if record.submission_id is None:
        return handle.logs()
    log = server_of_cluster().log(record.submission_id).splitlines(keepends=True)
    own = [line for line in log if not _COLOR.sub("", line).startswith(f"({record.id}/")]
    return {f"driver ({record.submission_id})": "".join(own), **handle.logs()}


def _follow_logs(cluster: Cluster, handle: JobHandle, record: JobRecord, arguments: argparse.Namespace) -> int:
    """Print what is new, second by second, each line after the name of its process."""
    seen: dict[str, int] = {}
    while True:
        is_over = handle.wait(_FOLLOW_S if seen else 0.0).is_final
        if is_over and record.submission_id is not None:
            _await_report(record.submission_id)
        for name, text in _logs_of(handle, record).items():
            whole = text if is_over else text[: text.rfind("\n") + 1]
            _print_lines(arguments, name, whole[seen.get(name, 0) :])
            seen[name] = len(whole)
        if is_over:
            return _code(_handle_of(cluster, record)[1].status)


def _await_report(submission: str) -> None:
    """The driver tells what the job came to when that is over; it may have more to do."""
    server, until = server_of_cluster(), time.monotonic() + _REPORT_S
    while not server.look(submission).is_over and time.monotonic() < until:
        time.sleep(_FOLLOW_S / 4)


def _print_lines(arguments: argparse.Namespace, name: str, text: str) -> None:
    import json

    for line in text.splitlines():
        print(json.dumps({"process": name, "line": line}) if arguments.json else f"{name}: {line}", flush=True)


def cancel(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """End a job, or the submission that has not started it."""
    job = KnownJobs(cluster).find(arguments.job)
    if isinstance(job, JoblessSubmission):
        return _cancel_submission(job, arguments)
    return _end(cluster, arguments, lambda job: job.cancel("cancelled by `sage-flow cancel`"))


def _cancel_submission(job: JoblessSubmission, arguments: argparse.Namespace) -> int:
    """Its driver ends, and cancels its job if it has started one by now."""
    was_over = job.submission.is_over
    stopped = replace(job, submission=server_of_cluster().stop(job.submission.id))
    what = f"submission {job.submission.id} {'was over' if was_over else 'is'}: {stopped.status}"
    _print(arguments, stopped.as_dict(), lambda: what)
    return _code(stopped.status)


def drain(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """End the sources of a job and wait for its end."""
    return _end(cluster, arguments, lambda job: job.drain())


def stop(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Let a job make a last checkpoint and wait for its end."""
    return _end(cluster, arguments, lambda job: job.stop())


def _end(cluster: Cluster, arguments: argparse.Namespace, end: Callable[[Execution], None]) -> int:
    handle, record = _found(cluster, arguments.job)
    was_over = record.status.is_final
    if not was_over:
        end(handle._execution)
        while not handle.wait(_FOLLOW_S).is_final:  # each look at the status asks the cluster, within its limit
            pass
        record = _handle_of(cluster, record)[1]
    _print(arguments, record.as_dict(), lambda: f"job {record.id} {'was over' if was_over else 'is'}: {record.status}")
    return _code(record.status)


def show_checkpoints(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """The latest checkpoints of a running job."""
    from sage_flow.cli.checkpoint_commands import told_by_job

    handle, record = _found(cluster, arguments.job)
    if record.status.is_final:
        raise PipelineError(f"job {record.id} is over: {record.status}; --checkpoints URL shows what is stored")
    infos = [asdict(info) for info in handle.checkpoints()]
    print(told_by_job(arguments, infos, name=record.name, id=record.id))
    return OK


def show_statistics(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """What the channels, or the services, of a running job are doing."""
    from sage_flow.cli.inspection import statistics_text
    from sage_flow.executors.ray.client import queues_of_job

    handle, record = _found(cluster, arguments.job)
    if record.status.is_final:
        raise PipelineError(f"job {record.id} is over: {record.status}")
    statistics = handle.statistics()
    if arguments.what == "channels":
        statistics["queues"] = queues_of_job(arguments.namespace, record)
    print(statistics_text(arguments, statistics, name=record.name, id=record.id))
    return OK


def show_stacks(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """The lines of user code that a running job is in."""
    from sage_flow.cli.stacks import stacks_text

    handle, record = _found(cluster, arguments.job)
    if record.status.is_final:
        raise PipelineError(f"job {record.id} is over: {record.status}")
    print(stacks_text(arguments, handle.stacks(), name=record.name, id=record.id))
    return OK


# -- what they share ------------------------------------------------------------------------------------------


def _found(cluster: Cluster, job: str) -> tuple[JobHandle, JobRecord]:
    """The job; that of a submission is waited for. Raises PipelineError if there is none, ClusterError."""
    found = awaited_job(cluster, job)
    if isinstance(found, JoblessSubmission):
        raise PipelineError(f"submission {found.submission.id} is {found.status}: {found.message}")
    return _handle_of(cluster, found)


def _handle_of(cluster: Cluster, record: JobRecord) -> tuple[JobHandle, JobRecord]:
    """A handle, and what is known now; of one that is over everything is there, also if its master just died."""
    handle = cluster.job(record.id)
    if handle.status.is_final:
        handle.wait(ANSWER_S)
    return handle, next((known for known in cluster.jobs() if known.id == record.id), record)


def _code(status: object) -> int:
    return FAILED if str(status) == "FAILED" else OK


def _print(arguments: argparse.Namespace, value: Any, text: Callable[[], str]) -> None:
    import json

    print(json.dumps(value, indent=2, default=str) if arguments.json else text())
    sys.stdout.flush()
