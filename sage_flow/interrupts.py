"""Ctrl-C while a job starts: it has to wait until there is something to cancel."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["interrupts_held"]


@contextlib.contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Ctrl-C has to wait until the function that this gives is called: a half started job cannot be cancelled."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    came: list[int] = []

    def release() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
