"""Functions and services of the jobs that the tests of Ray run; workers import them."""

import os
import signal
import time
from pathlib import Path

from sage_flow import IDLE, Service, Source
from sage_flow.executors.ray.master import _GOODBYE_S

SEEN = []
"""A global of a module that workers import."""


class Ticking(Source):
    """Gives 0, 1, 2 ... without end. `gate`: a file that must be there before it gives more than 10."""

    parallel = False

    def __init__(self, gate=None):
        self._gate = gate
        self._next = 0

    def next_batch(self):
        if self._gate is not None and self._next >= 10 and not Path(self._gate).exists():
            return IDLE
        batch = list(range(self._next, self._next + 10))
        self._next += 10
        return batch


class LongToPickle:
    """Takes longer than the time that a master gives the calls under way when it leaves."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        time.sleep(2 * _GOODBYE_S)
        return LongToPickle, (self.text,)


class Pids(Service):
    """Tells its process."""

    def pid(self):
        return os.getpid()


def note_pid(folder):
    """Return a function that leaves its process id in a file of `folder` and passes the record on."""

    def noting(value):
        Path(folder, str(os.getpid())).touch()
        return value

    return noting


def kill_self_once(flag):
    """Return a function that kills its process at record 5, unless a file says that this has been done."""

    def killing(value):
        if value == 5 and not Path(flag).exists():
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    return killing


def wait_for(condition, timeout_s=60.0):
    """Poll until `condition()` gives something true, and return that."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return found
