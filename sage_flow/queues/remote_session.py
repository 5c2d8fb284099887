"""The shell around `ClientSession`: threads, locks, the clock and the connection.

A request is sent once; then a thread or a callback waits for its answer, without polling. If the link breaks, a waiting
thread dials again; if only callbacks wait, a thread is started that does it and ends. Getting a connection is not part
of a `timeout`: `connection_timeout` and `retry_count` bound it.
"""

# Theory of operation
#
# Threads. Threads of users make requests and wait; the thread that reads the link brings messages (the exchange thread,
# or a thread of a user that waits and reads for itself); a thread that dials may be any thread of a user, or one that
# `SessionDialer.start` has started.
#
# `_lock` guards the `ClientSession` and the outbox. Every thread takes it for the time of one event. No thread sends,
# dials, waits or calls back while it holds `_lock`.
#
# Order. The host relies on the order of the decisions: a FINISH before the next GET, for example. So a decision to send
# goes into the outbox under `_lock`, and `_flush` writes the outbox under `_sending`, which is only ever tried. A
# thread that does not get it leaves its messages to the holder, which looks again after it has let go: so the exchange
# thread never waits for a thread that writes a large put, and no message stays behind.
#
# A message leaves the outbox after it was written. If a KeyboardInterrupt comes between, it is written twice, which
# does no harm: the host and the session know every request by its number and every item by its delivery and place.
#
# `SessionDialer._connecting` is held while one thread dials. `_lock` and `_sending` may be taken inside it, `_lock`
# inside `_sending`, and never the other way round.
#
# Callbacks are collected in `due` under `_lock` and run after all locks are free, as they may make the next request.

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from sage_flow.errors import (
    ChannelConflict,
    ChannelError,
    ChannelNotReachable,
    InternalError,
    LinkClosed,
    PutInDoubt,
    QueueClosed,
)
from sage_flow.links.local_link import AnyLink
from sage_flow.links.story import Story
from sage_flow.queues.client_session import (
    ClientSession,
    LocalAnswer,
    Notify,
    QueueRequest,
    Send,
    Settle,
)
from sage_flow.queues.connection import QueueConnection
from sage_flow.queues.consuming import Due, OnLost
from sage_flow.queues.opcodes import ANYBODY, SMALL, Opcode, Part
from sage_flow.queues.reach_policy import ReachPolicy
from sage_flow.queues.remote_dialer import SessionDialer

__all__ = ["PendingRequest", "RemoteSession"]

_log = logging.getLogger("sage_flow.channels")


OnAnswer = Callable[[tuple[Any, ...]], object]


class PendingRequest(QueueRequest):
    """A request and what waits for its answer: a callback, or else a thread."""

    __slots__ = ("on_answer", "turn")

    def __init__(self, number: int, message: tuple[Any, ...], on_answer: OnAnswer | None = None) -> None:
        super().__init__(number, message, time.monotonic())
        self.on_answer = on_answer
        self.turn = threading.Lock()
        """Locked until the request is settled or the connection is lost; an Event would cost more than the request."""
        self.turn.acquire()

    def wake(self) -> None:
        """Let the waiting thread look again. The session's lock is held."""
        if self.turn.locked():
            self.turn.release()

    @property
    def is_awaited(self) -> bool:
        return self.on_answer is None


class RemoteSession:
    """`name`: scope and channel_id. `host`: where it is, as text. `connection`: the connection to the host."""

    def __init__(
        self,
        name: tuple[str, str],
        maxsize: int,
        connection: QueueConnection,
        host: str,
        policy: ReachPolicy,
        part: Part = ANYBODY,
    ) -> None:
        self._name = name
        self._maxsize = maxsize
        self._connection = connection
        self._host = host
        self._policy = policy
        self._lock = threading.Lock()
        self._session = ClientSession((*name, maxsize, part), os.urandom(8).hex())
        self._outbox: deque[Send] = deque()
        self._sending = threading.Lock()
        self.due = Due()
        """Callbacks; they run when no lock is held."""
        self._story = Story()
        self._dialer = SessionDialer(connection, policy)
        self._subscription = connection.subscribe(self)  # last: from here on the exchange thread may report a lost link

    @property
    def label(self) -> str:
        """The name of the queue, for messages."""
        return self._name[1]

    @property
    def link(self) -> AnyLink | None:
        """The link over which the session is attached."""
        link: AnyLink | None = self._session.connection
        return link

    # Requests that no thread waits for.

    def begin(self, message: tuple[Any, ...], on_answer: OnAnswer, on_lost: OnLost | None = None) -> PendingRequest:
        """Make a request; call `on_answer` with the answer, see `error_of`. Raises: QueueClosed."""
        request = PendingRequest(next(self._session.numbers), message, on_answer)
        self._make(request, on_lost)
        if self._session.connection is None:
            self._dialer.start(self)
        return request

    def take_back(self, request: PendingRequest) -> None:
        """Withdraw a request of `begin`."""
        with self._lock:
            self._outbox += self._session.abandon(request)
        self._flush()

    def settle(self, generation: int, opcode: Opcode, *arguments: Any) -> None:
        """FINISH or GIVE_BACK an item, unless the host has returned it meanwhile."""
        with self._lock:
            self._outbox += self._session.settle_item(generation, opcode, *arguments)
        self._flush()

    def error_of(self, answer: tuple[Any, ...]) -> Exception | None:
        """Return the error of an answer, None if there is none."""
        if answer[0] in (Opcode.ACCEPTED, Opcode.DELIVERY, Opcode.WITHDRAWN):
            return None
        if answer[0] == LocalAnswer.FAILED:
            failure: Exception = answer[1]
            return failure
        try:
            self.check(answer, Opcode.ACCEPTED)
        except ChannelError as error:
            return error
        return None

    # Requests, in the threads of users.

    def request(self, number: int, message: tuple[Any, ...], seconds: float | None) -> tuple[Any, ...]:
        """Make a request and wait for its answer; after `seconds` it is withdrawn, which is an answer, too."""
        request = PendingRequest(number, message)
        session = self._session
        try:
            self._make(request)
            patience = seconds if request.waits else self._policy.timeout_s
            while request.answer is None:
                link = session.connection
                if link is None:
                    self._dialer.connect(self)
                elif self._wait(request.turn, link, patience):
                    pass  # settled, or the link is lost
                elif request.waits:
                    with self._lock:
                        self._outbox += session.withdraw(request)
                    self._flush()
                    patience = self._policy.timeout_s
                else:
                    self._drop_link(link, f"no answer within {patience} s")
        except BaseException:
            self._abandon(request)
            raise
        if request.answer[0] == LocalAnswer.FAILED:
            raise request.answer[1]
        return request.answer

    def check(self, answer: tuple[Any, ...], expected: Opcode) -> tuple[Any, ...]:
        """Return the arguments of the expected answer. Raises: QueueClosed, PutInDoubt."""
        opcode = answer[0]
        if opcode == expected:
            return answer[1:]
        if opcode == LocalAnswer.IN_DOUBT:
            raise PutInDoubt(
                f"queue {self._name[1]} at {self._host}: the connection broke during a put, for longer than the host "
                "keeps a session; the items may be in the queue or not"
            )
        if opcode in (Opcode.CLOSED, LocalAnswer.LOST):
            raise self.end(answer[1])
        raise InternalError(f"{opcode} answers a request that expects {expected!r}")

    def end(self, why: str) -> QueueClosed:
        """Note that the queue is closed from now on; return the error."""
        with self._lock:
            if self._session.closed is None:
                self.note(f"closed: {why}")
            self._session.end(why)
        return self._error()

    def _make(self, request: PendingRequest, watcher: OnLost | None = None) -> None:
        with self._lock:
            if self._session.closed is not None:
                raise self._error()
            self._outbox += self._session.request(request, request.began, watcher)
        self._flush()

    def _wait(self, turn: threading.Lock, link: AnyLink, patience: float | None) -> bool:
        """Wait until the request is settled or the link is lost; False if `patience` seconds have passed before."""
        if patience is None:
            link.read_while(turn.locked, None, self._session.open.__len__)
            return turn.acquire()
        until = time.monotonic() + min(patience, threading.TIMEOUT_MAX)
        link.read_while(turn.locked, patience, self._session.open.__len__)
        return turn.acquire(timeout=max(0.0, until - time.monotonic()))

    def _drop_link(self, link: AnyLink, why: str) -> None:
        self.note(why)
        link.close(0)
        self.on_lost(link, why)

    def _abandon(self, request: PendingRequest) -> None:
        """Give up a request whose thread was interrupted or got an error."""
        with self._lock:
            self._outbox += self._session.abandon(request)
        self._flush()
        if request.answer is not None and request.answer[0] == Opcode.DELIVERY:
            _log.warning("a get from %s was interrupted after its items had arrived; they are lost", self._name[1])

    def _error(self) -> QueueClosed:
        return QueueClosed(f"queue {self._name[1]} at {self._host} is closed: {self._session.closed}")

    # Messages, in the thread that reads the link. Two links may bring messages at the same time: a new one, and an old
    # one that a thread still reads.

    def on_message(self, link: AnyLink, opcode: int, rest: tuple[Any, ...]) -> None:
        """A message of the host."""
        if opcode == Opcode.CONFLICT:
            conflict = ChannelConflict(
                f"queue {self._name[1]} at {self._host} was created with maxsize={rest[0]}, "
                f"this descriptor has maxsize={self._maxsize}"
            )
            self._dialer.answered(link, conflict)
            return
        with self._lock:
            if opcode == Opcode.ATTACHED:
                host, known = rest
                self._apply(self._session.attached(link, host, known, time.monotonic()))
            else:
                self._apply(self._session.received(link, opcode, *rest))
        self._flush()
        self.due.run()

    def on_lost(self, link: AnyLink, reason: str) -> None:
        """The link is gone; a waiting thread dials again."""
        with self._lock:
            redial = self._session.on_lost(link)
            for request in redial.requests:
                cast(PendingRequest, request).wake()
        if redial.was_attached:
            self.note(f"lost the connection: {reason}")
        self._dialer.answered(link, LinkClosed(reason))
        if redial.needs_thread:
            self._dialer.start(self)

    def _apply(self, decisions: Iterable[Any]) -> None:
        """Carry out decisions; `_lock` is held."""
        for decision in decisions:
            kind = type(decision)
            if kind is Send:
                self._outbox.append(decision)
            elif kind is Settle:
                request, answer = decision
                if request.on_answer is None:
                    request.wake()
                else:
                    self.due.add(partial(request.on_answer, answer))
            elif kind is Notify:
                self.due.add(partial(decision.watcher, decision.is_lost))
            else:
                self.note("attached again" if decision.is_resumed else "attached")
                self._dialer.answered(decision.connection)

    def _flush(self) -> None:
        """Write the outbox, unless another thread does: it looks again after it has let go."""
        outbox, sending = self._outbox, self._sending
        while outbox and sending.acquire(blocking=False):
            try:
                while outbox:
                    try:
                        self._write(outbox[0])
                    except Exception:
                        outbox.popleft()  # it cannot be sent; after an interrupt it is sent again
                        raise
                    outbox.popleft()
            finally:
                sending.release()

    def _write(self, send: Send) -> None:
        number, request = self._subscription, send.request
        # A put of many bytes has room already or waits for it: other requests need not wait for its bytes.
        is_large = request is not None and request.message[0] == Opcode.PUT and _size_of(request.message[2]) > SMALL
        link: AnyLink = send.connection
        try:
            # The caller waits for the host to accept the items, so they stay as they are until they are written.
            link.send(
                (number, *send.message),
                lane=(number, send.message[1]) if is_large else number,
                copy_buffers=False,
            )
        except LinkClosed as error:
            with self._lock:
                self._session.not_sent(send)
            self.on_lost(link, str(error))
        except Exception as error:
            if request is None:
                raise
            with self._lock:  # its thread or callback gets the error
                self._apply(self._session.fail(request, error))

    # For the dialer.

    def attach(self, link: AnyLink) -> None:
        """Send ATTACH over a new link; `SessionDialer.answered` is called with the answer."""
        with self._lock:
            self._outbox.append(self._session.attach(link))
        self._flush()

    @property
    def needs_thread(self) -> bool:
        """Something needs a connection for which no thread waits."""
        with self._lock:
            return self._session.needs_thread

    def unreachable(self, error: ChannelError, tries: int) -> Exception:
        """The host cannot be reached: its queue is lost, or it was never there."""
        if self._session.host is None and not self._policy.served:
            where = f"queue {self._name[1]} at {self._host}"
            return ChannelNotReachable(f"{where} ({tries} tries): {error}{_cure(error)}")
        why = f"its host is gone, and the items in the queue are lost ({error})"
        with self._lock:
            self.note(f"closed: {why}")
            self._apply(self._session.end_lost(why))
        return self._error()

    def fail_callbacks(self, error: Exception) -> None:
        """Settle the requests that no thread waits for."""
        with self._lock:
            for request in list(self._session.open.values()):
                if not request.is_awaited:
                    self._apply(self._session.fail(request, error))

    def note(self, what: str) -> None:
        """Add to the story."""
        self._story.note(time.monotonic(), what)


def _size_of(runs: list[tuple[Any, int, int]]) -> int:
    return sum(size for _, _, size in runs)


def _cure(error: ChannelError) -> str:
    if "key" not in str(error):
        return ""
    return " (descriptors carry no key: add it by with_credentials(key=server.key))"
