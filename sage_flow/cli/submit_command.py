"""`sage-flow submit`: sends a job file to a cluster, and follows it there."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

from sage_flow.cli.checkpoint_arguments import apply_checkpoints, check_reachable, passed_on
from sage_flow.cli.console import FAILED, INTERRUPTED, OK, fail, tell
from sage_flow.cli.job_environment import environment_set, requirements_of, variables_of
from sage_flow.errors import PipelineError
from sage_flow.runtime.failure import add_notes

if TYPE_CHECKING:
    from sage_flow.cli.submission import JobServer

__all__ = ["submit"]

_NEXT: Final = ("status", "logs -f", "drain", "stop", "cancel")


def submit(arguments: argparse.Namespace) -> int:
    """Do the command; return its exit code."""
    from sage_flow.cli.submission import JobServer, entrypoint, metadata_of, shipped
    from sage_flow.executors.log_lines import check_settings

    try:
        check_reachable(arguments)
        variables = variables_of(arguments.env)
        runtime_env = shipped(arguments.working_dir)
        if variables:
            runtime_env["env_vars"] = variables
        if arguments.requirements is not None:
            runtime_env["pip"] = requirements_of(arguments.requirements)
        command = entrypoint(arguments.jobfile, arguments.working_dir, _passed_on(arguments))
        name = arguments.name or os.path.splitext(os.path.basename(arguments.jobfile))[0]
        if not arguments.no_check:
            with environment_set(variables):
                check_settings()
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
            apply_checkpoints(env, arguments)
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
    return found + (["--name", arguments.name] if arguments.name else []) + passed_on(arguments)


def _default_server() -> str:
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if variable in os.environ:
            return os.environ[variable]
    raise PipelineError("say where to: --address http://HOST:8265, the address of Ray's dashboard")


def _how_to_go_on(what: str, submission: str, address: str) -> list[str]:
    commands = [f"sage-flow {command} {submission} --address {address}" for command in _NEXT]
    return [f"sage-flow: {what}; go on with:", *(f"  {command}" for command in commands)]
