"""Makes calls again that failed, by the library tenacity: the functions of `map_async`, the writes of sinks.

A coroutine waits on the event loop of its subtask, a write by the port. So a cancel ends the wait, and a virtual clock
moves it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sage_flow.retry import Retry
from sage_flow.runtime.failure import add_notes, is_of_pipeline

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["retried", "retried_coroutine"]


def retried(call: Callable[..., Any], retry: Retry, sleep: Callable[[float], None]) -> Callable[..., Any]:
    """Return a function that calls `call`, and again after an error; `sleep` waits for so many seconds."""
    from tenacity import Retrying

    retrying = Retrying(**_options(retry), sleep=sleep)

    def call_again(*args: Any) -> Any:
        raised: list[TracebackType | None] = [None]

        def attempt() -> Any:
            try:
                return call(*args)
            except Exception as error:
                raised[0] = error.__traceback__
                raise

        try:
            return retrying.copy()(attempt)
        except Exception as error:
            raise error.with_traceback(raised[0]) from error.__cause__  # without the lines of the library

    return call_again


def retried_coroutine(call: Callable[..., Awaitable[Any]], retry: Retry) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that awaits what `call` returns, and again after an error."""
    from tenacity import AsyncRetrying

    retrying = AsyncRetrying(**_options(retry))

    async def call_again(*args: Any) -> Any:
        raised: list[TracebackType | None] = [None]

        async def attempt() -> Any:
            try:
                return await call(*args)
            except Exception as error:
                raised[0] = error.__traceback__
                raise

        try:
            return await retrying.copy()(attempt)
        except Exception as error:
            raise error.with_traceback(raised[0]) from error.__cause__

    return call_again


def _options(retry: Retry) -> dict[str, Any]:
    from tenacity import retry_if_exception, stop_after_attempt, wait_exponential, wait_random

    wait_s, max_s = retry.wait.total_seconds(), retry.max_wait.total_seconds()
    return {
        "stop": stop_after_attempt(retry.attempts),
        "wait": wait_exponential(multiplier=wait_s, max=max_s) + wait_random(0, wait_s),
        "retry": retry_if_exception(lambda error: isinstance(error, retry.on) and not is_of_pipeline(error)),
        "retry_error_callback": _give_up,
    }


def _give_up(state: RetryCallState) -> Any:
    outcome = state.outcome
    error = None if outcome is None else outcome.exception()
    if error is not None:
        add_notes(error, [f"retried   {state.attempt_number} attempts failed, {state.idle_for:.3g} s apart in all"])
        raise error
    return None
