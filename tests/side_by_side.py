"""Run the suite as two processes of pytest at the same time: what uses a cluster of Ray, and the rest.

    python tests/side_by_side.py [OPTIONS OF PYTEST]

Tests with Ray wait most of the time, so the others fit beside them. The output of the first process is printed while it
runs; that of the second one follows when the first has ended. The exit code is 0 if both have succeeded. Ctrl-C and
SIGTERM end both processes, and what they have started.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

GROUPS = {"ray": "(ray or proof) and not soak", "rest": "not ray and not proof and not soak"}
"""The marks that each process selects. A test belongs to exactly one of them, or to `make soak`.

The proof by simulation goes with Ray only because both processes then take about the same time.
"""

_LOOK_S = 0.2
_END_S = 60.0  # for the fixtures of an interrupted pytest, which end clusters of Ray


@dataclass
class Part:
    """One process, in a session of its own: what it starts is in its process group."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """A file, not a pipe: a pipe stays open as long as a process lives that a test has left behind."""

    def copy(self, to: IO[bytes]) -> None:
        """Write to `to` what has come since the last call."""
        to.write(self.output.read())
        to.flush()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run(commands: Mapping[str, Sequence[str]], to: IO[bytes]) -> int:
    """Run all commands at once; print what they print, one after another, each as soon as its turn comes.

    Return 0 if each of them ends with exit code 0, else 1.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sft-"))
        parts: list[Part] = []
        try:
            for name, command in commands.items():
                parts.append(_start(name, command, folder, stack))
            for part in parts:
                while part.process.poll() is None:
                    part.copy(to)
                    time.sleep(_LOOK_S)
                part.copy(to)
                to.write(f"--- {part.name}: {_told(part.process.returncode)}\n".encode())
        finally:
            _end(parts)
            for part in parts:  # after a signal: what has failed until then
                part.copy(to)
        return int(any(part.process.returncode for part in parts))


def _start(name: str, command: Sequence[str], folder: str, stack: contextlib.ExitStack) -> Part:
    path = os.path.join(folder, name)
    with open(path, "wb") as written:
        written.write(f"--- {name}: {shlex.join(command)}\n".encode())
        written.flush()
        process = subprocess.Popen(command, stdout=written, stderr=written, start_new_session=True)
    return Part(name, process, stack.enter_context(open(path, "rb")))


def _end(parts: Sequence[Part]) -> None:
    """As Ctrl-C ends them; by force what is left then. Another signal does not wait."""
    try:
        running = [part for part in parts if part.process.poll() is None]
        for part in running:
            part.send(signal.SIGINT)
        for part in running:
            part.process.wait(_END_S)
    except (subprocess.TimeoutExpired, Interrupted):
        pass
    finally:
        for part in parts:
            part.send(signal.SIGKILL)
            part.process.wait()


def _told(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def commands_with(options: Sequence[str]) -> dict[str, list[str]]:
    """The command of each group. The caches differ: pytest writes there which tests have failed."""
    pytest = [sys.executable, "-m", "pytest", "-q", *options]
    return {name: [*pytest, "-m", marks, "-o", f"cache_dir=.pytest_cache/{name}"] for name, marks in GROUPS.items()}


def main(commands: Mapping[str, Sequence[str]]) -> int:
    """`run` as a program, which signals end; return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        return run(commands, sys.stdout.buffer)
    except Interrupted as told:
        return 128 + told.number


class Interrupted(BaseException):
    """A signal has come."""

    def __init__(self, number: int) -> None:
        self.number = number


def _interrupted(number: int, frame: Any) -> None:
    raise Interrupted(number)


if __name__ == "__main__":
    raise SystemExit(main(commands_with(sys.argv[1:])))
