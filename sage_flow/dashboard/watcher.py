"""Looks at the jobs every second, in a thread, for all who have the page open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final, Protocol

from sage_flow.cli.metrics import event_time
from sage_flow.dashboard.looks import JobLook
from sage_flow.dashboard.view import JobView
from sage_flow.errors import SageFlowError
from sage_flow.executors.running_jobs import Order

__all__ = ["Jobs", "Watcher"]

_log = logging.getLogger("sage_flow")

_LOOK_S: Final = 1.0
_WANTED_S: Final = 10.0
"""Without a page that asks for so many seconds the jobs are not asked either."""


class Jobs(Protocol):
    """Where the jobs are."""

    title: str

    def looks(self) -> list[JobLook]: ...

    def end(self, key: str, order: Order) -> str: ...

    def logs(self, key: str) -> dict[str, str]: ...


class Watcher:
    """The latest looks. `views` and `trouble` are replaced as a whole; any thread reads them."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.views: Mapping[str, JobView] = {}
        self.trouble = ""
        """Why the jobs cannot be looked at now; what is shown is older then."""
        self._wanted = threading.Event()
        self._last_wanted = 0.0
        self._looked_at = 0.0

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="looks at jobs", daemon=True).start()

    def want(self) -> None:
        """Somebody has the page open."""
        self._last_wanted = time.monotonic()
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if time.monotonic() - self._last_wanted > _WANTED_S:
                self._wanted.clear()
                continue
            self.look()
            time.sleep(_LOOK_S)

    def look(self) -> None:
        """Look at all jobs once."""
        try:
            looks = self.jobs.looks()
        except SageFlowError as error:
            self.trouble = str(error)
            return
        except Exception as error:  # of Ray, whose cluster has died; the page says so
            _log.warning("cannot look at the jobs", exc_info=True)
            self.trouble = f"{type(error).__name__}: {error}"
            return
        now, before, wall_s = time.monotonic(), self.views, time.time()
        seconds = now - self._looked_at
        self.views = {
            look.key: JobView(
                look,
                before[look.key].look if look.key in before else None,
                seconds,
                {name: event_time(mark, wall_s) for name, mark in look.metrics["watermarks"].items()},
            )
            for look in looks
        }
        self._looked_at, self.trouble = now, ""
