"""`sage-flow dashboard`, and the page of `sage-flow run --dashboard`, which is that command as a process of its own.

A page in the process of the job would take its time from the job's threads.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

from sage_flow.cli.console import OK, fail, leave_before_ray, tell

__all__ = ["add_dashboard", "beside"]

_PORT: Final = 8484
_END_S: Final = 5.0

_HELP: Final = """\
The page shows the jobs of this user on this machine or, with --address, those of a Ray cluster: the pipeline with its
rates, where it is slow, subtasks, channels, services, checkpoints, errors and logs; and it can end them. It is for this
machine only, and for whoever has the address that this command prints: a token is part of it.
"""


def add_dashboard(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "dashboard",
        help="show running jobs in a browser",
        description="Show running jobs in a browser.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--address", metavar="ADDRESS", help='of a Ray cluster: "auto", "host:port", "ray://host:port"')
    parser.add_argument("--namespace", default="sage_flow", metavar="NAME", help="of the jobs on the cluster")
    parser.add_argument(
        "--port", type=int, default=_PORT, metavar="PORT", help=f"of the page; 0: any free one; default {_PORT}"
    )
    parser.add_argument("--with-stdin", action="store_true", help=argparse.SUPPRESS)  # ends when stdin is closed
    parser.set_defaults(command=_dashboard)


def _dashboard(arguments: argparse.Namespace) -> int:
    from sage_flow.dashboard.local_jobs import LocalJobs
    from sage_flow.dashboard.server import serve_page

    ends = threading.Event() if arguments.with_stdin else None
    if ends is not None:
        threading.Thread(target=_await_eof, args=(ends,), name="end of stdin", daemon=True).start()
    try:
        if arguments.address is None:
            serve_page(LocalJobs(), arguments.port, _told, ends)
        else:
            from sage_flow.dashboard.cluster_jobs import ClusterJobs

            jobs = ClusterJobs(arguments.address, arguments.namespace)
            leave_before_ray(OK)
            serve_page(jobs, arguments.port, _told, ends)
    except Exception as error:
        return fail(error, in_use=True)
    return OK


def _told(address: str) -> None:
    tell(f"page: {address}")


def _await_eof(ends: threading.Event) -> None:
    while sys.stdin.buffer.read(1024):
        pass
    ends.set()


@contextlib.contextmanager
def beside(address: str | None, namespace: str = "sage_flow") -> Iterator[None]:
    """Serve the page in another process while the block runs; it tells its address on stderr.

    `address`: of the cluster where the job runs, None if that is this process.
    """
    command = [sys.executable, "-m", "sage_flow.cli", "dashboard", "--port", "0", "--with-stdin"]
    if address is not None:
        command += ["--address", address, "--namespace", namespace]
    # A session of its own: Ctrl-C in the terminal is for the job, and the page shows how that ends.
    page = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        if page.stdin is not None:
            page.stdin.close()
        try:
            page.wait(_END_S)
        except subprocess.TimeoutExpired:
            page.kill()
            page.wait()
