"""Records onto the screen: what the program prints."""

from __future__ import annotations

import errno
import sys
from typing import Any, Final

from sage_flow.cli.console import lose_stdout
from sage_flow.functions import Sink

__all__ = ["PrintSink"]

_NOBODY_READS: Final = (errno.EPIPE, errno.EIO, errno.EBADF)
"""The reader of a pipe has gone; a terminal has; the file was closed."""


class PrintSink(Sink[Any]):
    """Prints each record as one line after `prefix`.

    A program without stdout prints nothing. When nobody reads it any more - `| head`, a terminal that was closed -, the
    rest is not printed, and the other sinks go on; `sage-flow run` and `execute()` then drain the job. What else keeps
    it from being written, such as a full disk, fails the job.
    """

    default_name = "print"
    default_parallelism = 1

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._is_lost = False

    def at_a_stop(self) -> str:
        return "prints each record at once"

    def write(self, value: Any) -> None:
        if self._is_lost or sys.stdout is None:
            return
        text = f"{self._prefix}{value}\n"
        try:
            sys.stdout.write(text)  # one call: lines of several subtasks do not mix
        except OSError as error:
            self._lose(error)
        except ValueError:
            if not sys.stdout.closed:
                raise
            self._is_lost = True

    def close(self) -> None:
        """Write what is buffered while the job can still fail."""
        if self._is_lost or sys.stdout is None or sys.stdout.closed:
            return
        try:
            sys.stdout.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno not in _NOBODY_READS:
            raise OSError(error.errno, f"cannot print to stdout: {error.strerror}") from error
        self._is_lost = True
        lose_stdout()
