"""Work in another process, at the other end of a pipe."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

__all__ = ["Body", "OtherProcess", "Work"]

Work = Callable[[int], object]
"""Carries out an order."""
Body = Callable[..., AbstractContextManager[tuple[Any, Work]]]
"""What runs there: gives what the other side has to know, and what carries out its orders."""


class OtherProcess:
    """Runs `body(*args)`; `hello` is what it gave. Orders are carried out one after the other."""

    def __init__(self, body: Body, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_carry_out, args=(theirs, body, args))
        self._process.start()
        theirs.close()
        self.hello = self._pipe.recv()

    def begin(self, order: int) -> None:
        """Order, and go on."""
        self._pipe.send(order)

    def end(self) -> float:
        """Wait until the order is carried out; return the seconds of CPU of that process so far."""
        cpu_s: float = self._pipe.recv()
        return cpu_s

    def cpu_s(self) -> float:
        """Seconds of CPU of that process so far."""
        self.begin(0)
        return self.end()

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join()


def _carry_out(pipe: Any, body: Body, args: tuple[Any, ...]) -> None:
    with body(*args) as (hello, work):
        pipe.send(hello)
        while True:
            try:
                order = pipe.recv()
            except EOFError:
                return
            work(order)
            pipe.send(time.process_time())
