"""The lines that processes of a job log: when, how grave, which job, which subtask of which operators, what.

Settings are variables of the environment, so that they reach every process of a job: those of `sage-flow submit --env`
do on a cluster, and the program's own do everywhere else. The name of a thread is that of its subtask, which begins
with the names of its operators.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from datetime import datetime, timezone
from typing import Final

from sage_flow.errors import PipelineError
from sage_flow.runtime.failure import limit_records

__all__ = ["apply_settings", "check_settings", "has_settings", "log_lines"]

LEVEL, FORMAT, RECORD_CHARS = "SAGE_FLOW_LOG_LEVEL", "SAGE_FLOW_LOG_FORMAT", "SAGE_FLOW_RECORD_CHARS"
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS: Final = ("text", "json")
_MAIN: Final = ("MainThread", "lead")


class _Line(logging.Formatter):
    """`2026-11-28T17:30:01.250Z WARNING job=flights-1a2b3c subtask=speed[2/3] jobs.flights: no such airline`."""

    def __init__(self, job: str, *, as_json: bool) -> None:
        super().__init__()
        self._job = job
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc)
        time = f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z"
        thread = record.threadName or ""
        subtask = "" if thread in _MAIN or thread.startswith("Thread-") else thread
        message = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            told = {"time": time, "level": record.levelname, "job": self._job, "operator": _operator(subtask)}
            told |= {"subtask": subtask, "logger": record.name, "message": message}
            return json.dumps(told | ({"traceback": trace} if trace else {}))
        whose = f"job={self._job}" + (f" subtask={subtask}" if subtask else "")
        line = f"{time} {record.levelname} {whose} {record.name}: {message}"
        return f"{line}\n{trace}" if trace else line


def _operator(subtask: str) -> str:
    """The operators of a subtask, from its name.

    >>> _operator("map-1 -> collect-1[1/2]")
    'map-1 -> collect-1'
    """
    return subtask.partition("[")[0]


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what is stderr at the moment."""

    def __init__(self, job: str, *, as_json: bool) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_Line(job, as_json=as_json))


def has_settings() -> bool:
    """Whether this process was told how to log."""
    return any(name in os.environ for name in (LEVEL, FORMAT))


def check_settings() -> tuple[str, str, int | None]:
    """Return level, format, and how many characters of a record errors show.

    Raises PipelineError for wrong settings.
    """
    level = os.environ.get(LEVEL, "INFO").upper()
    if level not in _LEVELS:
        raise PipelineError(f"{LEVEL} must be one of {', '.join(_LEVELS)}, not {os.environ[LEVEL]!r}")
    form = os.environ.get(FORMAT, "text").lower()
    if form not in _FORMATS:
        raise PipelineError(f"{FORMAT} must be one of {', '.join(_FORMATS)}, not {os.environ[FORMAT]!r}")
    chars = os.environ.get(RECORD_CHARS)
    if chars is not None and not chars.isdigit():
        raise PipelineError(f"{RECORD_CHARS} must be a number of characters, 0 to hide records, not {chars!r}")
    return level, form, None if chars is None else int(chars)


def apply_settings() -> None:
    """Let errors show as much of a record as the environment says. Raises PipelineError for wrong settings."""
    limit_records(check_settings()[2])


_installing = threading.Lock()


def log_lines(job: str) -> None:
    """Let this process log such lines for a job to stderr, and show as much of a record as it may.

    Called again it names another job. Raises PipelineError for wrong settings.
    """
    level, form, chars = check_settings()
    limit_records(chars)
    root = logging.getLogger()
    with _installing:
        for handler in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
            root.removeHandler(handler)
        root.addHandler(_Lines(job, as_json=form == "json"))
        root.setLevel(level if LEVEL in os.environ else logging.WARNING)  # other libraries say much at INFO
        logging.getLogger("sage_flow").setLevel(level)
