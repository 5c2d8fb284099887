"""The threads and coroutines that run the user code of one subtask."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from sage_flow.executors.positions import thread_frames, thread_place
from sage_flow.executors.shell import Shell
from sage_flow.runtime.port import Task
from sage_flow.runtime.report import ThreadReport
from sage_flow.runtime.sampling import Samples, operator_in
from sage_flow.runtime.subtask import READS
from sage_flow.runtime.work_time import WorkClock, WorkTimes, mean_of

if TYPE_CHECKING:
    from sage_flow.executors.coroutines import CoroutineRunner

__all__ = ["Activations"]

_LONG_S: Final = 1.0
"""A call of user code that takes longer is told without being asked for."""


class Activations:
    """Each thread registers itself; the event loop is made at the first coroutine."""

    def __init__(self, shell: Shell, name: str, lock: AbstractContextManager[Any], head: str) -> None:
        """`head`: the name of the first operator, which reads the source if there is one."""
        self._shell = shell
        self._name = name
        self._lock = lock
        self._own: int | None = None
        self._threads: list[int] = []
        self._clocks: dict[int, WorkClock] = {}  # by thread
        self._samples = Samples()
        self._readers = {READS: head}
        self._coroutines: CoroutineRunner | None = None
        self.have_failed = False
        """The subtask has failed. What its other activations give from now on comes of unwinding."""

    def enter(self) -> None:
        """The calling thread is the subtask's own."""
        self._own = threading.get_ident()
        self._register(self._own)

    def enter_further(self) -> None:
        """The calling thread answers requests of the subtask, too."""
        self._register(threading.get_ident())

    def _register(self, thread: int) -> None:
        self._threads.append(thread)
        self._clocks[thread] = WorkClock(self._shell.now())

    def clock(self) -> WorkClock | None:
        """Return the clock of the calling thread, None if that is a thread of user code."""
        return self._clocks.get(threading.get_ident())

    def times(self) -> WorkTimes:
        """Return how the threads spend their time, on average."""
        now = self._shell.now()
        return mean_of([clock.times(now) for clock in list(self._clocks.values())])

    def sampled(self) -> dict[str, int]:
        """Look which operator the subtask's own thread is at, if it works; return how often each was found so far."""
        own = self._own
        if own is not None and self._clocks[own].doing(self._shell.now())[0] is None:
            self._samples.add(operator_in(sys._current_frames().get(own), self._readers))
        return self._samples.told()

    def begin_step(self) -> None:
        """The calling thread begins a further slice of records, or a request."""
        self._clocks[threading.get_ident()].step(self._shell.now())

    def reports(self, now: float, *, all_of_them: bool) -> tuple[ThreadReport, ...]:
        """Return where the threads are that have been in user code for long; or all, and the coroutines."""
        found = []
        for number, (thread, clock) in enumerate(list(self._clocks.items()), 1):
            wait, for_s = clock.doing(now)
            if not all_of_them and (wait is not None or for_s < _LONG_S):
                continue
            frames = thread_frames(thread)
            if all_of_them or frames:
                doing = "busy" if wait is None else wait.name.lower()
                found.append(ThreadReport(f"thread {number}", doing, round(for_s, 3), frames))
        if all_of_them and self._coroutines is not None:
            found += [ThreadReport(name, "coroutine", None, frames) for name, frames in self._coroutines.frames()]
        return tuple(found)

    def is_own(self) -> bool:
        """Whether the calling thread is the subtask's own."""
        return threading.get_ident() == self._own

    def start(self, awaitable: Awaitable[Any], timeout_s: float | None, on_done: Callable[[], None]) -> Task:
        """Await something in the event loop; see `Port.start`."""
        with self._lock:
            if self._coroutines is None:
                from sage_flow.executors.coroutines import CoroutineRunner

                self._coroutines = CoroutineRunner(self._shell, f"{self._name} event loop")
        return self._coroutines.start(awaitable, timeout_s, on_done)

    def stop_tasks(self) -> None:
        """End the coroutines that still run, and their event loop."""
        if self._coroutines is not None:
            self._coroutines.stop()

    def places(self) -> tuple[str, ...]:
        """The lines of user code that the threads and coroutines are in, each once."""
        places = [place for thread in self._threads if (place := thread_place(thread)) is not None]
        if self._coroutines is not None:
            places += self._coroutines.places()
        return tuple(dict.fromkeys(places))
