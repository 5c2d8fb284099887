"""What commands tell: errors on stderr, and the exit codes."""

from __future__ import annotations

import atexit
import contextlib
import sys

__all__ = ["FAILED", "INTERRUPTED", "NO_CLUSTER", "OK", "USAGE", "discard_stdout", "fail", "tell"]

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
            atexit.register(_leave, NO_CLUSTER)
        return NO_CLUSTER
    return USAGE if isinstance(error, SageFlowError if in_use else PipelineError) else FAILED


def _leave(code: int) -> None:
    """End this program before Ray's own end, registered earlier, which waits for the cluster without a limit."""
    import os

    with contextlib.suppress(OSError, ValueError):  # closed, or its reader gone
        sys.stdout.flush()
    os._exit(code)


def tell(*lines: str) -> None:
    """Print on stderr."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def discard_stdout() -> None:
    """What is still buffered goes nowhere, else the interpreter complains when it flushes at its end."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
