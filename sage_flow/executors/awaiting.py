"""Calls of services in coroutines: what a coroutine awaits until a call has its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_flow.executors.calling import CallingPort
    from sage_flow.runtime.calls import OpenCall

__all__ = ["until_outcome"]


def until_outcome(port: CallingPort, call: OpenCall) -> Generator[Any, None, None]:
    """See `CallPort.until_outcome`."""
    loop = asyncio.get_running_loop()
    if port.poll(call) is None:
        port.flush()
    while port.poll(call) is None:  # the deadline may have moved, because the service was still opening
        yield from _woken(port, call, loop)


def _woken(port: CallingPort, call: OpenCall, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
    """Wait for the outcome of the call, or for its present deadline."""
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake_from_anywhere() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    port.on_outcome(call, wake_from_anywhere)
    timer = loop.call_later(max(0.0, call.deadline - port.now()), wake)
    try:
        yield from waiter
    except asyncio.CancelledError:
        port.cancel(call)
        raise
    finally:
        timer.cancel()
