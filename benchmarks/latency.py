"""How long one thing takes: the start of a process with a job in it, a call of a service."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figure, Timed
from sage_flow import LocalEnvironment, RuntimeContext

__all__ = ["CASES"]

# -- start ----------------------------------------------------------------------------------------------------

_JOB = """
import json
from sage_flow import LocalEnvironment
env = LocalEnvironment("start")
env.from_collection(range({size})).map(lambda n: n * n).collect("squares")
print(json.dumps(env.execute().collected["squares"]))
"""


def python(program: str) -> str:
    """Run a program in an interpreter of its own; return what it prints."""
    return subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout


def pass_by_hand(size: int) -> list[int]:
    python("pass")
    return [n * n for n in range(size)]


def start(size: int) -> list[int]:
    squares: list[int] = json.loads(python(_JOB.format(size=size)))
    return squares


def import_only(size: int) -> list[int]:
    python("import sage_flow")
    return [n * n for n in range(size)]


# -- call -----------------------------------------------------------------------------------------------------

_WARM_UP = 500


class Echo:
    """The service: gives back what it gets."""

    def echo(self, number: int) -> int:
        return number


class Handover:
    """A number there and back between two threads, over one bare Condition."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._asked: int | None = None
        self._answered: int | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def call(self, number: int) -> int:
        with self._condition:
            self._asked, self._answered = number, None
            self._condition.notify_all()
            while self._answered is None:
                self._condition.wait()
            return self._answered

    def stop(self) -> None:
        with self._condition:
            self._asked = -1
            self._condition.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        with self._condition:
            while True:
                while self._asked is None:
                    self._condition.wait()
                if self._asked < 0:
                    return
                self._asked, self._answered = None, self._asked
                self._condition.notify_all()


def timed_calls(call: Callable[[int], int], size: int) -> Timed:
    """Call `size` times after a warm-up, and take the time of each."""
    for number in range(_WARM_UP):
        call(number)
    clock = time.perf_counter
    times: list[float] = []
    total = 0
    began = clock()
    for number in range(size):
        before = clock()
        total += call(number)
        times.append(clock() - before)
    return Timed(total, statistics.median(times), size / (clock() - began))


def handover(size: int) -> Timed:
    handover = Handover()
    try:
        return timed_calls(handover.call, size)
    finally:
        handover.stop()


def service_call(size: int) -> Timed:
    def call_many(size: int, ctx: RuntimeContext) -> Timed:
        return timed_calls(partial(ctx.call_service, "echo", method="echo"), size)

    env = LocalEnvironment("call")
    env.register_service("echo", Echo)
    env.from_collection([size]).map(call_many).collect("timed")
    timed: Timed = env.execute(progress=False).collected["timed"][0]
    return timed


def _size(size: int, folder: Path) -> Any:
    return size


CASES = (
    Case(
        "start",
        "a process with a job of 10 records, against `python -c pass`",
        10,
        10,
        _size,
        pass_by_hand,
        start,
        figure=Figure.TIMES,
        bar=15.0,
        clock="wall",
        rounds=11,
    ),
    Case(
        "import",
        "`import sage_flow` in a process, against `python -c pass`",
        10,
        10,
        _size,
        pass_by_hand,
        import_only,
        figure=Figure.TIMES,
        clock="wall",
        rounds=11,
    ),
    Case(
        "call",
        "call of a service in the same process, against a Condition between two threads (median call)",
        5000,
        50,
        _size,
        handover,
        service_call,
        figure=Figure.TIMES,
        bar=4.0,
        clock="wall",
        rounds=7,
        same_process=True,
    ),
)
