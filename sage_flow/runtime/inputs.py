"""What has arrived at one subtask and is not processed: order of arrival, held channels, the frame under way.

Messages are processed in the order in which they came, but frames of a held channel wait until the barrier of the
others has come too. Records of one frame are processed in slices, whose length is a matter of time (`pace.py`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from sage_flow.errors import InternalError
from sage_flow.plan.physical import Channel, Edge
from sage_flow.runtime.barrier import AbandonAndHold, Hold, TakeSnapshot
from sage_flow.runtime.chain import CompiledChain
from sage_flow.runtime.gate import AllInputsEnded, InputGate
from sage_flow.runtime.messages import Control, Data, EndOfInput, Message, Ticket
from sage_flow.runtime.pace import Pace
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.watermark import Advance, BecomeIdle
from sage_flow.splits import WHOLE

__all__ = ["InputDecision", "Inputs", "Slices"]

InputDecision = Advance | BecomeIdle | TakeSnapshot | AllInputsEnded
"""What a control element leads to; `Hold` and its like are obeyed here."""


_FURTHEST = "inputs"  # in the parts of the first operator; negative, as the lowest number counts there


class Inputs:
    """The input channels of one subtask, and its other messages in their place among the frames."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._edges = {channel.id: channel.edge for channel in channels}
        self._gate = InputGate(self._edges, [channel for channel, edge in self._edges.items() if edge.timed])
        self._held: dict[int, deque[Data | Control]] = {}
        self._ready: deque[Message] = deque()
        self.pace = Pace()
        self.slices: Slices | None = None
        """Of the frame or batch that is being processed."""

    @property
    def have_ended(self) -> bool:
        """Every input has ended, or there is none."""
        return not self._gate.open_channels

    def keep(self, parts: Parts) -> None:
        """Add to the parts of the first operator how far in time the inputs have come."""
        if self._gate.furthest > -math.inf:
            parts.lowest[_FURTHEST] = -self._gate.furthest  # of several subtasks the furthest counts

    def restore(self, parts: Parts) -> None:
        """Take over what `keep` has added."""
        if _FURTHEST in parts.lowest:
            self._gate.restore(-parts.lowest[_FURTHEST])

    def edge(self, channel: int) -> Edge:
        """Return the edge that a channel belongs to."""
        return self._edges[channel]

    def add(self, message: Message) -> None:
        """Take a message that has arrived. Raises ProtocolError if it is a frame out of sequence."""
        if isinstance(message, (Data, Control)):
            is_last = isinstance(message, Control) and isinstance(message.element, EndOfInput)
            self._gate.check_sequence(message.channel, message.seq, is_last=is_last)
        self._ready.append(message)

    def next(self) -> Message | None:
        """Take out the next message to process, None if there is none now. Frames of held channels stay."""
        while self._ready:
            message = self._ready.popleft()
            if not isinstance(message, (Data, Control)) or message.channel not in self._held:
                return message
            self._held[message.channel].append(message)
        return None

    def on_records(self, channel: int) -> None:
        """A frame of records is processed now."""
        self._gate.on_record(channel)

    def on_element(self, control: Control) -> Iterator[InputDecision]:
        """Yield what to do about a control element, in order. Raises ProtocolError.

        Frames are released when the caller comes back from a `TakeSnapshot`, which it thus obeys before them.
        """
        for decision in self._gate.on_element(control.channel, control.element):
            match decision:
                case Hold(channel):
                    self._held[channel] = deque()
                case AbandonAndHold(_, released, channel):
                    self._release(released)
                    self._held[channel] = deque()
                case TakeSnapshot(_, released):
                    yield decision
                    self._release(released)
                case _:
                    yield decision

    def on_abort(self, checkpoint: int) -> None:
        """A checkpoint has failed: what waited for it goes on."""
        self._release(self._gate.on_abort(checkpoint))

    def _release(self, channels: Iterable[int]) -> None:
        """What was held comes before what is already waiting, in the order of each channel."""
        freed = [frame for channel in channels for frame in self._held.pop(channel, ())]
        self._ready.extendleft(reversed(freed))


class Slices:
    """A frame, or a batch of a split of a source, processed in slices."""

    __slots__ = ("_records", "_start", "_stop", "channel", "cost", "entry", "split", "tickets")

    def __init__(
        self,
        entry: CompiledChain,
        records: list[Any],
        tickets: list[Ticket] | None = None,
        channel: int | None = None,
        cost: int = 0,
        split: str = WHOLE,
    ) -> None:
        self.entry = entry
        self.split = split
        self.tickets = tickets
        self.channel = channel
        self.cost = cost
        self._records = records
        self._start = self._stop = 0

    def next(self, size: int) -> list[Any]:
        """Return the next records, at most `size`."""
        self._start, self._stop = self._stop, min(self._stop + size, len(self._records))
        if self._start == 0 and self.is_over:
            return self._records
        return self._records[self._start : self._stop]

    def next_tickets(self) -> list[Ticket]:
        """Return the tickets of the records that `next` returned."""
        if self.tickets is None:
            raise InternalError("only the records of a service's pipeline have tickets")
        return self.tickets[self._start : self._stop]

    @property
    def rest(self) -> list[Any]:
        """The records that `next` has not returned."""
        return self._records[self._stop :]

    @property
    def is_over(self) -> bool:
        """All records were returned."""
        return self._stop >= len(self._records)
