"""The commands of `sage-flow` for jobs on a cluster: their arguments, and where each is done."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sage_flow.cli.checkpoint_arguments import add_checkpoint_options
from sage_flow.cli.cluster_queries import (
    cancel,
    drain,
    list_jobs,
    show_checkpoints,
    show_logs,
    show_stacks,
    show_statistics,
    show_status,
    stop,
)
from sage_flow.cli.console import fail
from sage_flow.cli.placement import add_working_dir
from sage_flow.cli.submit_command import submit
from sage_flow.errors import ClusterError, PipelineError
from sage_flow.runtime.failure import add_notes

if TYPE_CHECKING:
    from sage_flow.cluster import Cluster

__all__ = ["add_commands", "inspect"]

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

_ORDERS: Final = ("drain", "stop", "cancel")
"""Without an address they are for jobs of this machine, too."""


# -- arguments ------------------------------------------------------------------------------------------------


def add_commands(commands: Any) -> None:
    """The commands of this file."""
    _add_submit(commands)
    _add_query(commands, "list", "list the jobs of a cluster, those that are over, too", list_jobs, has_job=False)
    _add_query(commands, "status", "show a job on a cluster: its subtasks, where they are, its counts", show_status)
    logs = _add_query(commands, "logs", "print what the processes of a job have printed", show_logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    logs.add_argument(
        "--by-process", action="store_true", help="print the processes one after another, instead of all by time"
    )
    for name, summary, query in (
        ("cancel", "end a job and publish nothing", cancel),
        ("drain", "end a job's sources; it processes their records and finishes", drain),
        ("stop", "let a job make a last checkpoint and end; --restore latest goes on from it", stop),
    ):
        order = _add_query(commands, name, summary, query)
        order.description = (
            f"{summary.capitalize()}.\n\nWithout --address, a job of this user that runs on this machine outside a"
            "\ncluster comes first; JOB is its name or the id of its process."
        )


def _add_submit(commands: Any) -> None:
    parser = _add(commands, "submit", "send a job file to a cluster", submit, _SUBMIT)
    parser.add_argument("jobfile", metavar="JOBFILE", help="a Python file with build(env, options)")
    parser.add_argument("--address", metavar="http://HOST:8265", help="of Ray's dashboard; default: RAY_ADDRESS")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the job; may be repeated"
    )
    parser.add_argument("--parallelism", type=int, default=1, metavar="N", help="as of `sage-flow run`")
    parser.add_argument("--name", help="the job's name; default: that of the file")
    add_working_dir(parser)
    parser.add_argument(
        "--requirements",
        metavar="FILE",
        help="packages that Ray installs for the job with pip, for its processes alone; the file has one a line",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the environment of the job's processes; may be repeated; not for secrets: Ray shows it",
    )
    add_checkpoint_options(parser)
    waits = parser.add_mutually_exclusive_group()
    waits.add_argument("--wait", dest="waits", action="store_true", help="show its log until it ends; the default")
    waits.add_argument("--detach", dest="waits", action="store_false", help="print the submission's id and return")
    parser.add_argument(
        "--no-check", action="store_true", help="do not load the job file here, where its imports may be missing"
    )
    parser.add_argument(
        "--no-build",
        action="store_true",
        help="do not call build() on this machine, where files that it needs may be missing",
    )
    parser.set_defaults(waits=True)


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
    flags = [f"--{flag}" for flag in ("json", "follow", "by-process") if getattr(arguments, _field(flag), False)]
    job = ["--", arguments.job] if getattr(arguments, "job", None) else []
    return [arguments.name, "--namespace", arguments.namespace, "--address", "auto", *flags, *job]


def _field(flag: str) -> str:
    return flag.replace("-", "_")


def inspect(arguments: argparse.Namespace) -> int:
    """Do `sage-flow channels`, `services`, `stack` and `checkpoints` for a job on a cluster."""
    if arguments.job is None:
        return fail(PipelineError("say which job of the cluster: its id or its name"), in_use=True)
    queries = {"checkpoints": show_checkpoints, "stack": show_stacks}
    arguments.query = queries.get(arguments.what, show_statistics)
    arguments.name = arguments.what
    return _asking(arguments)
