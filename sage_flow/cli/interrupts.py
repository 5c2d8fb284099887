"""Signals that ask a program to stop: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal is closed.

While a job starts and runs they are only noted and raise no exception: a job that is still starting cannot be ended,
and an exception could interrupt the main thread anywhere. `cli/stopping.py` decides what they do to the job.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

__all__ = ["StopSignals", "stop_signals"]

_DEFAULTS: Final = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
"""A program that handles a signal by itself, or ignores it (`nohup`, the background of a shell), goes on doing so."""

_NAMES: Final = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_LAST: Final = 2
"""After so many the signals do again what they did before: a third one ends the program at once."""


class StopSignals:
    """Reasons to stop, in the order in which they came.

    Attributes:
        came: the numbers of the signals so far.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._reasons: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # a signal handler may put into it
        self._before: dict[signal.Signals, Any] = {}

    def next_reason(self) -> str | None:
        """Wait for the next reason to stop, in a few words; None: `end_reasons` was called."""
        return self._reasons.get()

    def end_reasons(self) -> None:
        """Let who waits for reasons go on."""
        self._reasons.put(None)

    def ask(self, reason: str) -> None:
        """Ask for a stop as a signal does; by any thread."""
        self._reasons.put(reason)

    def take(self) -> None:
        """Note the signals from now on, where Python's own handlers are in place. By the main thread only."""
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) == default:
                self._before[number] = signal.signal(number, self._note)

    def take_again(self) -> None:
        """Note them although another library, such as Ray, has replaced the handlers; `give_back` restores those."""
        for number in self._before:
            found = signal.getsignal(number)
            if found is not None and found != self._note:
                self._before[number] = signal.signal(number, self._note)

    def give_back(self) -> None:
        """From now on the signals do what they did before."""
        while self._before:
            number, handler = self._before.popitem()
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def deliver(self) -> None:
        """Do what the first signal would have done to the program, where one came."""
        if not self.came:
            return
        if self.came[0] == signal.SIGINT:
            raise KeyboardInterrupt
        signal.raise_signal(self.came[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.came:
            return  # a terminal that is closed often says so twice, by the kernel and by its shell
        self.came.append(number)
        self._reasons.put(_NAMES[signal.Signals(number)])
        if len(self.came) == _LAST:
            self.give_back()


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Note signals while the block runs; none, where it does not run in the main thread."""
    signals = StopSignals()
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        signals.take()
    try:
        yield signals
    finally:
        if is_main:
            signals.give_back()
