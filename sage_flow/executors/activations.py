"""The threads and coroutines that run the user code of one subtask."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sage_flow.executors.positions import thread_place
from sage_flow.executors.shell import Shell
from sage_flow.runtime.port import Task

if TYPE_CHECKING:
    from sage_flow.executors.coroutines import CoroutineRunner

__all__ = ["Activations"]


class Activations:
    """Each thread registers itself; the event loop is made at the first coroutine."""

    def __init__(self, shell: Shell, name: str, lock: AbstractContextManager[Any]) -> None:
        self._shell = shell
        self._name = name
        self._lock = lock
        self._own: int | None = None
        self._threads: list[int] = []
        self._coroutines: CoroutineRunner | None = None
        self.have_failed = False
        """The subtask has failed. What its other activations give from now on comes of unwinding."""

    def enter(self) -> None:
        """The calling thread is the subtask's own."""
        self._own = threading.get_ident()
        self._threads.append(self._own)

    def enter_further(self) -> None:
        """The calling thread answers requests of the subtask, too."""
        self._threads.append(threading.get_ident())

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
