"""For tests of progress: a job whose counts a test sets, and a terminal that remembers."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from sage_flow.runtime.report import OperatorCounts

PATIENCE_S = 60


class FakeJob:
    """A job whose counts a test sets."""

    name = "fake"
    status = "RUNNING"

    def __init__(self, **operators: OperatorCounts) -> None:
        self.operators = operators or {"parse": OperatorCounts(1234)}
        self.queued: dict[str, int] = {}

    def metrics(self) -> dict[str, Any]:
        return {"operators": self.operators, "queued": self.queued}


class Terminal(io.StringIO):
    """A terminal that remembers everything, and a way to wait for what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._changed:
            length = super().write(text)
            self._changed.notify_all()
        return length

    def await_text(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.getvalue(), PATIENCE_S), self.getvalue()


def open_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> Terminal:  # no fixture: pytest sets sys.stderr between a fixture and its test
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    return terminal


def open_pipe(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


def watching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("progress of")]
