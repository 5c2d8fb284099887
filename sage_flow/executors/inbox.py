"""The messages that have reached a subtask and wait: frames, requests, and commands not obeyed on delivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from sage_flow.errors import ProtocolError
from sage_flow.executors.incoming import IncomingFrames, IncomingRequests, total_received
from sage_flow.executors.shell import Condition
from sage_flow.runtime.call_batches import CallBatch, CallBatches
from sage_flow.runtime.credits import InputCredits
from sage_flow.runtime.messages import CancelRequest, Control, Credit, Data, EndOfInput, Message, Request
from sage_flow.runtime.report import ChannelReport
from sage_flow.runtime.statistics import CallStatistics

__all__ = ["Inbox"]


class Inbox:
    """Messages in the order of their arrival. Frames are bounded by credits, requests by their callers' places.

    All state is guarded by the lock of the port, `condition`: `put` and its like take it, from whatever thread brings a
    message; `take_all` and `take_one` are called while it is held. `requests` is None for a subtask that answers none.
    """

    def __init__(
        self,
        name: str,
        condition: Condition,
        incoming: dict[int, IncomingFrames],
        requests: IncomingRequests | None,
        credits: InputCredits,
    ) -> None:
        self._name = name
        self._condition = condition
        self._lock = condition.lock
        self._messages: deque[Message] = deque()
        self._incoming = incoming
        self._requests = requests
        self._credits = credits
        self._is_poked = False
        self.is_open = False
        """The subtask is open, so the time limits of requests have begun."""

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    # -- for the threads that deliver -----------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """Add a message."""
        with self._lock:
            self._messages.append(message)
            self._condition.notify_all()

    def put_data(self, data: Data, now: float) -> None:
        """Add a frame of records."""
        with self._lock:
            self._incoming[data.channel].arrived(data, now)
            self._messages.append(data)
            self._condition.notify_all()

    def put_control(self, control: Control) -> None:
        """Add a control element."""
        with self._lock:
            if isinstance(control.element, EndOfInput):
                self._credits.ended(control.channel)
            self._messages.append(control)
            self._condition.notify_all()

    def put_request(self, request: Request, now: float) -> None:
        """Add a request. Raises ProtocolError if the subtask answers none."""
        if self._requests is None:
            raise ProtocolError(f"a request has come to {self._name}, which answers none")
        with self._lock:
            self._requests.arrived(request, now)
            self._messages.append(Request(*request[:-1], now + request.remaining_s))
            self._condition.notify_all()

    def take_back(self, taken: CancelRequest, on_begun: Callable[[int, int], object]) -> None:
        """Remove a request. If it is no longer waiting, `on_begun` is called, under the lock."""
        with self._lock:
            if self._requests is not None:
                self._requests.dropped(*taken)
            for message in self._messages:
                if isinstance(message, Request) and (message.reply_to, message.call_id) == taken:
                    self._messages.remove(message)
                    break
            else:
                on_begun(*taken)
            self._condition.notify_all()

    def poke(self) -> None:
        """Wake the activation that waits for a message, although there is none."""
        with self._lock:
            self._is_poked = True
            self._condition.notify_all()

    # -- for the activation ---------------------------------------------------------------------------------

    def open(self, now: float) -> None:
        """The subtask is open. The time limits of the requests that have waited for that begin now."""
        with self._lock:
            self.is_open = True
            self._credits.opened(now)
            for index, message in enumerate(self._messages):
                if isinstance(message, Request):
                    self._messages[index] = message._replace(deadline=now + message.remaining_s)

    def take_all(self, taken: list[Message]) -> bool:
        """Move all messages into a list; return whether there was one, or `poke` was called."""
        taken.extend(self._messages)
        self._messages.clear()
        is_poked, self._is_poked = self._is_poked, False
        return bool(taken) or is_poked

    def take_one(self, now: Callable[[], float]) -> Message | Literal[True] | None:
        """Take out the oldest message; a request has begun then. True: there is none, but `poke` was called."""
        if self._messages:
            message = self._messages.popleft()
            if self._requests is not None and isinstance(message, Request):
                self._requests.begun(message, now())
            return message
        is_poked, self._is_poked = self._is_poked, False
        return True if is_poked else None

    def take_call(
        self, now: Callable[[], float], batches: CallBatches, due_at: float
    ) -> Message | CallBatch | Literal[True] | None:
        """Like `take_one`, but requests of batched methods are gathered, and taken out as a batch.

        True also if a batch is due at another time than `due_at`, until which the activation would have waited.
        """
        while True:
            batch = self._gather(batches) or batches.take_due(now())
            if batch is None or self._requests is None:
                break
            begun = self._requests.begun_together(batch.requests, now())
            if begun:
                return CallBatch(batch.method, begun)
        return self.take_one(now) or (True if batches.due_at != due_at else None)

    def _gather(self, batches: CallBatches) -> CallBatch | None:
        """Gather the requests before the first other message; return a batch as soon as it is whole.

        A batch has no requests from behind another message, so that neither waits for ever for the other's sake.
        """
        messages = self._messages
        while messages and isinstance(request := messages[0], Request) and request.method in batches:
            messages.popleft()
            arrived = None if self._requests is None else self._requests.arrival(request)
            if arrived is not None and batches.add(request, arrived):
                return batches.take(request.method)
        return None

    def begin(self, request: Request, now: float) -> bool:
        """Begin a request that was taken out earlier. False if its caller has taken it back."""
        with self._lock:
            return self._requests is None or self._requests.begun(request, now)

    def waited(self, seconds: float) -> None:
        """The subtask has waited for messages, with nothing to do."""
        self._credits.waited(seconds)

    def processed(self, channel: int, cost: int, now: float) -> Iterable[Credit]:
        """The oldest frame of a channel was processed; return the credits to send now, to the `producer` of each."""
        return self._credits.consumed(channel, self._incoming[channel].processed(), cost, now)

    def producer(self, channel: int) -> int:
        """Return the address that sends on a channel."""
        return self._incoming[channel].channel.producer

    # -- what is to be seen from outside --------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """The number of records that have arrived and are not processed."""
        return sum(incoming.depth for incoming in self._incoming.values())

    @property
    def received(self) -> tuple[int, int | None]:
        """The records that have arrived so far, and their bytes; None: nothing was encoded."""
        return total_received(self._incoming.values())

    def statistics(self) -> list[dict[str, CallStatistics]]:
        """How long requests waited; empty if the subtask answers none."""
        if self._requests is None:
            return []
        with self._lock:
            return [self._requests.statistics()]

    def report(self, address: int, medium: Callable[[int], str], now: float) -> list[ChannelReport]:
        """Report how full the channels are; called under the lock."""
        channels = [incoming.report(now) for incoming in self._incoming.values()]
        if self._requests is not None:
            channels.append(self._requests.report(address, medium, now))
        return channels
