"""What wakes a thread that waits for file descriptors."""

from __future__ import annotations

import os

__all__ = ["Waker"]


class Waker:
    """A pipe: `poll` on `fileno()` returns after `wake()`, once. Its ends go with it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """What to wait for."""
        return self._read

    def wake(self) -> None:
        """From any thread."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is full, and so wakes anyway

    def clear(self) -> None:
        """By who was woken."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)
