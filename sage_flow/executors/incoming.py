"""Counts of what has reached a subtask and waits: the frames of each channel, and requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from sage_flow.plan.physical import Channel
from sage_flow.runtime.messages import Data, Request
from sage_flow.runtime.report import ChannelReport
from sage_flow.runtime.statistics import CallStatistics, Histogram

__all__ = ["IncomingFrames", "IncomingRequests", "total_received"]


class IncomingFrames:
    """The receiving end of a channel."""

    __slots__ = ("_bytes", "_medium", "_name", "_received", "_waiting", "channel")

    def __init__(self, channel: Channel, name: str, medium: str) -> None:
        self.channel = channel
        self._name = name
        self._medium = medium
        self._waiting: deque[tuple[float, int]] = deque()  # arrival and records of each frame
        self._received = self._bytes = 0

    def arrived(self, frame: Data, now: float) -> None:
        """A frame has arrived."""
        count = len(frame.records)
        self._waiting.append((now, count))
        self._received += count
        self._bytes += frame.cost

    def processed(self) -> int:
        """The oldest frame was processed; return the number of its records."""
        return self._waiting.popleft()[1]

    @property
    def depth(self) -> int:
        """The number of records that have arrived and are not processed."""
        return sum(count for _, count in self._waiting.copy())

    @property
    def received(self) -> tuple[int, int | None]:
        """The records that have arrived so far, and their bytes; None: they are not encoded."""
        return self._received, None if self._medium == "memory" else self._bytes

    def report(self, now: float) -> ChannelReport:
        """Report the state of the channel."""
        waiting = self._waiting.copy()
        return ChannelReport(
            "edge",
            self._name,
            self._medium,
            self.channel.consumer,
            (self.channel.producer,),
            sum(count for _, count in waiting),
            now - waiting[0][0] if waiting else None,
            *self.received,
        )


def total_received(channels: Iterable[IncomingFrames]) -> tuple[int, int | None]:
    """Return what has arrived on all of them: records, and bytes, None if no channel encodes."""
    counted = [channel.received for channel in channels]
    sizes = [size for _, size in counted if size is not None]
    return sum(records for records, _ in counted), sum(sizes) if sizes else None


class IncomingRequests:
    """The request channel of a service's subtask; guarded by the condition of its port."""

    def __init__(self, service: str | None) -> None:
        self._service = service
        self._arrivals: dict[tuple[int, int], float] = {}  # of requests that have not been begun, oldest first
        self._callers: dict[int, None] = {}
        self._received = 0
        self._waited: dict[str, Histogram] = {}  # by method
        self._batches: dict[str, tuple[int, int]] = {}  # by method that is batched: batches, and calls in them

    def arrived(self, request: Request, now: float) -> None:
        """A request has arrived."""
        self._arrivals[request.reply_to, request.call_id] = now
        self._callers[request.reply_to] = None
        self._received += 1

    def begun(self, request: Request, now: float) -> bool:
        """A request begins; False if it was dropped before."""
        arrival = self._arrivals.pop((request.reply_to, request.call_id), None)
        if arrival is None:
            return False
        if request.method not in self._waited:
            self._waited[request.method] = Histogram()
        self._waited[request.method].add(now - arrival)
        return True

    def arrival(self, request: Request) -> float | None:
        """When a request has arrived that has not begun; None: it was dropped."""
        return self._arrivals.get((request.reply_to, request.call_id))

    def begun_together(self, requests: list[Request], now: float) -> list[Request]:
        """The requests of a batch begin; return those that were not dropped and whose time has not passed."""
        begun = [request for request in requests if request.deadline > now and self.begun(request, now)]
        if begun:
            batches, calls = self._batches.get(begun[0].method, (0, 0))
            self._batches[begun[0].method] = batches + 1, calls + len(begun)
        return begun

    def dropped(self, reply_to: int, call_id: int) -> None:
        """A request was taken back by its caller."""
        self._arrivals.pop((reply_to, call_id), None)

    def statistics(self) -> dict[str, CallStatistics]:
        """How long requests waited, by "service.method"."""
        return dict(self._statistics())

    def _statistics(self) -> Iterator[tuple[str, CallStatistics]]:
        for method, waited in self._waited.items():
            batches, calls = self._batches.get(method, (0, 0))
            found = CallStatistics(queue=waited.copy(), batches=batches, batched_calls=calls)
            yield f"{self._service}.{method}", found

    def report(self, host: int, medium: Callable[[int], str], now: float) -> ChannelReport:
        """Report the state of the channel."""
        oldest = next(iter(self._arrivals.values()), None)
        return ChannelReport(
            "requests",
            f"requests of {self._service}",
            " and ".join(sorted({medium(caller) for caller in self._callers})),
            host,
            tuple(self._callers),
            len(self._arrivals),
            None if oldest is None else now - oldest,
            self._received,
        )
