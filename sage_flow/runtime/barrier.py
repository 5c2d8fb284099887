"""Barrier alignment of one subtask's inputs.

A checkpoint n is a consistent cut only if a subtask snapshots after every record before Barrier(n) on
every input and before any record after it. Inputs that delivered the barrier wait for the rest.
Chandy and Lamport (1985) for the cut; Carbone et al. (2015) for barriers on channels.

Barriers and commands cross: a barrier may come after its checkpoint was aborted, or after a newer one. Such a barrier
is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sage_flow.errors import ProtocolError

__all__ = ["AbandonAndHold", "BarrierAlignment", "Hold", "TakeSnapshot"]


@dataclass(frozen=True, slots=True)
class Hold:
    """Process nothing more from this channel until it is released."""

    channel: int


@dataclass(frozen=True, slots=True)
class AbandonAndHold:
    """A newer barrier overtook checkpoint `abandoned`: release `released`, then hold `channel`."""

    abandoned: int
    released: tuple[int, ...]
    channel: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """All inputs are at the barrier: snapshot, forward the barrier, then release `released`."""

    checkpoint: int
    released: tuple[int, ...]


class BarrierAlignment:
    def __init__(self, channels: Iterable[int]) -> None:
        self._open = dict.fromkeys(channels)  # a dict keeps the order, so that decisions never depend on hashing
        self._held: dict[int, None] = {}
        self._latest = -1  # the newest checkpoint seen
        self._aligning = False

    @property
    def is_over(self) -> bool:
        """Every input has ended, or there is none."""
        return not self._open

    def on_barrier(self, channel: int, checkpoint: int) -> Hold | TakeSnapshot | AbandonAndHold | None:
        """None: it is older than the newest one, or its checkpoint was aborted. Raises ProtocolError.

        No barrier can come on a held or ended channel.
        """
        if channel not in self._open or channel in self._held:
            raise ProtocolError(f"barrier {checkpoint} on channel {channel}, which has ended or is held")
        if checkpoint < self._latest or (checkpoint == self._latest and not self._aligning):
            return None
        overtaken, released = self._latest, tuple(self._held)
        abandons = self._aligning and checkpoint > overtaken
        if abandons:
            self._held.clear()
        self._latest, self._aligning = checkpoint, True
        self._held[channel] = None
        if len(self._held) == len(self._open):
            # Only a single open channel can abandon and complete in one step, and then nothing was held.
            return self._complete()
        return AbandonAndHold(overtaken, released, channel) if abandons else Hold(channel)

    def on_end_of_input(self, channel: int) -> TakeSnapshot | None:
        """An ended input counts as every later barrier."""
        del self._open[channel]
        if self._aligning and len(self._held) == len(self._open):
            return self._complete()
        return None

    def on_abort(self, checkpoint: int) -> tuple[int, ...]:
        """Checkpoint `checkpoint` has failed: return the channels to release. Its barriers that come later are late."""
        released: tuple[int, ...] = ()
        if self._aligning and self._latest <= checkpoint:
            released, self._aligning = tuple(self._held), False
            self._held.clear()
        self._latest = max(self._latest, checkpoint)
        return released

    def _complete(self) -> TakeSnapshot:
        released = tuple(self._held)
        self._held.clear()
        self._aligning = False
        return TakeSnapshot(self._latest, released)
