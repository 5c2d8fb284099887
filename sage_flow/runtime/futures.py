"""The futures of calls that were made with `.remote(...)`, and waiting for several of them.

A future is a call and the port that made it, which alone knows how to wait. `sage_flow.service` makes both
names public.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    from sage_flow.runtime.calls import OpenCall
    from sage_flow.runtime.port import CallPort

__all__ = ["ServiceFuture", "wait"]


class ServiceFuture:
    """The reply of a call that was made with `.remote(...)`; it can be awaited, too.

    A call whose time runs out ends in ServiceTimeout, whether somebody waits for it or not. A future that is
    dropped lets its call go on.
    """

    __slots__ = ("_call", "_port")

    def __init__(self, port: CallPort, call: OpenCall) -> None:
        self._port = port
        self._call = call

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self._port.poll(self._call) is not None

    @property
    def has_outcome(self) -> bool:
        """Whether an outcome is there. Takes no lock and ends no late call, so it can be asked under a port's lock."""
        return self._call.outcome is not None

    @property
    def was_refused(self) -> bool:
        """Whether the call has ended without having been sent, so that it can be made again."""
        return self._call.outcome is not None and self._call.target is None

    @property
    def outputs(self) -> list[Any]:
        """The outputs of the pipeline that have come so far, of a service with `reply="many"` of a local job."""
        return self._call.outputs if self._call.many else []

    def on_output(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when `outputs` has grown, in whatever thread brings the output; it must be quick."""
        self._call.on_output = callback

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the reply, at most `timeout_s` seconds, and return it.

        Raises: what the service raised, or a ServiceError; `concurrent.futures.CancelledError`; TimeoutError if
        the call is still open after `timeout_s`, and then goes on; PipelineError if that is negative.
        """
        deadline = _deadline(self._port, timeout_s)
        outcome = self._port.await_call(self._call, deadline)
        if outcome is None:
            raise TimeoutError(f"{self._call.label} has not replied after {timeout_s} s; the call goes on")
        return outcome.get()

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        """Wait as `result` does; return what that would raise, None if there is a reply."""
        try:
            self.result(timeout_s)
        except Exception as error:
            if not self.done():
                raise
            return error
        return None

    def cancel(self) -> bool:
        """End the call and return True; False if it has ended. A request that was not started will not be."""
        return self._port.cancel(self._call)

    def add_done_callback(self, callback: Callable[[ServiceFuture], object]) -> None:
        """Call `callback(self)` once the call has ended, in whatever thread brings the reply; it must be quick."""
        self._port.on_outcome(self._call, lambda: callback(self))

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._port.until_outcome(self._call)
        return self.result()

    def __repr__(self) -> str:
        return f"<ServiceFuture of {self._call.label}, {'done' if self.done() else 'open'}>"


def wait(
    futures: Iterable[ServiceFuture], *, count: int | None = None, timeout_s: float | None = None
) -> tuple[list[ServiceFuture], list[ServiceFuture]]:
    """Wait until `count` futures (default: all) are done, at most `timeout_s` seconds.

    Returns those that are done and those that are not, each in the order given. Raises PipelineError if they
    are of different callers (each operator is one), which cannot be waited for together; if they are fewer than
    `count`; if `timeout_s` is negative.
    """
    given = list(futures)
    for future in given:
        if not isinstance(future, ServiceFuture):
            raise PipelineError(f"wait() takes futures of calls, as .remote() returns them, not {future!r}")
    wanted = len(given) if count is None else count
    if not 0 <= wanted <= len(given):
        raise PipelineError(f"count must be between 0 and {len(given)}, not {wanted}")
    if not given:
        return [], []
    port = given[0]._port
    if any(future._port is not port for future in given):
        raise PipelineError("these futures belong to different operators or jobs: wait for those of each apart")
    port.await_calls([future._call for future in given], wanted, _deadline(port, timeout_s))
    done = [future.done() for future in given]
    pairs = list(zip(given, done, strict=True))
    return [future for future, is_done in pairs if is_done], [future for future, is_done in pairs if not is_done]


def _deadline(port: CallPort, timeout_s: Any) -> float | None:
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s >= 0:
        raise PipelineError(f"timeout_s is {timeout_s!r}: give seconds, 0 or more, or None to wait for the call itself")
    return port.now() + timeout_s
