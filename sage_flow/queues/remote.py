"""The live queue of a channel that another process hosts: the methods for users."""

# Theory of operation
#
# Threads of users call these methods; each waits in `RemoteSession.request`, where locks and order are explained.
# Items are pickled and unpickled here, in the thread of the user and without a lock: an error of a user's class is
# raised where the item is put or got, and a slow class delays no other thread.
#
# A large put is two requests of one number: room first, then the items. The host keeps the room for that number; if
# the connection is lost in between, the put is made again like any other, and waits for room by itself.

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from typing import Any

from sage_flow.errors import QueueClosed
from sage_flow.queues import opcodes
from sage_flow.queues.consuming import Consumer, OnItems, OnLost, OnSent, Sending
from sage_flow.queues.items import decode_runs, encode_runs
from sage_flow.queues.methods import LiveQueue, check_count, check_most, waiting_time
from sage_flow.queues.opcodes import Opcode
from sage_flow.queues.reach_policy import ReachPolicy
from sage_flow.queues.remote_consuming import RemoteConsumer, RemoteSending
from sage_flow.queues.remote_session import RemoteSession

__all__ = ["ReachPolicy", "RemoteQueue"]


class RemoteQueue(RemoteSession, LiveQueue):
    """`name`: scope and channel_id. `host`: where it is, as text. `connection`: the connection to the host."""

    @property
    def maxsize(self) -> int:
        """How many items may wait; 0 or less: any number."""
        return self._maxsize

    @property
    def closed(self) -> bool:
        """It was closed, or its host is gone, as far as this process has heard."""
        return self._session.closed is not None

    @property
    def lost(self) -> bool:
        """See `LiveQueue.lost`."""
        return self._session.lost

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """See `QueueMethods.put_many`. Raises also: CodecError, ChannelNotReachable, PutInDoubt."""
        seconds, items = waiting_time(block, timeout), list(items)
        check_count(len(items), self._maxsize)
        if not items:
            self.qsize()  # raises QueueClosed if it is closed
            return
        runs = list(encode_runs(items))
        number = next(self._session.numbers)
        put = (Opcode.PUT, block, runs, False)
        if sum(size for _, _, size in runs) > opcodes.SMALL:
            room = self.request(number, (Opcode.RESERVE_ROOM, block, len(items)), seconds)
            answer = self.request(number, put, None) if room[0] == Opcode.ROOM else room
        else:
            answer = self.request(number, put, seconds)
        if answer[0] in (Opcode.NO_ROOM, Opcode.WITHDRAWN):
            raise queue.Full
        self.check(answer, Opcode.ACCEPTED)

    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """See `QueueMethods.get_many`. Raises also: CodecError, ChannelNotReachable."""
        seconds = waiting_time(block, timeout)
        check_most(max_items)
        answer = self.request(next(self._session.numbers), (Opcode.GET, block, max_items, False), seconds)
        if answer[0] in (Opcode.NO_ITEM, Opcode.WITHDRAWN):
            raise queue.Empty
        self.check(answer, Opcode.DELIVERY)
        return decode_runs(answer[1])

    def qsize(self) -> int:
        """How many items wait at the host, at this moment."""
        (size,) = self.check(self.request(next(self._session.numbers), (Opcode.SIZE,), None), Opcode.REPORT)
        if size is None:
            raise self.end("it was closed")
        return int(size)

    def close(self) -> None:
        """End it at the host, for everybody."""
        try:
            self.request(next(self._session.numbers), (Opcode.CLOSE,), None)
        except QueueClosed:
            return  # it was closed before, or its host is gone
        self.end("this process closed it")

    def statistics(self) -> dict[str, Any]:
        """Those of the host, if it is not closed, and `client`: the open requests, link and story of this process."""
        told = {"closed": True}
        if self._session.closed is None:
            (told,) = self.check(self.request(next(self._session.numbers), (Opcode.STATISTICS,), None), Opcode.REPORT)
        link = self.link
        client = {
            "session": self._session.name,
            "open_requests": len(self._session.open),
            "link": None if link is None else link.statistics(),
            "story": self._story.events(),
        }
        return {**told, "client": client}

    def send(self, item: Any, on_sent: OnSent, on_lost: OnLost | None = None) -> Sending:
        """See `LiveQueue.send`."""
        return RemoteSending(self, item, on_sent, on_lost)

    def consume(self, on_items: OnItems, on_closed: Callable[[Exception], object], *, holds: bool) -> Consumer:
        """See `LiveQueue.consume`."""
        return RemoteConsumer(self, on_items, on_closed, holds)

    def read_while(
        self, is_waiting: Callable[[], bool], timeout_s: float | None, others_wait: Callable[[], object]
    ) -> None:
        """See `LiveQueue.read_while`."""
        link = self.link
        if link is not None:
            link.read_while(is_waiting, timeout_s, others_wait)

    def interrupt(self) -> None:
        """See `LiveQueue.interrupt`."""
        link = self.link
        if link is not None:
            link.interrupt()
