"""A started job, as an environment's handle sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.plan.physical import Plan
from sage_flow.runtime.port import Crashed

__all__ = ["Execution", "Executor"]


class Executor(Protocol):
    """A way to run plans."""

    def start(self, plan: Plan, options: DriverOptions) -> Execution:
        """Start a job and return at once."""


class Execution:
    """A job that was started: its driver, and a thread-safe way to wait for its end.

    `crash` is an error of the engine itself that ended the driver.
    """

    def __init__(self, driver: Driver, cancel: Callable[[str], None] | None = None) -> None:
        self.driver = driver
        self._cancel = cancel or driver.cancel
        self.crash: BaseException | None = None
        self._over = threading.Event()

    def lead(self, clean_up: Callable[[], None] = lambda: None) -> None:
        """Run the driver to the end of the job, then `clean_up`; the body of the driver's activation."""
        try:
            self.driver.run()
            clean_up()
        except Crashed:
            raise
        except BaseException as error:  # an engine fault must reach whoever waits
            self.fail(error)
        self._over.set()

    def fail(self, error: BaseException) -> None:
        """The engine itself has failed: whoever waits gets `error`."""
        if self.crash is None:
            self.crash = error
        self._over.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""
        return self._over.wait(timeout_s)

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def cancel(self, reason: str) -> None:
        """Ask the job to end; `wait` for it."""
        self._cancel(reason)

    def statistics(self) -> dict[str, Any]:
        """Counts per operator, queued records per chain, calls per service and method, now."""
        queued: dict[str, int] = {}
        for subtask in self.driver.plan.subtasks:
            report = self.driver.reports.get(subtask.address)
            queued[subtask.chain.name] = queued.get(subtask.chain.name, 0) + (report.queued if report else 0)
        services = {
            name: {method: statistics.as_dict() for method, statistics in methods.items()}
            for name, methods in self.driver.services().items()
        }
        return {"operators": self.driver.counts(), "queued": queued, "services": services}
