"""A started job, as an environment's handle sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from sage_flow.channels.frame import DRIVER, OUTSIDE
from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.plan.physical import Plan
from sage_flow.runtime.port import Crashed
from sage_flow.runtime.report import ChannelReport, PortReport
from sage_flow.runtime.statistics import CallStatistics

__all__ = ["Execution", "Executor"]


class Executor(Protocol):
    """A way to run plans."""

    def start(self, plan: Plan, options: DriverOptions) -> Execution:
        """Start a job and return at once."""


class Execution:
    """A job that was started: its driver, and a thread-safe way to wait for its end.

    `crash` is an error of the engine itself that ended the driver.
    """

    def __init__(
        self,
        driver: Driver,
        cancel: Callable[[str], None] | None = None,
        drain: Callable[[], None] | None = None,
    ) -> None:
        self.driver = driver
        self._cancel = cancel or driver.cancel
        self._drain = drain or driver.drain
        self.crash: BaseException | None = None
        self._began = driver.now()
        self._seen: dict[tuple[str, str, int], tuple[float, int]] = {}  # when, and received, at the last look
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

    def drain(self) -> None:
        """Ask the sources to end, and the job behind them; `wait` for it."""
        self._drain()

    def metrics(self) -> dict[str, Any]:
        """Counts per operator, queued records per chain, calls per service and method, as last told."""
        queued: dict[str, int] = {}
        for subtask in self.driver.plan.subtasks:
            report = self.driver.reports.get(subtask.address)
            queued[subtask.chain.name] = queued.get(subtask.chain.name, 0) + (report.queued if report else 0)
        return {
            "operators": self.driver.counts(),
            "queued": queued,
            "services": _in_plain_types(self.driver.services()),
        }

    def statistics(self) -> dict[str, Any]:
        """Ask every subtask, whatever it is doing: channels, services, stories, and who does not answer."""
        told = {} if self.is_over else self.driver.inspect()
        answered = {address: report for address, report in told.items() if report is not None}
        names = {subtask.address: subtask.name for subtask in self.driver.plan.subtasks}
        names |= {DRIVER: "driver", OUTSIDE: "outside"}
        return {
            "channels": [
                self._channel(channel, names, report.now) for report in answered.values() for channel in report.channels
            ],
            "services": _in_plain_types(self.driver.services(answered)),
            "stories": {names[address]: _ages(report) for address, report in answered.items() if report.story},
            "unresponsive": [names[address] for address in told if address not in answered],
        }

    def _channel(self, channel: ChannelReport, names: dict[int, str], now: float) -> dict[str, Any]:
        key = (channel.kind, channel.name, channel.host)
        then, before = self._seen.get(key, (self._began, 0))
        self._seen[key] = (now, channel.received)
        return {
            **channel._asdict(),
            "host": names[channel.host],
            "producers": [names[producer] for producer in channel.producers],
            "rate_per_s": (channel.received - before) / (now - then) if now > then else 0.0,
        }


def _ages(report: PortReport) -> list[str]:
    """The events of a story with their age."""
    return [f"{report.now - when:.1f} s ago: {what}" for when, what in report.story]


def _in_plain_types(services: dict[str, dict[str, CallStatistics]]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {method: statistics.as_dict() for method, statistics in methods.items()}
        for name, methods in services.items()
    }
