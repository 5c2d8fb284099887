"""Wakes a thread that polls file descriptors."""

from __future__ import annotations

import os

__all__ = ["Waker"]


class Waker:
    """A pipe. `poll` of `fileno()` returns after `wake()`. The pipe is closed with this object."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The file descriptor to poll."""
        return self._read

    def wake(self) -> None:
        """From any thread."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full, so the thread wakes anyway

    def clear(self) -> None:
        """Called by the thread that was woken."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)
