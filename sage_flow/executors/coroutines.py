"""Coroutines of user code: an asyncio event loop in an activation of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from sage_flow.executors.positions import coroutine_frames, coroutine_places, thread_frames, thread_place
from sage_flow.executors.shell import Shell

__all__ = ["CoroutineRunner"]

_TO_END_S: Final = 1.0
"""For what a coroutine does when it is cancelled because its time has passed."""


class CoroutineRunner:
    """Runs the coroutines given to `start`, until `stop`."""

    def __init__(self, shell: Shell, name: str) -> None:
        self._loop = shell.new_event_loop()
        self._condition = shell.condition()
        self._lock = self._condition.lock
        self._stops = self._is_over = False
        self._thread: int | None = None
        shell.spawn(name, self._run)

    def start(
        self, awaitable: Awaitable[Any], timeout_s: float | None, on_done: Callable[[], None]
    ) -> concurrent.futures.Future[Any]:
        """Run it; `on_done` is called in the loop's thread when the future that is returned is done."""
        future = asyncio.run_coroutine_threadsafe(_within(awaitable, timeout_s), self._loop)
        future.add_done_callback(lambda _: on_done())
        return future

    def stop(self) -> None:
        """Cancel what still runs, and wait until the loop has ended."""
        with self._lock:
            self._stops = True
            if not self._is_over:
                self._loop.call_soon_threadsafe(self._loop.stop)
            while not self._is_over:
                self._condition.wait()

    def places(self) -> list[str]:
        """The lines of user code that its coroutines are in."""
        if self._is_over:
            return []
        running = thread_place(self._thread)
        return [*([] if running is None else [running]), *coroutine_places(self._loop)]

    def frames(self) -> list[tuple[str, tuple[str, ...]]]:
        """The names and lines of its coroutines, and of the thread that runs them if it is in one of them."""
        if self._is_over or self._thread is None:
            return []
        running = thread_frames(self._thread)
        return [*([("event loop", running)] if running else []), *coroutine_frames(self._loop)]

    def _run(self) -> None:
        loop = self._loop
        self._thread = threading.get_ident()
        asyncio.set_event_loop(loop)
        try:
            while not self._stops:
                with suppress(SystemExit, KeyboardInterrupt):  # of user code; the future has it, too
                    loop.run_forever()
            ending = loop.create_task(_end_all())
            while not ending.done():
                with suppress(SystemExit, KeyboardInterrupt):
                    loop.run_until_complete(ending)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            with self._lock:
                self._is_over = True
                self._condition.notify_all()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _within(awaitable: Awaitable[Any], timeout_s: float | None) -> Any:
    if timeout_s is None:
        return await awaitable
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        is_late = not task.done()
        if is_late:  # `asyncio.wait_for` would wait for ever for one that swallows its cancellation
            task.cancel()
            await asyncio.wait({task}, timeout=_TO_END_S)
    finally:
        task.cancel()
    if not is_late:
        return task.result()
    task.add_done_callback(_look_at)
    if task.done():
        raise TimeoutError(f"not done within {timeout_s:g} s")
    raise TimeoutError(f"not done within {timeout_s:g} s, and still running although it was cancelled")


def _look_at(task: asyncio.Future[Any]) -> None:
    """Fetch the error of a task for which no code waits; otherwise asyncio would print it."""
    if not task.cancelled():
        task.exception()
