"""The port of callers outside a job whose replies arrive on a connection; the waiting thread reads it itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from sage_flow.executors.calling import CallingPort
from sage_flow.runtime.calls import OpenCall, Outcome

__all__ = ["ReadingPort"]


class ReadingPort(CallingPort):
    """Subclasses implement the reading."""

    @abstractmethod
    def read_while(self, is_waiting: Callable[[], bool], timeout_s: float) -> None:
        """Read while `is_waiting()`; return at once if another thread reads."""

    def in_activation(self) -> bool:
        return False

    def await_call(self, call: OpenCall, deadline: float | None = None) -> Outcome | None:
        if call.outcome is None:
            self._read(lambda: call.outcome is None, call.deadline, deadline)
        return super().await_call(call, deadline)

    def await_calls(self, calls: Sequence[OpenCall], count: int, deadline: float | None) -> None:
        def is_waiting() -> bool:
            return sum(call.outcome is not None for call in calls) < count

        if is_waiting():
            next_s = min(call.deadline for call in calls if call.outcome is None)
            self._read(is_waiting, next_s, deadline)
        super().await_calls(calls, count, deadline)

    def _read(self, is_waiting: Callable[[], bool], until: float, deadline: float | None) -> None:
        until = until if deadline is None else min(until, deadline)
        self.read_while(is_waiting, until - self.now())
