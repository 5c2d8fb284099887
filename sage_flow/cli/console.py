"""What commands tell: errors on stderr, and the exit codes."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

__all__ = [
    "FAILED",
    "GuardedStdout",
    "INTERRUPTED",
    "NO_CLUSTER",
    "OK",
    "USAGE",
    "discard_stdout",
    "fail",
    "guarded_stdout",
    "leave_before_ray",
    "lose_stdout",
    "occupy_standard_files",
    "on_lost_stdout",
    "tell",
]

OK = 0
FAILED = 1
"""The job has failed, or its code."""
USAGE = 2
NO_CLUSTER = 3
INTERRUPTED = 130


def fail(error: BaseException, *, in_use: bool = False) -> int:
    """Tell the error, return the exit code. `in_use`: an error of sage_flow itself is one of how it is used.

    Raises the error again if it is a bug of sage_flow: that needs its whole traceback.
    """
    from sage_flow.errors import ClusterError, InternalError, PipelineError, SageFlowError
    from sage_flow.executors.ray.answers import ClusterSilent
    from sage_flow.runtime.failure import describe, user_frames

    frames = user_frames(error.__traceback__)
    is_of_user = bool(frames or error.__cause__ or getattr(error, "__notes__", ()))
    if isinstance(error, InternalError) or not (is_of_user or isinstance(error, SageFlowError)):
        raise error
    header, *details = describe(error)
    tell(f"sage-flow: error: {error}" if isinstance(error, SageFlowError) and not frames else header, *details)
    if isinstance(error, ClusterError):
        if isinstance(error, ClusterSilent):
            leave_before_ray(NO_CLUSTER)
        return NO_CLUSTER
    return USAGE if isinstance(error, SageFlowError if in_use else PipelineError) else FAILED


def leave_before_ray(code: int) -> None:
    """At the end of this program do not wait for Ray, whose cluster may not answer any more."""
    atexit.register(_leave, code)


def _leave(code: int) -> None:
    """End this program before Ray's own end, registered earlier, which waits for the cluster without a limit."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, it is closed, or its reader gone
        sys.stdout.flush()
    os._exit(code)


def tell(*lines: str) -> None:
    """Print on stderr, where there is one: nobody can be told that it is gone."""
    if sys.stderr is None:  # print would take stdout
        return
    try:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # its reader or its terminal has gone; or it is closed
        pass


# -- stdout ---------------------------------------------------------------------------------------------------


def occupy_standard_files() -> None:
    """Open stdin, stdout and stderr on nothing where they are closed (`>&-`).

    The next file that is opened would get the number, and what a library writes to stdout would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


class GuardedStdout:
    """The program's stdout, which remembers that it could not be written: argparse, for one, passes over that.

    Attributes:
        fault: the latest error of writing.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """As of any file."""
        try:
            return self._file.write(text)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        """As of any file."""
        try:
            self._file.flush()
        except OSError as error:
            self.fault = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def guarded_stdout() -> Iterator[GuardedStdout]:
    """Guard it while the block runs; where there is none, what is printed goes nowhere."""
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if file is None:
            file = stack.enter_context(open(os.devnull, "w"))
        guard = GuardedStdout(file)
        stack.enter_context(contextlib.redirect_stdout(cast("TextIO", guard)))
        yield guard
        with contextlib.suppress(OSError):  # which is remembered
            guard.flush()


def discard_stdout() -> None:
    """What is still buffered goes nowhere, else the interpreter complains when it flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # it is no file of the system
        pass
    finally:
        os.close(nowhere)


@contextlib.contextmanager
def on_lost_stdout(callback: Callable[[], None]) -> Iterator[None]:
    """Call back, by whatever thread finds it out, when nobody reads what the program prints any more."""
    _when_lost.append(callback)
    try:
        yield
    finally:
        _when_lost.remove(callback)


def lose_stdout() -> None:
    """Somebody has found out."""
    for callback in list(_when_lost):
        callback()


_when_lost: list[Callable[[], None]] = []
