"""`Retry`: how often and when a call that failed is made again, in `map_async` and in sinks.

The library tenacity does it (`runtime/retrying.py`). Its own objects hold what cannot be pickled, so a pipeline, which
travels, has this value in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sage_flow.errors import PipelineError

__all__ = ["Retry", "checked_retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """Make a call again that raised one of the errors `on`, up to `attempts` calls in all, with a wait in between.

    The wait doubles each time, from `wait` to `max_wait` at most. A random time of up to `wait` is added to each, so
    that callers that failed together do not call together again. When the last attempt fails, its error is the error of
    the record, with a line that says how often it was tried.

    >>> Retry(attempts=5, on=(ConnectionError, TimeoutError)).wait
    datetime.timedelta(microseconds=100000)

    Raises:
        PipelineError: a value that means nothing.
    """

    attempts: int = 3
    wait: timedelta = timedelta(milliseconds=100)
    max_wait: timedelta = timedelta(seconds=30)
    on: type[Exception] | tuple[type[Exception], ...] = Exception

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 2:
            raise PipelineError(f"attempts of Retry must be a number of calls from 2 on, not {self.attempts!r}")
        for name, value in (("wait", self.wait), ("max_wait", self.max_wait)):
            if not isinstance(value, timedelta) or value < timedelta(0):
                raise PipelineError(f"{name} of Retry must be a timedelta, and not negative, not {value!r}")
        if self.max_wait < self.wait:
            raise PipelineError(f"max_wait of Retry, {self.max_wait}, must not be shorter than its wait, {self.wait}")
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise PipelineError(f"on of Retry must be a class of Exception, or a tuple of such, not {self.on!r}")


def checked_retry(given: Any, owner: str) -> dict[str, Any]:
    """The option of an operator for what was given as `retry`. Raises PipelineError unless that is a Retry or None."""
    if given is None:
        return {}
    if not isinstance(given, Retry):
        raise PipelineError(f"retry of {owner} must be a Retry, such as Retry(attempts=5), not {given!r}")
    return {"retry": given}
