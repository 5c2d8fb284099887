"""The command `sage-flow`: run, explain and draw job files, look at running jobs, start a project."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sage_flow._version import __version__
from sage_flow.interrupts import interrupts_held

if TYPE_CHECKING:
    from sage_flow.environment import LocalEnvironment
    from sage_flow.job import JobHandle, JobResult
    from sage_flow.jobfile import JobFile

__all__ = ["main", "run_file"]

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130

_EXAMPLE = """\
example:
  sage-flow new my_project
  cd my_project
  sage-flow run jobs/example.py --option top=5
"""

_JOB_EXAMPLE = """\
A job file is a Python file with build(env, options), which writes the pipeline, and if it likes
report(result, options), which prints the outcome. The fields of the frozen dataclass that annotates
`options` are the options; --option with a name that is not one of them lists them.

example:
  sage-flow {command} jobs/flights.py --option top=5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 1 for an error of the job's code, 2 for a wrong use, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _tell("sage-flow: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # who reads the output, such as `head`, has had enough
        _discard_stdout()
        return _FAILED


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
    _add_job_command(commands, "explain", _explain, "print the plan of a job file as text")
    _add_job_command(commands, "draw", _draw, "print the plan of a job file as a Mermaid flowchart")
    _add_inspection(commands, "channels", "show what the channels of a running job hold")
    _add_inspection(commands, "services", "show the calls of the services of a running job")
    new = commands.add_parser("new", help="start a project", description="Start a project in a new folder.")
    new.add_argument("project", metavar="PROJECT", help="the folder to make; its name is the project's")
    new.set_defaults(command=_new)
    return parser


def _add_inspection(commands: Any, name: str, summary: str) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary.capitalize()}, on this machine, of this user."
    )
    parser.add_argument(
        "job", metavar="JOB", nargs="?", help="its name or the id of its process; default: the only one that runs"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=_inspect, what=name)


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
        job, options, env = _prepare(arguments)
        with interrupts_held() as release:
            result, code = _finish(env.submit(), env.progress if progress is None else progress, release)
    except Exception as error:
        return _fail(error, in_use=True)
    if result is None or arguments.quiet:
        return code
    try:
        _report(job, result, options)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(error)
    return code


def _explain(arguments: argparse.Namespace) -> int:
    return _print_plan(arguments, lambda env: env.explain() + "\n")


def _draw(arguments: argparse.Namespace) -> int:
    return _print_plan(arguments, lambda env: env.draw())


def _print_plan(arguments: argparse.Namespace, text_of: Callable[[LocalEnvironment], str]) -> int:
    try:
        _, _, env = _prepare(arguments)
        text = text_of(env)
    except Exception as error:
        return _fail(error, in_use=True)
    print(text, end="")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from sage_flow.inspection import channels_text, services_text
    from sage_flow.running_jobs import find_job

    try:
        statistics = find_job(arguments.job).ask()
    except Exception as error:
        return _fail(error, in_use=True)
    if arguments.json:
        import json

        names = ("channels", "queues") if arguments.what == "channels" else ("services",)
        shown = {name: statistics[name] for name in (*names, "stories", "unresponsive")}
        print(json.dumps(shown, indent=2))
    else:
        print((channels_text if arguments.what == "channels" else services_text)(statistics))
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from sage_flow.scaffold import create_project

    try:
        files = create_project(arguments.project)
    except Exception as error:
        return _fail(error, in_use=True)
    print(f"made {arguments.project}:", *files, sep="\n  ")
    print(f"\ngo on with:\n  cd {arguments.project}\n  sage-flow run jobs/example.py\n  python -m pytest")
    return 0


def _prepare(arguments: argparse.Namespace) -> tuple[JobFile, Any, LocalEnvironment]:
    """Load the job file, make its options, let it write its pipeline."""
    from sage_flow.environment import LocalEnvironment
    from sage_flow.jobfile import load_job

    job = load_job(arguments.jobfile)
    options = job.options(arguments.option)
    env = LocalEnvironment(job.name, arguments.parallelism)
    job.build_pipeline(env, options)
    return job, options, env


def _finish(
    handle: JobHandle, progress: bool | None, release_interrupts: Callable[[], None]
) -> tuple[JobResult | None, int]:
    """Wait for the end of the job; return its result if it has finished, and the exit code."""
    from sage_flow.metrics import watching

    with handle:
        try:
            release_interrupts()
            with watching(handle, progress):
                return handle.result(), 0
        except KeyboardInterrupt:
            _tell("sage-flow: interrupted, cancelling the job")
            handle.cancel("interrupted")
            _tell_end_of_cancelled(handle)
            return None, _INTERRUPTED
        except BaseException as failure:  # also SystemExit of user code, which ends the job and not this program
            return None, _fail(failure)


def _tell_end_of_cancelled(handle: JobHandle) -> None:
    try:
        result = handle.result()
    except Exception as error:  # of closing, or of the job just before
        _fail(error)
        return
    _tell(f"sage-flow: job {handle.name!r} is {result.status}")
    if result.stuck:
        _tell("code that did not come back:", *(f"  {where}" for where in result.stuck))


# -- output ---------------------------------------------------------------------------------------------------


def _report(job: JobFile, result: JobResult, options: Any) -> None:
    if not job.tell(result, options):
        print(_table_of_counts(result))
        return
    for what, counts in (("skipped", result.skipped), ("dead letters", result.dead_letters)):
        if counts:
            _tell(f"{what}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")


def _table_of_counts(result: JobResult) -> str:
    columns = [("records", result.counts), ("skipped", result.skipped), ("dead letters", result.dead_letters)]
    shown = [(title, counts) for title, counts in columns if counts]
    names = max(map(len, ["operator", *result.counts]))
    lines = ["  ".join([f"{'operator':<{names}}", *(f"{title:>12}" for title, _ in shown)])]
    for name in result.counts:
        cells = (f"{counts.get(name, 0):>12,}" for _, counts in shown)
        lines.append("  ".join([f"{name:<{names}}", *cells]))
    return "\n".join(lines)


def _fail(error: BaseException, *, in_use: bool = False) -> int:
    """Tell the error, return the exit code. `in_use`: an error of sage_flow itself is one of how it is used.

    Raises the error again if it is a bug of sage_flow: that needs its whole traceback.
    """
    from sage_flow.errors import InternalError, PipelineError, SageFlowError
    from sage_flow.runtime.failure import describe, user_frames

    frames = user_frames(error.__traceback__)
    is_of_user = bool(frames or error.__cause__ or getattr(error, "__notes__", ()))
    if isinstance(error, InternalError) or not (is_of_user or isinstance(error, SageFlowError)):
        raise error
    if isinstance(error, SageFlowError) and not frames:
        _tell(f"sage-flow: error: {error}", *getattr(error, "__notes__", ()))
    else:
        _tell(*describe(error))
    return _USAGE if isinstance(error, SageFlowError if in_use else PipelineError) else _FAILED


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _discard_stdout() -> None:
    """What is still buffered goes nowhere, else the interpreter complains when it flushes at its end."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
