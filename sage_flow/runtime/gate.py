"""The inputs of one subtask: which control element, on which channel, leads to what.

One gate joins the three rules that look at the same channels: watermark minima, barrier alignment, and
the count of ended inputs. It is asked for every control element and, while some input is idle, for
every frame of records; frames of held channels are not shown to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sage_flow.errors import ProtocolError
from sage_flow.runtime.barrier import AbandonAndHold, BarrierAlignment, Hold, TakeSnapshot
from sage_flow.runtime.messages import Barrier, ControlElement, EndOfInput, Idle, Watermark
from sage_flow.runtime.watermark import Advance, BecomeIdle, WatermarkMinimum

__all__ = ["AllInputsEnded", "GateDecision", "InputGate"]


@dataclass(frozen=True, slots=True)
class AllInputsEnded:
    """No input is left: finish."""


GateDecision = Advance | BecomeIdle | Hold | AbandonAndHold | TakeSnapshot | AllInputsEnded


_ENDED = -1
"""In the place of the next sequence number."""


class InputGate:
    def __init__(self, channels: Iterable[int], timed: Iterable[int] | None = None) -> None:
        """`timed`: the channels that carry timestamps and watermarks, by default all."""
        self._next_seq = dict.fromkeys(channels, 0)
        self._open = dict.fromkeys(self._next_seq)
        self._barriers = BarrierAlignment(self._open)
        self._watermarks = WatermarkMinimum(self._open if timed is None else timed)

    @property
    def open_channels(self) -> tuple[int, ...]:
        """The inputs that have not ended."""
        return tuple(self._open)

    @property
    def furthest(self) -> float:
        """How far in time the furthest input has come, whether it has ended or not."""
        return self._watermarks.furthest

    def restore(self, furthest: float) -> None:
        """In an earlier attempt an input had come so far in time; it may have ended then, and sends nothing now."""
        self._watermarks.furthest = furthest

    def check_sequence(self, channel: int, seq: int, *, is_last: bool = False) -> None:
        """A gap, a repeat, an unknown channel, or what follows the last frame is an error, never data.

        Raises ProtocolError.
        """
        expected = self._next_seq.get(channel)
        if expected == _ENDED or (channel not in self._open and expected is not None):
            raise ProtocolError(f"frame {seq} on channel {channel} after its end of input")
        if seq != expected:
            raise ProtocolError(f"frame {seq} on channel {channel}, where {expected} was due")
        self._next_seq[channel] = _ENDED if is_last else seq + 1

    def on_record(self, channel: int) -> None:
        """Records came on this channel."""
        self._watermarks.on_record(channel)

    def on_element(self, channel: int, element: ControlElement) -> Iterator[GateDecision]:
        """Yield what to do, in order. Raises ProtocolError."""
        if channel not in self._open:
            raise ProtocolError(f"{element} on channel {channel}, which is no input or has ended")
        match element:
            case Watermark(timestamp):
                decision = self._watermarks.on_watermark(channel, timestamp)
                if decision:
                    yield decision
            case Idle():
                became = self._watermarks.on_idle(channel)
                if became:
                    yield became
            case Barrier(checkpoint):
                if aligned := self._barriers.on_barrier(channel, checkpoint):
                    yield aligned
            case EndOfInput():
                yield from self._on_end(channel)

    def on_abort(self, checkpoint: int) -> tuple[int, ...]:
        """A checkpoint has failed: return the channels that waited for it."""
        return self._barriers.on_abort(checkpoint)

    def _on_end(self, channel: int) -> Iterator[GateDecision]:
        del self._open[channel]
        advanced = self._watermarks.on_end_of_input(channel)
        if advanced:
            yield advanced
        snapshot = self._barriers.on_end_of_input(channel)
        if snapshot:
            yield snapshot
        if not self._open:
            if finished := self._watermarks.finish():
                yield finished
            yield AllInputsEnded()
