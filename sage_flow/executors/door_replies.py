"""The replies of a request door: an answer waits until the reply queue of its caller is reached, then it is sent.

To reach a queue takes time, so only the thread of the door does it; other threads leave their answers here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sage_flow.errors import ChannelError, CodecError, InternalError
from sage_flow.executors.calling import cannot_be_sent
from sage_flow.queues.call_items import Answer, content_of
from sage_flow.queues.reply_queues import visit_reply_queue
from sage_flow.runtime.calls import Outcome
from sage_flow.runtime.failure import pack_error

if TYPE_CHECKING:
    from sage_flow.queues.descriptor import BaseQueueDescriptor
    from sage_flow.queues.methods import LiveQueue

__all__ = ["DoorReplies"]

_CALLERS: Final = 1000
"""The number of callers whose reply queues a door keeps."""


class DoorReplies:
    """The reply queues of the callers of one door, by their descriptors as text.

    `do` runs a task in the thread of the door. `requests` is the queue that the requests come from.
    """

    def __init__(self, do: Callable[[Callable[[], None]], None]) -> None:
        self._do = do
        self.requests: BaseQueueDescriptor | None = None
        self._lock = threading.Lock()
        self._callers: dict[str, _ReplyQueue] = {}

    def send(
        self, described: str, answer: Answer, outcome: Outcome | None, on_sent: Callable[[Exception | None], None]
    ) -> None:
        """Send an answer to its caller, with the value of `outcome` if there is one; from any thread.

        `on_sent` gets the error, None once the answer is in the queue.
        """
        queue = self._callers.get(described) or self._new_caller(described)
        queue.send(answer, outcome, on_sent)

    def forget(self, described: str) -> None:
        """The queue of a caller failed; the next answer for that caller connects to it again."""
        with self._lock:
            self._callers.pop(described, None)

    def _new_caller(self, described: str) -> _ReplyQueue:
        with self._lock:
            found = self._callers.get(described)
            if found is not None:
                return found
            found = self._callers[described] = _ReplyQueue()
            if len(self._callers) > _CALLERS:
                del self._callers[next(iter(self._callers))]
        self._do(partial(self._reach, described, found))
        return found

    def _reach(self, described: str, queue: _ReplyQueue) -> None:
        try:
            if self.requests is None:
                raise InternalError("a door must have reached its request queue before it answers")
            replies = visit_reply_queue(described, self.requests)
            queue.reached(replies, replies.queue_instance)
        except Exception as error:
            queue.failed(error)


class _ReplyQueue:
    """The reply queue of one caller. Answers wait here until the door has reached it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], None]] = []
        self._replies: BaseQueueDescriptor | None = None  # keeps the channel known
        self._live: LiveQueue | None = None
        self._error: Exception | None = None

    def reached(self, replies: BaseQueueDescriptor, live: LiveQueue) -> None:
        with self._lock:
            self._replies, self._live = replies, live
        self._send_waiting()

    def failed(self, error: Exception) -> None:
        with self._lock:
            self._error = error
        self._send_waiting()

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for send in waiting:
            send()

    def send(self, answer: Answer, outcome: Outcome | None, on_sent: Callable[[Exception | None], None]) -> None:
        with self._lock:
            live, error = self._live, self._error
            if live is None and error is None:
                self._waiting.append(partial(self.send, answer, outcome, on_sent))
                return
        if live is None:
            on_sent(error)
            return
        try:
            live.send(_item(answer, outcome, packs=not live.owns_contents), on_sent)
        except ChannelError as failure:
            on_sent(failure)


def _item(answer: Answer, outcome: Outcome | None, *, packs: bool) -> Any:
    if outcome is None:
        return answer.as_item()
    try:
        return answer._replace(content=content_of(outcome.value, packs=packs)).as_item()
    except CodecError as error:
        return answer._replace(error=pack_error(cannot_be_sent("the reply", error))).as_item()
