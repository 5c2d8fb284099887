"""The command `sage-flow`: run, explain and draw job files, here or on a cluster, look at jobs, start a project."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_flow._version import __version__
from sage_flow.cli import cluster_commands, placement
from sage_flow.cli.checkpoint_arguments import add_checkpoint_options, apply_checkpoints, told_checkpoints
from sage_flow.cli.checkpoint_commands import add_checkpoint_commands, told_by_job
from sage_flow.cli.console import (
    FAILED,
    INTERRUPTED,
    OK,
    discard_stdout,
    fail,
    guarded_stdout,
    occupy_standard_files,
    tell,
)
from sage_flow.cli.dashboard_command import add_dashboard, beside
from sage_flow.runtime.failure import add_notes
from sage_flow.timestamps import duration_text

if TYPE_CHECKING:
    from sage_flow.cli.jobfile import JobFile
    from sage_flow.environment import Environment
    from sage_flow.job import JobHandle, JobResult

__all__ = ["main", "run_file"]

_EXAMPLE = """\
example:
  sage-flow new my_project
  cd my_project
  sage-flow run jobs/example.py --option top=5
"""

_JOB_EXAMPLE = """\
A job file is a Python file with build(env, options), which writes the pipeline, and if it likes
started(job, options), which is called once when the job runs, and report(result, options), which prints
the outcome. The fields of the frozen dataclass that annotates `options` are the options; --option with a
name that is not one of them lists them.

example:
  sage-flow {command} jobs/flights.py --option top=5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0: done, also if the job was stopped with a last checkpoint; 1: the job failed, or the output cannot be written;
    2: wrong use; 3: no cluster can be reached; 130: Ctrl-C; 143: a second SIGTERM has cancelled the job.
    """
    occupy_standard_files()
    code = OK
    with guarded_stdout() as stdout:
        try:
            code = _do(argv)
        except KeyboardInterrupt:
            tell("sage-flow: interrupted")
            code = INTERRUPTED
        except SystemExit as exit_:  # of argparse, which has printed its help into the buffer of stdout
            with contextlib.suppress(OSError):  # which is remembered
                stdout.flush()
            if stdout.fault is None:
                raise
            code = exit_.code if isinstance(exit_.code, int) else FAILED
        except BrokenPipeError as error:  # who reads the output, such as `head`, has had enough
            return _cannot_print(error, OK)
        except OSError as error:
            if error is not stdout.fault:
                raise
    return code if stdout.fault is None else _cannot_print(stdout.fault, code)


def _do(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    code: int = arguments.command(arguments)
    return code


def _cannot_print(error: OSError, code: int) -> int:
    """The exit code of a command that did its work, with `code`, and could not print what it has to say."""
    if code == OK and not isinstance(error, BrokenPipeError):
        tell(f"sage-flow: error: cannot write to stdout: {error.strerror}")
    discard_stdout()
    return code or FAILED


def run_file(file: str) -> int:
    """Do `sage-flow run FILE` with the arguments of this program, so that a job file is a program, too.

    Put these lines at the top of a job file, before it imports its operators: then `python jobs/flights.py` does
    what `sage-flow run jobs/flights.py` does, and nothing of the file is defined twice.

        if __name__ == "__main__":
            from sage_flow.cli import run_file

            raise SystemExit(run_file(__file__))
    """
    return main(["run", file, *sys.argv[1:]])


# -- arguments ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sage-flow",
        description="Run dataflow pipelines.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sage-flow {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = _add_job_command(commands, "run", _run, "run a job file to its end")
    run.add_argument("--quiet", action="store_true", help="print errors and nothing else")
    run.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show the progress on stderr; default: if that is a terminal",
    )
    run.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="export metrics for Prometheus on this port of this machine while the job runs; 0: any free one",
    )
    run.add_argument("--dashboard", action="store_true", help="show the job in a browser while it runs")
    placement.add_run_options(run)
    add_checkpoint_options(run)
    _add_job_command(commands, "explain", _explain, "print the plan of a job file as text")
    _add_job_command(commands, "draw", _draw, "print the plan of a job file as a Mermaid flowchart")
    _add_inspection(commands, "channels", "show what the channels of a running job hold")
    _add_inspection(commands, "services", "show the calls of the services of a running job")
    _add_inspection(commands, "stack", "show the lines of user code that a running job is in")
    add_checkpoint_commands(commands, _add_inspection)
    add_dashboard(commands)
    cluster_commands.add_commands(commands)
    new = commands.add_parser("new", help="start a project", description="Start a project in a new folder.")
    new.add_argument("project", metavar="PROJECT", help="the folder to make; its name is the project's")
    new.set_defaults(command=_new)
    return parser


def _add_inspection(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary.capitalize()}, on this machine, of this user; or on a cluster."
    )
    parser.add_argument(
        "job", metavar="JOB", nargs="?", help="its name or the id of its process; default: the only one that runs here"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="look on this cluster, as `sage-flow status` does")
    parser.add_argument("--namespace", default="sage_flow", metavar="NAME", help="of the job on the cluster")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=_inspect, what=name)
    return parser


def _add_job_command(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=_JOB_EXAMPLE.format(command=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("jobfile", metavar="JOBFILE", help="a Python file with build(env, options)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the job; may be repeated"
    )
    parser.add_argument(
        "--parallelism", type=int, default=1, metavar="N", help="subtasks per operator that does not say; default 1"
    )
    parser.set_defaults(command=command)
    return parser


# -- commands -------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    progress = False if arguments.quiet and arguments.progress is None else arguments.progress
    try:
        job, options = _load(arguments)
        env = _written(job, options, placement.environment(job, arguments))
        _begin_logging(env.name)
        apply_checkpoints(env, arguments)
        is_shown = not arguments.quiet and arguments.progress is not False and env.progress is not False
        with told_checkpoints(is_quiet=arguments.quiet):
            watch = partial(_watched, env.progress if progress is None else progress, arguments)
            result, code = _finish(env, partial(_attended, job, options, watch), is_shown)
    except Exception as error:
        return fail(error, in_use=True)
    if result is None or arguments.quiet:
        return code
    try:
        _report(job, result, options)
    except KeyboardInterrupt:
        tell(f"sage-flow: interrupted; job {env.name!r} is {result.status}")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        return fail(error)
    return code


def _begin_logging(job: str) -> None:
    """Log as the environment says; if it says nothing, as Python does. Raises PipelineError for wrong settings."""
    from sage_flow.executors.log_lines import apply_settings, has_settings, log_lines

    if has_settings():
        log_lines(job)
    else:
        apply_settings()


def _explain(arguments: argparse.Namespace) -> int:
    return _print_plan(arguments, lambda env: env.explain() + "\n")


def _draw(arguments: argparse.Namespace) -> int:
    return _print_plan(arguments, lambda env: env.draw())


def _print_plan(arguments: argparse.Namespace, text_of: Callable[[Environment], str]) -> int:
    from sage_flow.environment import LocalEnvironment

    try:
        job, options = _load(arguments)
        env = _written(job, options, LocalEnvironment(job.name, arguments.parallelism))
        text = text_of(env)
    except Exception as error:
        return fail(error, in_use=True)
    print(text, end="")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from sage_flow.cli.inspection import statistics_text
    from sage_flow.cli.stacks import stacks_text
    from sage_flow.executors.running_jobs import find_job

    if arguments.address is not None:
        return cluster_commands.inspect(arguments)
    try:
        job = find_job(arguments.job)
        if arguments.what == "checkpoints":
            shown = told_by_job(arguments, job.checkpoints(), name=job.name, process=job.pid)
        elif arguments.what == "stack":
            shown = stacks_text(arguments, job.stacks(), name=job.name, process=job.pid)
        else:
            shown = statistics_text(arguments, job.ask(), name=job.name, process=job.pid)
    except Exception as error:
        if arguments.what == "checkpoints":
            add_notes(error, ["what jobs have stored is shown, whether they run or not, by --checkpoints URL"])
        return fail(error, in_use=True)
    print(shown)
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from sage_flow.cli.scaffold import create_project

    try:
        files = create_project(arguments.project)
    except Exception as error:
        return fail(error, in_use=True)
    print(f"made {arguments.project}:", *files, sep="\n  ")
    print(f"\ngo on with:\n  cd {arguments.project}\n  sage-flow run jobs/example.py\n  python -m pytest")
    return 0


def _load(arguments: argparse.Namespace) -> tuple[JobFile, Any]:
    """Load the job file, make its options."""
    from sage_flow.cli.jobfile import load_job

    job = load_job(arguments.jobfile)
    return job, job.options(arguments.option)


def _written(job: JobFile, options: Any, env: Environment) -> Environment:
    """Let the job write its pipeline."""
    job.build_pipeline(env, options)
    return env


@contextlib.contextmanager
def _attended(
    job: JobFile,
    options: Any,
    watched: Callable[[JobHandle], contextlib.AbstractContextManager[None]],
    handle: JobHandle,
) -> Iterator[None]:
    """Call what the job file wants to be called when the job runs, and watch the job while the block runs."""
    job.begin(handle, options)
    with watched(handle):
        yield


@contextlib.contextmanager
def _watched(progress: bool | None, arguments: argparse.Namespace, job: JobHandle) -> Iterator[None]:
    """Show a job as its program was asked to, while the block runs."""
    from sage_flow.cli.metrics import watching

    with contextlib.ExitStack() as stack:
        if arguments.metrics_port is not None:
            from sage_flow.metrics.prometheus import exported

            tell(f"metrics: http://127.0.0.1:{stack.enter_context(exported(job, arguments.metrics_port))}/metrics")
        if arguments.dashboard:
            stack.enter_context(beside(placement.cluster_of(job)))
        stack.enter_context(watching(job, progress))
        yield


def _finish(
    env: Environment, watched: Callable[[JobHandle], contextlib.AbstractContextManager[None]], announces: bool
) -> tuple[JobResult | None, int]:
    """Run the job to its end; return its result if it has finished, and the exit code."""
    from sage_flow.cli.stopping import exit_code, how_to_continue, stoppable
    from sage_flow.job import JobStatus

    with stoppable(env.submit, announces=announces) as (job, signals):
        try:
            with watched(job):
                result = job.result()
        except BaseException as failure:  # also SystemExit of user code, which ends the job and not this program
            if isinstance(failure, KeyboardInterrupt) and not job.status.is_final:
                raise
            return None, fail(failure)
    has_report = result.status is JobStatus.FINISHED  # that of a job which goes on later would be half a report
    if signals.came:
        return result if has_report else None, exit_code(signals, result.status)
    if result.status is JobStatus.CANCELLED:  # by somebody else
        tell(f"sage-flow: job {job.name!r} was cancelled")
        return None, FAILED
    if result.status is JobStatus.STOPPED:  # by somebody else, too
        tell(how_to_continue(job.name))
        return None, OK
    return result, OK


# -- output ---------------------------------------------------------------------------------------------------


def _report(job: JobFile, result: JobResult, options: Any) -> None:
    if not job.tell(result, options):
        print(_table_of_counts(result))
        return
    for what, counts in (("skipped", result.skipped), ("dead letters", result.dead_letters)):
        if counts:
            tell(f"{what}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
    for line in _late_lines(result):
        tell(line)


def _late_lines(result: JobResult) -> list[str]:
    """What is to be said of late records, and how to lose none."""
    return [
        f"late records of {name}: {count:,}, up to {duration_text(result.late_by_ms[name])} behind the watermark;"
        " a max_out_of_order that is longer by that would have kept them all"
        for name, count in result.late_records.items()
    ]


def _table_of_counts(result: JobResult) -> str:
    titles = ["records", *["skipped"] * bool(result.skipped), *["dead letters"] * bool(result.dead_letters)]
    table = result.table()
    width = max(len(name) for name in ["operator", *(row[0] for row in table)])
    lines = ["  ".join([f"{'operator':<{width}}", *(f"{title:>12}" for title in titles)])]
    for name, records, skipped, letters in table:
        numbers = [records, *[skipped] * bool(result.skipped), *[letters] * bool(result.dead_letters)]
        lines.append("  ".join([f"{name:<{width}}", *(f"{number:>12,}" for number in numbers)]))
    lines += _late_lines(result)
    return "\n".join(lines)
