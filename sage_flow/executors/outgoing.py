"""The frames that a subtask sends: each waits for the credit of its channel, and each channel keeps its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from sage_flow.executors.shell import Condition, Transport
from sage_flow.plan.physical import Channel
from sage_flow.runtime.credits import SendCredit
from sage_flow.runtime.messages import Barrier, Control, ControlElement, Data, EndOfInput, Ticket, Watermark

__all__ = ["OutgoingFrames"]


_FREE: Final = (Barrier, EndOfInput)
"""Elements that need no credit: a checkpoint and the end of a job wait for the records before them, not for room."""


class _Outgoing:
    """The sending end of a channel: frames that wait for credit. The first of them may be about to be sent."""

    __slots__ = ("consumer", "credit", "frames", "next_seq")

    def __init__(self, channel: Channel, window: int) -> None:
        self.consumer = channel.consumer
        self.credit = SendCredit(window)
        self.frames: deque[Data | Control] = deque()
        self.next_seq = 0

    @property
    def may_send(self) -> bool:
        """Whether the first frame may be sent now, if there is one."""
        if not self.frames:
            return False
        if self.credit.may_start:
            return True
        first = self.frames[0]
        return isinstance(first, Control) and isinstance(first.element, _FREE)


class OutgoingFrames:
    """The sending ends of one address. All state is guarded by the lock of its port, `condition`.

    `channels` come with their windows. `on_gap(error)` is called when a frame could not be sent: nothing may follow it.
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
        self._channels = {channel.id: _Outgoing(channel, window) for channel, window in channels}
        self._on_gap = on_gap
        self._sending: _Outgoing | None = None  # whose first frame is being sent
        self.waiting = 0
        """How many frames wait, of all channels."""

    def consumer(self, channel: int) -> int:
        """Return the address that reads a channel."""
        return self._channels[channel].consumer

    def frames(self, channel: int) -> deque[Data | Control]:
        """Return the waiting frames of a channel, a deque that becomes empty when all are sent."""
        return self._channels[channel].frames

    def add_records(self, channel: int, records: list[Any], tickets: list[Ticket] | None) -> None:
        """Add a frame of records."""
        out = self._channels[channel]
        with self._lock:
            out.frames.append(Data(channel, out.next_seq, records, tickets, len(records)))
            out.next_seq += 1
            self.waiting += 1

    def add_element(self, channel: int, element: ControlElement) -> None:
        """Add a control element. A watermark takes the place of one that waits directly before it."""
        out = self._channels[channel]
        with self._lock:
            if isinstance(element, Watermark) and len(out.frames) > (self._sending is out):
                last = out.frames[-1]
                if isinstance(last, Control) and isinstance(last.element, Watermark):
                    out.frames[-1] = Control(channel, last.seq, element)
                    return
            out.frames.append(Control(channel, out.next_seq, element))
            out.next_seq += 1
            self.waiting += 1

    def grant(self, channel: int, amount: int) -> None:
        """The consumer of a channel has returned credit. This wakes the activation, which sends waiting frames."""
        with self._lock:
            self._channels[channel].credit.grant(amount)
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
                frame = out.frames[0]
            cost = 0
            try:
                cost = self._transport.send(self._address, out.consumer, frame)
            except Exception as error:
                self._on_gap(error)  # no later frame may be sent, even if user code catches this error
                raise
            finally:
                with self._lock:
                    out.frames.popleft()
                    self.waiting -= 1
                    out.credit.take(cost)
                    self._sending = None
                    self._condition.notify_all()

    def _next_to_send(self) -> _Outgoing | None:
        if self._sending is not None:
            return None
        for out in self._channels.values():
            if out.may_send:
                return out
        return None
