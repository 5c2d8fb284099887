"""The event time of one subtask: it moves through the operators of the chain, and then to the outputs.

Where an `assign_timestamps` stands in the chain a new time begins: what comes before it has the time of the inputs,
what comes behind it the time that it assigns. Within one of these stretches a watermark visits the operators in their
order. Each gives what has become due, which runs through all that follows, before the watermark goes on; an operator
that keeps records of an earlier time holds it back.

Outputs get a watermark at most every `_EVERY_S` seconds, or where the subtask has nothing else to do. Only edges that
carry timestamps get any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sage_flow.runtime.assigned_time import AssignedTime
from sage_flow.runtime.messages import Idle, Watermark
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import Output
from sage_flow.runtime.port import UNWINDING
from sage_flow.splits import SplitSignal

__all__ = ["EventTime"]

_EVERY_S = 0.05

Give = Callable[[int, list[Any]], None]


class EventTime:
    """`give(index, batch)` runs what an operator has given through the operators behind it. `clock()` are seconds.

    `explain` adds to an error which operator raised it.
    """

    def __init__(
        self,
        operators: Sequence[BoundOperator],
        outputs: Sequence[Output],
        give: Give,
        explain: Callable[[BaseException, BoundOperator], None],
        clock: Callable[[], float],
    ) -> None:
        self._operators = operators
        self._outputs = [output for output in outputs if output.edge.timed]
        self._give = give
        self._explain = explain
        self._clock = clock
        self._assigns = [index for index, bound in enumerate(operators) if isinstance(bound.held, AssignedTime)]
        self._looked_at = [
            index
            for index, bound in enumerate(operators)
            if bound.operator.timed or bound.held.goes_by_clock or index in self._assigns
        ]
        self.follows_records = bool(self._looked_at)
        """Whether processing records can make time pass, or something due."""
        self._last_assign = self._assigns[-1] if self._assigns else -1
        self._moved = dict.fromkeys(self._assigns, -math.inf)  # what the operators behind have been told
        self._is_idle = False
        self._reached = self._sent = -math.inf
        self._send_at = -math.inf
        self.every_record = any(time.every_record for time in self._assigned())
        """Records are processed one by one, as a watermark follows each."""

    def _assigned(self) -> Iterator[AssignedTime]:
        for index in self._assigns:
            held = self._operators[index].held
            if isinstance(held, AssignedTime):
                yield held

    # -- what moves it --------------------------------------------------------------------------------------

    def expect(self, splits: Iterable[str], *, are_begun: bool) -> None:
        """The source of this subtask reads these splits: all of them from now on, or one after another."""
        for time in self._assigned():
            time.expect(splits, are_begun=are_begun)

    def begin_batch(self, split: str) -> None:
        """The source has given records of this split."""
        for time in self._assigned():
            time.begin_batch(split)

    def on_signal(self, signal: SplitSignal) -> Iterator[None]:
        """The source says something about a split: yield after each batch of what that makes due."""
        for time in self._assigned():
            time.on_signal(signal)
        yield from self.after_slice()

    def on_frame(self) -> None:
        """A frame of records has come."""
        for time in self._assigned():
            time.on_records()

    def after_slice(self) -> Iterator[None]:
        """Yield after each batch of what has become due, since records were processed or time has passed."""
        for index in self._looked_at:
            bound = self._operators[index]
            if isinstance(bound.held, AssignedTime):
                yield from self._move(index, bound.held)
            elif bound.held.is_urgent:
                yield from self._give_due(index, bound.now)
                # What held the watermark back may be gone, and time may not move again for long.
                yield from self.advance(index + 1, bound.held.holds(bound.now))
        self.send_in_time()

    def _move(self, index: int, time: AssignedTime) -> Iterator[None]:
        try:
            now = time.move()
        except Exception as error:  # of a watermark generator of the user's
            self._explain(error, self._operators[index])
            raise
        if now > self._moved[index]:
            self._moved[index] = now
            yield from self.advance(index + 1, time.now)
        if index == self._last_assign:
            self._note_idle(time.is_idle)

    def look_at_clock(self) -> Iterator[None]:
        """The clock is at `look_at`: splits may have been quiet for long enough, and timers be due."""
        for time in self._assigned():
            time.look_at_clock()
        yield from self.after_slice()

    @property
    def look_at(self) -> float:
        """When, on the clock, `look_at_clock` has something to do; infinity if never."""
        return min((self._operators[index].held.look_at for index in self._looked_at), default=math.inf)

    def advance(self, start: int, now: float) -> Iterator[None]:
        """The time of operator `start` is `now`, or later: yield after each batch of what has become due."""
        for index in range(start, len(self._operators)):
            bound = self._operators[index]
            if isinstance(bound.held, AssignedTime):
                return  # behind it is another time
            if now > bound.now:
                bound.now = now
                yield from self._give_due(index, now)
            if bound.now == math.inf:
                return  # it has ended, or gives its last results: those behind it end when it has done so
            now = bound.held.holds(bound.now)
        self._reached = max(self._reached, now)

    def release(self, index: int) -> Iterator[None]:
        """Records have left an operator that kept them: yield after each batch that this makes due, or that they do."""
        bound = self._operators[index]
        if bound.operator.timed:
            yield from self.advance(index + 1, bound.held.holds(bound.now))
        if self.follows_records:
            yield from self.after_slice()

    def _give_due(self, index: int, now: float) -> Iterator[None]:
        bound = self._operators[index]
        try:
            for batch in bound.held.due(now):
                self._give(index, batch)
                yield
        except UNWINDING:
            raise
        except BaseException as error:
            self._explain(error, bound)
            raise

    def resume(self) -> Iterator[None]:
        """The operators are restored: tell the readers how far time is, who have forgotten it. Yields as `advance`."""
        yield from self.advance(0, self._operators[0].now)
        yield from self.after_slice()
        self.send()

    def on_inputs_idle(self) -> None:
        """All inputs are idle."""
        if not self._assigns:
            self._note_idle(True)

    def end(self, index: int) -> Iterator[None]:
        """The input of one operator has ended: yield after each batch of what that makes due."""
        bound = self._operators[index]
        if isinstance(bound.held, AssignedTime):
            # All records have come: whichever split was the last one, time is where the furthest was.
            yield from self.advance(index + 1, max(bound.held.now, bound.held.furthest))
            self.send()
        bound.now = math.inf
        yield from self._give_due(index, math.inf)

    def pass_end(self, index: int, reached: float) -> Iterator[None]:
        """An operator has given all that it kept: what held back the time `reached` is gone.

        Infinity: a snapshot was taken amid the end, and those behind had been told.
        """
        if reached < math.inf and not isinstance(self._operators[index].held, AssignedTime):
            yield from self.advance(index + 1, reached)

    def watermarks(self) -> dict[str, int]:
        """Return how far the operators are whose records have timestamps, by name. Any thread may ask."""
        timed = (bound for bound in self._operators if bound.operator.timed and bound.operator.kind.is_counted)
        return {bound.operator.name: bound.watermark() for bound in timed}

    # -- the outputs ----------------------------------------------------------------------------------------

    def send_in_time(self) -> None:
        """Tell the outputs how far it is, unless they were told a moment ago. May suspend."""
        if self._reached > self._sent and (self.every_record or self._clock() >= self._send_at):
            self.send()

    def send(self) -> None:
        """Tell the outputs how far it is, if they do not know. May suspend."""
        if self._reached > self._sent:
            self._sent = self._reached
            self._send_at = self._clock() + _EVERY_S
            self._is_idle = False
            for output in self._outputs:
                output.send_element(Watermark(int(self._sent)))

    def _note_idle(self, is_idle: bool) -> None:
        if is_idle and not self._is_idle:
            self.send()
            for output in self._outputs:
                output.send_element(Idle())
        elif self._is_idle and not is_idle:
            # A record wakes the reader, too; a watermark that does not move does where no record comes.
            self._sent = -math.inf
        self._is_idle = is_idle
