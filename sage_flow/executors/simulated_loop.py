"""asyncio in the simulation: its sleep is a wait of its activation, and its clock is the virtual one."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any

from sage_flow.executors.shell import Condition

__all__ = ["SimulatedEventLoop"]


class SimulatedEventLoop(asyncio.SelectorEventLoop):
    """It runs timers, tasks and calls of services, but no sockets, because they would not be repeatable."""

    def __init__(self, condition: Condition, now: Callable[[], float]) -> None:
        self._sleep = _Sleep(condition)
        self._now = now
        super().__init__(self._sleep)

    def time(self) -> float:
        return self._now()

    def _write_to_self(self) -> None:
        self._sleep.end()


class _Sleep(selectors.BaseSelector):
    """Waits on a condition instead of for files; only the loop's own pipe can be registered."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self._ended = False
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        with self._condition.lock:
            if not self._ended and (timeout is None or timeout > 0):
                self._condition.wait(timeout)
            self._ended = False
        return []

    def end(self) -> None:
        """Wake the loop, from any activation."""
        with self._condition.lock:
            self._ended = True
            self._condition.notify_all()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._keys:
            raise RuntimeError("coroutines in the simulation cannot use sockets or files: they are not deterministic")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys
