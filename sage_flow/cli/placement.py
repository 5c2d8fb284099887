"""Where `sage-flow run` runs a job: its options, and the environment that they mean."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    from sage_flow.cli.jobfile import JobFile
    from sage_flow.environment import Environment
    from sage_flow.job import JobHandle

__all__ = ["add_run_options", "add_working_dir", "cluster_of", "environment"]


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
    add_working_dir(run)


def add_working_dir(parser: argparse.ArgumentParser) -> None:
    """Of every command that sends files to a cluster."""
    parser.add_argument(
        "--working-dir", default=".", metavar="FOLDER", help="what travels to the cluster; default: this folder"
    )


def cluster_of(job: JobHandle) -> str | None:
    """Where another process finds the cluster on which this program has started a job; None: it runs here."""
    if job._execution.is_announced:
        return None
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


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
