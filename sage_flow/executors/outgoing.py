"""The frames that a subtask sends: each waits for the credit of its channel, and each channel keeps its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sage_flow.executors.shell import Condition, Transport, first_window
from sage_flow.plan.physical import Channel
from sage_flow.runtime.credits import SendCredit
from sage_flow.runtime.messages import Barrier, Control, ControlElement, Credit, Data, EndOfInput, Ticket, Watermark

__all__ = ["OutgoingFrames"]


_FREE: Final = (Barrier, EndOfInput)
"""Elements that need no credit: a checkpoint and the end of a job wait for the records before them, not for room."""


_Records = tuple[list[Any], list[Ticket] | None]
"""Records that wait, and the tickets beside them."""


class _Outgoing:
    """The sending end of a channel: what waits for credit. The first of it may be about to be sent."""

    __slots__ = ("bytes", "consumer", "credit", "id", "is_encoded", "next_seq", "records", "sent", "waiting")

    def __init__(self, channel: Channel, most_cost: int, *, is_encoded: bool) -> None:
        self.id = channel.id
        self.consumer = channel.consumer
        self.credit = SendCredit(most_cost, first_window(channel.consumer))
        self.waiting: deque[_Records | ControlElement] = deque()
        self.sent = 0  # how many records of the first have been sent
        self.next_seq = 0
        self.is_encoded = is_encoded
        self.records = self.bytes = 0  # in all frames so far

    def next_frame(self) -> Data | Control:
        """Return the next frame: a control element, or as many records as may go together."""
        first = self.waiting[0]
        if not isinstance(first, tuple):
            return Control(self.id, self.next_seq, first)
        records, tickets = first
        begin, most = self.sent, self.credit.most_records
        if begin or most < len(records):
            records = records[begin : begin + most]
            tickets = None if tickets is None else tickets[begin : begin + most]
        return Data(self.id, self.next_seq, records, tickets, len(records))

    def sent_frame(self, frame: Data | Control, cost: int) -> bool:
        """The next frame was sent; return whether nothing is left of what was first in `waiting`."""
        self.next_seq += 1
        first = self.waiting[0]
        if isinstance(frame, Data) and isinstance(first, tuple):
            count = len(frame.records)
            self.credit.take(count, cost)
            self.records += count
            self.bytes += cost
            if self.sent + count < len(first[0]):
                self.sent += count
                return False
            self.sent = 0
        self.waiting.popleft()
        return True


class OutgoingFrames:
    """The sending ends of one address. All state is guarded by the lock of its port, `condition`.

    `channels` come with the largest cost of what may be under way.
    `on_gap(error)` is called when a frame could not be sent: nothing may follow it.
    """

    def __init__(
        self,
        address: int,
        transport: Transport,
        condition: Condition,
        channels: Iterable[tuple[Channel, int]] = (),
        on_gap: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._address = address
        self._transport = transport
        self._condition = condition
        self._lock = condition.lock
        self._channels = {
            channel.id: _Outgoing(
                channel, cost, is_encoded=transport.medium(channel.producer, channel.consumer) != "memory"
            )
            for channel, cost in channels
        }
        self._on_gap = on_gap
        self._sending: _Outgoing | None = None  # whose next frame is being sent
        self.waiting = 0
        """How much waits, on all channels: batches of records and control elements."""

    def consumer(self, channel: int) -> int:
        """Return the address that reads a channel."""
        return self._channels[channel].consumer

    def waiting_on(self, channel: int) -> Sequence[object]:
        """Return what waits on a channel, a view that becomes empty when all is sent."""
        return self._channels[channel].waiting

    def add_records(self, channel: int, records: list[Any], tickets: list[Ticket] | None) -> None:
        """Add records, which are sent in one frame or in several."""
        out = self._channels[channel]
        with self._lock:
            out.waiting.append((records, tickets))
            self.waiting += 1

    def add_element(self, channel: int, element: ControlElement) -> None:
        """Add a control element. A watermark takes the place of one that waits directly before it."""
        out = self._channels[channel]
        with self._lock:
            waits = len(out.waiting) > (self._sending is out)
            if waits and isinstance(element, Watermark) and isinstance(out.waiting[-1], Watermark):
                out.waiting[-1] = element
            else:
                out.waiting.append(element)
                self.waiting += 1

    def totals(self) -> tuple[int, int | None]:
        """Return the records sent so far, and their bytes, None if no channel encodes."""
        channels = self._channels.values()
        encoded = [out.bytes for out in channels if out.is_encoded]
        return sum(out.records for out in channels), sum(encoded) if encoded else None

    def grant(self, credit: Credit) -> None:
        """The consumer of a channel has returned credit. This wakes the activation, which sends waiting frames."""
        with self._lock:
            self._channels[credit.channel].credit.grant(credit)
            self._condition.notify_all()

    def may_sleep(self) -> bool:
        """Whether the calling thread could send nothing now; called under the lock."""
        return self._next_to_send() is None

    def send(self) -> None:
        """Send the frames that have credit. Only one thread at a time does so, which keeps the order."""
        while True:
            with self._lock:
                out = self._next_to_send()
                if out is None:
                    return
                self._sending = out
                frame = out.next_frame()
            cost = 0
            try:
                cost = self._transport.send(self._address, out.consumer, frame)
            except Exception as error:
                self._on_gap(error)  # no later frame may be sent, even if user code catches this error
                raise
            finally:
                with self._lock:
                    self.waiting -= out.sent_frame(frame, cost)
                    self._sending = None
                    self._condition.notify_all()

    def _next_to_send(self) -> _Outgoing | None:
        if self._sending is not None:
            return None
        for out in self._channels.values():
            if out.waiting and (out.credit.may_start or isinstance(out.waiting[0], _FREE)):
                return out
        return None
