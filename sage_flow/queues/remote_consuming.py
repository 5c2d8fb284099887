"""Put and get with callbacks (`consuming`) for a queue that another process hosts."""

# Theory of operation
#
# A consumer has at most one get open (`_asking`), for as many items as it was granted when that was sent; the answer
# makes the next one. `grant` and `stop` are for any thread, `_on_answer` runs as a callback of the session, when no
# lock is held. `_lock` guards the counts. It is not held while the session or a callback is called, because either may
# call methods of this consumer. So the answer may be there before `_ask` has noted its request, and the consumer may
# have been stopped meanwhile: `_ask` checks for both, and withdraws a get that is not wanted any more.

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from sage_flow.errors import QueueClosed
from sage_flow.queues.consuming import Consumer, HeldItem, OnItems, OnLost, OnSent, Sending
from sage_flow.queues.items import decode_runs, pack
from sage_flow.queues.opcodes import Opcode
from sage_flow.queues.remote_session import PendingRequest, RemoteSession

__all__ = ["RemoteConsumer", "RemoteSending"]


class RemoteSending(Sending):
    """One put. The item is copied when this is made."""

    def __init__(self, session: RemoteSession, item: Any, on_sent: OnSent, on_lost: OnLost | None) -> None:
        payload = pack(item)
        self._session = session
        self._on_sent = on_sent
        self._is_withdrawn = False
        put = (Opcode.PUT, True, [(payload, 1, sum(map(len, payload)))], on_lost is not None)
        self._call = session.begin(put, self._report, on_lost)

    def _report(self, answer: tuple[Any, ...]) -> None:
        if not self._is_withdrawn:
            self._on_sent(self._session.error_of(answer))

    def withdraw(self) -> None:
        self._is_withdrawn = True
        self._session.take_back(self._call)


class RemoteConsumer(Consumer):
    """One get that waits, renewed when it is answered, for as many items as were granted."""

    def __init__(
        self,
        session: RemoteSession,
        on_items: OnItems,
        on_closed: Callable[[Exception], object],
        holds: bool,
    ) -> None:
        self._session = session
        self._on_items = on_items
        self._on_closed = on_closed
        self._holds = holds
        self._lock = threading.Lock()  # guards what follows
        self._granted = 0
        self._asking = False
        self._call: PendingRequest | None = None
        self._is_stopped = False

    def grant(self, count: int) -> None:
        with self._lock:
            self._granted += count
            if self._is_stopped or self._asking or self._granted <= 0:
                return
            self._asking = True
            most = self._granted
        self._ask(most)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            call, self._call = self._call, None
        if call is not None:
            self._session.take_back(call)

    def _ask(self, most: int) -> None:
        try:
            call = self._session.begin((Opcode.GET, True, most, self._holds), self._on_answer)
        except QueueClosed as error:
            self._on_closed(error)
            return
        with self._lock:
            # The answer may have come before this thread could note the request.
            if call.answer is None and not self._is_stopped:
                self._call = call
            is_unwanted = self._is_stopped
        if is_unwanted:
            self._session.take_back(call)

    def _on_answer(self, answer: tuple[Any, ...]) -> None:
        error = self._session.error_of(answer)
        items: list[HeldItem] = []
        if answer[0] == Opcode.DELIVERY:
            items = self._items(*answer[1:])
        with self._lock:
            self._call, self._asking = None, False
            self._granted -= len(items)
            is_stopped = self._is_stopped
        if is_stopped:
            # `stop` found no request to withdraw, or came too late for it.
            for item in items:
                item.give_back(begun=False)
        elif error is not None:
            self._on_closed(error)
        else:
            self._on_items(items)
            self.grant(0)

    def _items(self, runs: list[tuple[Any, ...]], delivery: int, generation: int) -> list[HeldItem]:
        items: list[HeldItem] = []
        for payload, start, stop, waited_s, begun in runs:
            for index in range(start, stop):
                value = partial(_item, payload, index)
                settle = partial(self._settle, generation, delivery, len(items))
                items.append(HeldItem(value, waited_s, begun, settle))
        return items

    def _settle(self, generation: int, delivery: int, place: int, begun: bool | None) -> None:
        if not self._holds:
            return
        if begun is None:
            self._session.settle(generation, Opcode.FINISH, delivery, place)
        else:
            self._session.settle(generation, Opcode.GIVE_BACK, delivery, place, begun)


def _item(payload: Any, index: int) -> Any:
    return decode_runs([(payload, index, index + 1)])[0]
