"""The commands of `sage-flow` for jobs on a cluster: submit, list, status, logs, cancel, drain."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sage_flow.cli.console import FAILED, INTERRUPTED, OK, fail, tell
from sage_flow.cli.known_jobs import JoblessSubmission, KnownJobs, awaited_job, server_of_cluster
from sage_flow.errors import ClusterError, PipelineError
from sage_flow.executors.ray.answers import ANSWER_S
from sage_flow.runtime.failure import add_notes

if TYPE_CHECKING:
    from sage_flow.cli.jobfile import JobFile
    from sage_flow.cli.submission import JobServer
    from sage_flow.cluster import Cluster
    from sage_flow.environment import Environment
    from sage_flow.executors.execution import Execution
    from sage_flow.executors.ray.records import JobRecord
    from sage_flow.job import JobHandle

__all__ = ["add_commands", "add_run_options", "environment", "inspect", "statistics_text"]

_EXIT_CODES: Final = """\
exit codes:
  0    done
  1    the job failed, or another program cancelled it
  2    wrong use: no such job, no such option, no such file
  3    no cluster can be reached, or it does not answer within 30 s
  130  Ctrl-C
  143  a second SIGTERM has cancelled the job
"""

_SUBMIT: Final = """\
The working directory travels with the job, without .venv, .git, caches and what .gitignore names; on the cluster
the job file runs in a copy of it, by `sage-flow run JOBFILE --ray`. sage-flow must be installed there.

example:
  sage-flow submit jobs/flights.py --address http://127.0.0.1:8265 --option top=5

"""

_ADDRESS: Final = """\
ADDRESS is "auto", the cluster of this machine or of RAY_ADDRESS; "host:port"; "ray://host:port"; or that of Ray's
dashboard, "http://host:8265": then the command is run on the cluster, by a short submission.

"""

_NEXT: Final = ("status", "logs -f", "drain", "cancel")

_ORDERS: Final = ("drain", "cancel")
"""Without an address they are for jobs of this machine, too."""

_FOLLOW_S: Final = 1.0
_REPORT_S: Final = 5.0
_COLOR: Final = re.compile(r"\x1b\[\d*m")


# -- arguments ------------------------------------------------------------------------------------------------


def add_run_options(run: argparse.ArgumentParser) -> None:
    """Where `sage-flow run` runs a job."""
    run.add_argument(
        "--ray",
        action=argparse.BooleanOptionalAction,
        help="run it on Ray: on the cluster of --address or RAY_ADDRESS, else on one of its own in this process;"
        " default: in a submission of Ray's job API",
    )
    run.add_argument(
        "--address", metavar="ADDRESS", help='"auto", "local", "host:port" or "ray://host:port"; implies --ray'
    )
    run.add_argument("--name", help="the job's name; default: that of the file")
    run.add_argument(
        "--check-shared-records",
        action="store_true",
        help="fail if an operator changes a shared record, and name the operator; slow, and not with --ray",
    )
    _add_working_dir(run)


def add_commands(commands: Any) -> None:
    """The commands of this file."""
    submit = _add(commands, "submit", "send a job file to a cluster", _submit, _SUBMIT)
    submit.add_argument("jobfile", metavar="JOBFILE", help="a Python file with build(env, options)")
    submit.add_argument("--address", metavar="http://HOST:8265", help="of Ray's dashboard; default: RAY_ADDRESS")
    submit.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the job; may be repeated"
    )
    submit.add_argument("--parallelism", type=int, default=1, metavar="N", help="as of `sage-flow run`")
    submit.add_argument("--name", help="the job's name; default: that of the file")
    _add_working_dir(submit)
    waits = submit.add_mutually_exclusive_group()
    waits.add_argument("--wait", dest="waits", action="store_true", help="show its log until it ends; the default")
    waits.add_argument("--detach", dest="waits", action="store_false", help="print the submission's id and return")
    submit.add_argument(
        "--no-check", action="store_true", help="do not load the job file here, where its imports may be missing"
    )
    submit.add_argument(
        "--no-build",
        action="store_true",
        help="do not call build() on this machine, where files that it needs may be missing",
    )
    submit.set_defaults(waits=True)
    _add_query(commands, "list", "list the jobs of a cluster, those that are over, too", _list, has_job=False)
    _add_query(commands, "status", "show a job on a cluster: its subtasks, where they are, its counts", _status)
    logs = _add_query(commands, "logs", "print what the processes of a job have printed", _logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    for name, summary, query in (
        ("cancel", "end a job and publish nothing", _cancel),
        ("drain", "end a job's sources; it processes their records and finishes", _drain),
    ):
        order = _add_query(commands, name, summary, query)
        order.description = (
            f"{summary.capitalize()}.\n\nWithout --address, a job of this user that runs on this machine outside a"
            "\ncluster comes first; JOB is its name or the id of its process."
        )


def _add(
    commands: Any, name: str, summary: str, command: Callable[[argparse.Namespace], int], notes: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=notes + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_query(
    commands: Any, name: str, summary: str, query: Callable[[Cluster, argparse.Namespace], int], *, has_job: bool = True
) -> argparse.ArgumentParser:
    parser = _add(commands, name, summary, _asking, _ADDRESS)
    if has_job:
        parser.add_argument("job", metavar="JOB", help="its id, its name - the latest job of it -, or its submission")
    parser.add_argument("--address", metavar="ADDRESS", help="the cluster; default: auto")
    parser.add_argument("--namespace", default="sage_flow", metavar="NAME", help="of the jobs; default: sage_flow")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(query=query, name=name)
    return parser


def _add_working_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--working-dir", default=".", metavar="FOLDER", help="what travels to the cluster; default: this folder"
    )


# -- where a job runs -----------------------------------------------------------------------------------------


def environment(job: JobFile, arguments: argparse.Namespace) -> Environment:
    """Make the environment that `sage-flow run` was asked for."""
    from sage_flow.cli.submission import is_http, shipped
    from sage_flow.environment import LocalEnvironment, RemoteEnvironment
    from sage_flow.executors.ray.cluster import this_submission

    name = arguments.name or job.name
    is_submission = this_submission() is not None
    on_ray = arguments.ray
    if on_ray is None:
        on_ray = is_submission or arguments.address is not None
    if not on_ray:
        return LocalEnvironment(name, arguments.parallelism, check_shared_records=arguments.check_shared_records)
    if arguments.check_shared_records:
        raise PipelineError(
            "--check-shared-records works only for a job in this process: run it without --ray and --address"
        )
    address = arguments.address or ("auto" if is_submission or "RAY_ADDRESS" in os.environ else "local")
    if is_http(address if address != "auto" else os.environ.get("RAY_ADDRESS", "")):
        raise PipelineError("http://... is the address of a job server: `sage-flow submit` sends a job there")
    travels = not is_submission and address != "local"
    runtime_env = shipped(arguments.working_dir) if travels else None
    return RemoteEnvironment(name, arguments.parallelism, address=address, runtime_env=runtime_env)


# -- submit ---------------------------------------------------------------------------------------------------


def _submit(arguments: argparse.Namespace) -> int:
    from sage_flow.cli.submission import JobServer, entrypoint, metadata_of, shipped

    try:
        runtime_env = shipped(arguments.working_dir)
        command = entrypoint(arguments.jobfile, arguments.working_dir, _passed_on(arguments))
        name = arguments.name or os.path.splitext(os.path.basename(arguments.jobfile))[0]
        if not arguments.no_check:
            _check_job(arguments, name)
        server = JobServer(arguments.address or _default_server())
        submission = server.submit(command, metadata_of(name), runtime_env)
        if not arguments.waits:
            print(submission)
            tell(*_how_to_go_on(f"job {name!r} is submitted", submission, server.address))
            return OK
        tell(f"sage-flow: job {name!r} is submitted as {submission}")
        return _wait_for(server, submission)
    except BrokenPipeError:
        raise
    except Exception as error:
        return fail(error, in_use=True)


def _wait_for(server: JobServer, submission: str) -> int:
    try:
        ended = server.follow(submission, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        tell(*_how_to_go_on("interrupted; the job goes on", submission, server.address))
        return INTERRUPTED
    if ended.code != 0 or ended.status != "SUCCEEDED":
        tell(f"sage-flow: {submission} is {ended.status}: {ended.message}")
    return ended.code or (OK if ended.status == "SUCCEEDED" else FAILED)


def _check_job(arguments: argparse.Namespace, name: str) -> None:
    """Check a job file, its options and its pipeline before anything is uploaded.

    `build` is called as on the cluster: on Ray, in the folder that travels. Nothing is connected, and nothing runs.
    """
    from sage_flow.cli.jobfile import load_job
    from sage_flow.environment import RemoteEnvironment
    from sage_flow.runtime.failure import add_notes

    path = os.path.abspath(arguments.jobfile)
    before = os.getcwd()
    os.chdir(arguments.working_dir)
    try:
        job = load_job(path)
        options = job.options(arguments.option)
        if arguments.no_build:
            return
        env = RemoteEnvironment(name, arguments.parallelism)
        try:
            job.build_pipeline(env, options)
            env._graph.plan()
        except Exception as error:
            add_notes(
                error, ["raised on this machine, before anything is uploaded; --no-build skips the call of build()"]
            )
            raise
    finally:
        os.chdir(before)


def _passed_on(arguments: argparse.Namespace) -> list[str]:
    """Arguments of `sage-flow run` on the cluster."""
    found = [word for option in arguments.option for word in ("--option", option)]
    if arguments.parallelism != 1:
        found += ["--parallelism", str(arguments.parallelism)]
    return found + (["--name", arguments.name] if arguments.name else [])


def _default_server() -> str:
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if variable in os.environ:
            return os.environ[variable]
    raise PipelineError("say where to: --address http://HOST:8265, the address of Ray's dashboard")


def _how_to_go_on(what: str, submission: str, address: str) -> list[str]:
    commands = [f"sage-flow {command} {submission} --address {address}" for command in _NEXT]
    return [f"sage-flow: {what}; go on with:", *(f"  {command}" for command in commands)]


# -- questions and orders -------------------------------------------------------------------------------------


def _asking(arguments: argparse.Namespace) -> int:
    """Do a command on the cluster that it names, from here or by its job server."""
    from sage_flow.cli.submission import is_http

    address = arguments.address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if arguments.address is None and arguments.name in _ORDERS:
            from sage_flow.cli.local_commands import end_local

            code = end_local(arguments)
            if code is not None:
                return code
        if is_http(address):
            from sage_flow.cli.relay import run_on_cluster

            return run_on_cluster(address, _words(arguments))
        if address == "local":
            raise PipelineError('"local" is a Ray inside the process that runs a job: give the address of a cluster')
        from sage_flow.cluster import connect

        found: int = arguments.query(connect(address, namespace=arguments.namespace), arguments)
        return found
    except BrokenPipeError:
        raise
    except ClusterError as error:
        if arguments.name in _ORDERS and arguments.address is None and "RAY_ADDRESS" not in os.environ:
            note = f"and no job {arguments.job!r} runs on this machine for this user, outside a cluster"
            add_notes(error, [note])
        return fail(error, in_use=True)
    except Exception as error:
        return fail(error, in_use=True)


def _words(arguments: argparse.Namespace) -> list[str]:
    """The command, for a process of the cluster."""
    flags = [f"--{flag}" for flag in ("json", "follow") if getattr(arguments, flag, False)]
    job = ["--", arguments.job] if getattr(arguments, "job", None) else []
    return [arguments.name, "--namespace", arguments.namespace, "--address", "auto", *flags, *job]


def _list(cluster: Cluster, arguments: argparse.Namespace) -> int:
    from sage_flow.cli.inspection import jobs_text

    known = KnownJobs(cluster)
    jobs = known.shown()
    _print(arguments, jobs, lambda: jobs_text(jobs))
    if known.trouble is not None:
        tell(f"sage-flow: {known.trouble}")
    return OK


def _status(cluster: Cluster, arguments: argparse.Namespace) -> int:
    from sage_flow.cli.inspection import job_text

    job = KnownJobs(cluster).find(arguments.job)
    told: dict[str, Any] = {**job.as_dict(), "subtasks": [], "operators": {}}
    if not isinstance(job, JoblessSubmission):
        handle, record = _handle_of(cluster, job)
        counted = handle.metrics()["operators"].items()
        told = {
            **record.as_dict(),
            "subtasks": [vars(subtask) for subtask in handle.subtasks()],
            "operators": {name: counts._asdict() for name, counts in counted},
        }
    _print(arguments, told, lambda: job_text(told))
    return _code(told["status"])


def _logs(cluster: Cluster, arguments: argparse.Namespace) -> int:
    job = awaited_job(cluster, arguments.job) if arguments.follow else KnownJobs(cluster).find(arguments.job)
    if isinstance(job, JoblessSubmission):
        return _log_of_driver(job, arguments)
    handle, record = _handle_of(cluster, job)
    if arguments.follow:
        return _follow_logs(cluster, handle, record, arguments)
    logs = _logs_of(handle, record)
    _print(arguments, logs, lambda: "\n".join(f"== {name}\n{text}" for name, text in logs.items()))
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


def _cancel(cluster: Cluster, arguments: argparse.Namespace) -> int:
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


def _drain(cluster: Cluster, arguments: argparse.Namespace) -> int:
    return _end(cluster, arguments, lambda job: job.drain())


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


def inspect(arguments: argparse.Namespace) -> int:
    """Do `sage-flow channels` and `services` for a job on a cluster."""
    if arguments.job is None:
        return fail(PipelineError("say which job of the cluster: its id or its name"), in_use=True)
    arguments.query, arguments.name = _inspect, arguments.what
    return _asking(arguments)


def _inspect(cluster: Cluster, arguments: argparse.Namespace) -> int:
    from sage_flow.executors.ray.client import queues_of_job

    handle, record = _found(cluster, arguments.job)
    if record.status.is_final:
        raise PipelineError(f"job {record.id} is over: {record.status}")
    statistics = handle.statistics()
    if arguments.what == "channels":
        statistics["queues"] = queues_of_job(arguments.namespace, record)
    print(statistics_text(arguments, statistics, name=record.name, id=record.id))
    return OK


def statistics_text(arguments: argparse.Namespace, statistics: dict[str, Any], **whose: Any) -> str:
    """What `sage-flow channels` and `services` print of it. `whose`: what the job is found by, its name first."""
    from sage_flow.cli.inspection import channels_text, services_text

    if arguments.json:
        import json

        shown = (arguments.what, *(["queues"] if arguments.what == "channels" else []), "stories", "unresponsive")
        return json.dumps({"job": whose, **{name: statistics.get(name, []) for name in shown}}, indent=2)
    name, *others = whose.items()
    title = f"{arguments.what} of job {name[1]!r} ({', '.join(f'{what} {value}' for what, value in others)})"
    return f"{title}\n\n{(channels_text if arguments.what == 'channels' else services_text)(statistics)}"


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
