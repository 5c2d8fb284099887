"""Coroutines of user code: an asyncio event loop in an activation of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sage_flow.executors.shell import Shell

__all__ = ["EventLoop"]


class EventLoop:
    """Runs what `start` is given until `stop`."""

    def __init__(self, shell: Shell, name: str) -> None:
        self._loop = shell.new_event_loop()
        self._condition = shell.condition()
        self._lock = self._condition.lock
        self._stops = self._is_over = False
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

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            while not self._stops:
                with suppress(SystemExit, KeyboardInterrupt):  # of user code; the future has it, too
                    loop.run_forever()
            loop.run_until_complete(_end_all())
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
    try:
        return await asyncio.wait_for(awaitable, timeout_s)
    except asyncio.TimeoutError as error:
        raise TimeoutError(f"not done within {timeout_s:g} s") from error
