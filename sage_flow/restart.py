"""Restart strategies: whether and when a job that has failed starts again.

A strategy is a frozen value that a user names; its `history()` is the state of one job. Pure: a failure and the
time go in, a decision comes out. The terms are those of Flink's restart strategies.

    NoRestart         the first failure ends the job
    FixedDelay        so many restarts, the same time apart
    ExponentialDelay  each restart in a row waits longer, until the job has run well for a while
    FailureRate       restarts while failures are rare enough
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage_flow.errors import PipelineError

__all__ = [
    "ExponentialDelay",
    "FailureClock",
    "FailureRate",
    "FixedDelay",
    "GiveUp",
    "NoRestart",
    "RestartAfter",
    "RestartDecision",
    "RestartHistory",
    "RestartStrategy",
]


@dataclass(frozen=True, slots=True)
class RestartAfter:
    """Start the job again in `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The job has failed for good; `reason` completes "not restarted: ", empty if no strategy was asked for."""

    reason: str


RestartDecision = RestartAfter | GiveUp


class RestartHistory(Protocol):
    """What a strategy remembers of one job; it pickles."""

    def on_failure(self, now: float) -> RestartDecision:
        """Note a failure of the job at `now`, in seconds of a `FailureClock`."""


@dataclass(slots=True)
class FailureClock:
    """The clock of a restart history: it never goes back, and continues in the next process that reads the history.

    Within a process it follows a monotonic clock, so setting the system clock does not affect decisions. Only the time
    between two processes is measured by the wall clock; it counts as zero if that clock went back.
    """

    elapsed_s: float = 0.0
    stopped_at: float | None = None  # on the wall clock
    _started_at: float = 0.0  # on the monotonic clock of this process, as is `elapsed_s` 0

    def start(self, monotonic: float, wall: float) -> None:
        """Go on in this process."""
        if self.stopped_at is not None:
            self.elapsed_s += max(0.0, wall - self.stopped_at)
        self._started_at = monotonic - self.elapsed_s

    def now(self, monotonic: float) -> float:
        """Seconds since the job began."""
        return monotonic - self._started_at

    def stop(self, monotonic: float, wall: float) -> None:
        """Note what another process needs to go on."""
        self.elapsed_s, self.stopped_at = self.now(monotonic), wall


@dataclass(frozen=True)
class NoRestart:
    """A job that fails has failed. The default."""

    def __str__(self) -> str:
        return "no restart"

    def history(self) -> RestartHistory:
        """Return the state of one job."""
        return _Refusal()


@dataclass(frozen=True)
class FixedDelay:
    """Restart at most `attempts` times, `delay_s` seconds after each failure.

    Raises:
        PipelineError: `attempts` is no whole number of at least 1, `delay_s` is negative or no number.
    """

    attempts: int
    delay_s: float = 1.0

    def __post_init__(self) -> None:
        _check_count(self, "attempts", self.attempts)
        _check_seconds(self, "delay_s", self.delay_s)

    def __str__(self) -> str:
        return f"fixed delay ({_times(self.attempts)}, {self.delay_s:g} s after each failure)"

    def history(self) -> RestartHistory:
        """Return the state of one job."""
        return _Countdown(self)


@dataclass(frozen=True)
class ExponentialDelay:
    """Restart after `initial_s` seconds, after `factor` times as long for the next failure, at most `max_s`.

    A job that then runs for `reset_after_s` seconds begins at `initial_s` again. `attempts` limits the restarts
    without such a time between them; None: no limit.

    Raises:
        PipelineError: a number is negative or none at all, `factor` is below 1, `max_s` below `initial_s`.
    """

    initial_s: float = 1.0
    max_s: float = 60.0
    factor: float = 2.0
    attempts: int | None = None
    reset_after_s: float = 3600.0

    def __post_init__(self) -> None:
        _check_seconds(self, "initial_s", self.initial_s)
        _check_seconds(self, "max_s", self.max_s)
        _check_seconds(self, "reset_after_s", self.reset_after_s)
        if self.max_s < self.initial_s:
            raise PipelineError(f"max_s of ExponentialDelay is {self.max_s:g}, less than initial_s {self.initial_s:g}")
        if not _is_number(self.factor) or self.factor < 1:
            raise PipelineError(f"factor of ExponentialDelay must be a number of at least 1, not {self.factor!r}")
        if self.attempts is not None:
            _check_count(self, "attempts", self.attempts)

    def __str__(self) -> str:
        limit = "" if self.attempts is None else f"{_times(self.attempts)} in a row, "
        return f"exponential delay ({limit}{self.initial_s:g} s to {self.max_s:g} s, times {self.factor:g})"

    def history(self) -> RestartHistory:
        """Return the state of one job."""
        return _Backoff(self)


@dataclass(frozen=True)
class FailureRate:
    """Restart, `delay_s` seconds after each failure, unless more than `failures` fall within `interval_s` seconds.

    Raises:
        PipelineError: `failures` is no whole number of at least 1, a time is negative or no number, `interval_s` is 0.
    """

    failures: int
    interval_s: float
    delay_s: float = 1.0

    def __post_init__(self) -> None:
        _check_count(self, "failures", self.failures)
        _check_seconds(self, "interval_s", self.interval_s)
        _check_seconds(self, "delay_s", self.delay_s)
        if not self.interval_s:
            raise PipelineError("interval_s of FailureRate must be above 0 seconds")

    def __str__(self) -> str:
        return (
            f"failure rate (at most {self.failures} in {self.interval_s:g} s, restart {self.delay_s:g} s after each"
            " failure)"
        )

    def history(self) -> RestartHistory:
        """Return the state of one job."""
        return _Window(self)


RestartStrategy = NoRestart | FixedDelay | ExponentialDelay | FailureRate


@dataclass(slots=True)
class _Refusal:
    def on_failure(self, now: float) -> RestartDecision:
        return GiveUp("")  # nothing to be said: nobody asked for a restart


@dataclass(slots=True)
class _Countdown:
    strategy: FixedDelay
    restarts: int = 0

    def on_failure(self, now: float) -> RestartDecision:
        if self.restarts == self.strategy.attempts:
            return GiveUp(f"it was restarted {_times(self.restarts)}, and no more is allowed")
        self.restarts += 1
        return RestartAfter(self.strategy.delay_s)


@dataclass(slots=True)
class _Backoff:
    strategy: ExponentialDelay
    delay_s: float = 0.0
    restarts: int = 0  # in a row
    started: float = -math.inf  # when the last restart was due

    def on_failure(self, now: float) -> RestartDecision:
        strategy = self.strategy
        if now - self.started >= strategy.reset_after_s:
            self.restarts = 0
        if self.restarts == strategy.attempts:
            return GiveUp(
                f"it was restarted {_times(self.restarts)} in a row without running for {strategy.reset_after_s:g} s"
            )
        longer = self.delay_s * strategy.factor if self.restarts else strategy.initial_s
        self.delay_s = min(longer, strategy.max_s)
        self.restarts += 1
        self.started = now + self.delay_s
        return RestartAfter(self.delay_s)


@dataclass(slots=True)
class _Window:
    strategy: FailureRate
    failures: list[float] = field(default_factory=list)  # when, of those that count; one more than allowed at most

    def on_failure(self, now: float) -> RestartDecision:
        strategy = self.strategy
        self.failures = [*(when for when in self.failures if now - when < strategy.interval_s), now]
        if len(self.failures) > strategy.failures:
            return GiveUp(f"it failed {_times(len(self.failures))} within {strategy.interval_s:g} s")
        return RestartAfter(strategy.delay_s)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_count(strategy: object, what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PipelineError(f"{what} of {type(strategy).__name__} must be a whole number of at least 1, not {value!r}")


def _check_seconds(strategy: object, what: str, value: Any) -> None:
    if not _is_number(value) or value < 0:
        raise PipelineError(
            f"{what} of {type(strategy).__name__} must be a number of seconds, 0 or more, not {value!r}"
        )
