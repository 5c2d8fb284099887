"""One process's session at a queue that another process hosts (or this one, over a socket of its own).

A request is sent once; then a thread or a callback waits for its answer, without polling. If the link breaks, a waiting
thread dials again (for callbacks a separate thread does), resumes the session and sends all open requests again: the
host knows which ones it has answered. Getting a connection is no part of a `timeout`:
`connection_timeout` and `retry_count` bound it.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

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
from sage_flow.queues import opcodes
from sage_flow.queues.connection import QueueConnection
from sage_flow.queues.consuming import Due, OnLost
from sage_flow.queues.opcodes import Opcode
from sage_flow.queues.remote_call import WAITING, PendingRequest, ReachPolicy

_log = logging.getLogger("sage_flow.channels")

_FIRST_PAUSE_S: Final = 0.05  # between two tries to connect; it doubles
_LONGEST_PAUSE_S: Final = 1.0

_IN_DOUBT: Final = -1
_LOST: Final = -2
_FAILED: Final = -3


class RemoteSession:
    """`name`: scope and channel_id. `host`: where it is, for people. `connection`: how to get there."""

    def __init__(
        self,
        name: tuple[str, str],
        maxsize: int,
        connection: QueueConnection,
        host: str,
        policy: ReachPolicy,
        part: opcodes.Part = opcodes.ANYBODY,
    ) -> None:
        self._name = name
        self._part = part
        self._maxsize = maxsize
        self._connection = connection
        self._host = host
        self._policy = policy
        self._session = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self._calls: dict[int, PendingRequest] = {}  # without an answer; entries are taken out by either thread
        self._hearing = threading.Lock()  # guards the two below, and is held while an answer is taken
        self._heard: AnyLink | None = None  # over which answers count: the last one that ATTACH was sent over
        self._received = 0  # deliveries
        self._sending = threading.Lock()  # guards the two below, and holds while a call is sent
        self._link: AnyLink | None = None  # over which the session is attached
        self._closed: str | None = None  # and why
        self._connecting = threading.Lock()
        self._tries = 0  # how often `_connect` was done, so that who waited for it does not do it again
        self._failure: Exception | None = None  # of the last one
        self._host_id: str | None = None
        self._helping = threading.Lock()  # guards the next
        self._is_helped = False  # a thread of its own connects for calls that nobody waits for
        self._due = Due()
        self._latest = 0  # the highest number of a call that was sent
        self._held = 0  # items
        self._settled: deque[tuple[int, tuple[Any, ...]]] = deque()  # what was said of them, behind which call
        self._watched: dict[int, OnLost] = {}  # by put
        self.lost = False
        self.generation = 0
        """How often the host has forgotten us, and with us what we held."""
        self._attached: queue.SimpleQueue[tuple[AnyLink, int, tuple[Any, ...]]] = queue.SimpleQueue()
        self._story = Story()
        self._subscription = connection.subscribe(self)  # last: from here on the exchange thread may report a lost link

    # Requests that no thread waits for.

    def begin(
        self,
        message: tuple[Any, ...],
        then: Callable[[tuple[Any, ...]], object],
        on_lost: OnLost | None = None,
    ) -> PendingRequest:
        """Send a request; call `then` with the answer, see `error_of`. Raises: QueueClosed."""
        call = PendingRequest(next(self._numbers), message, then=then)
        if on_lost is not None:
            self._watched[call.number] = on_lost
        self._send_request(call)
        if self._link is None:
            self._keep_connected()
        return call

    def take_back(self, call: PendingRequest) -> None:
        """Withdraw a request of `begin`."""
        with self._sending, self._hearing:
            self._watched.pop(call.number, None)
            if call.answer is not None:
                return
            call.abandoned = True
            if not call.sent:
                self._calls.pop(call.number, None)
            elif self._link is not None:
                self._send(self._link, Opcode.WITHDRAW, call.number)

    def settle(self, generation: int, opcode: int, *arguments: Any) -> None:
        """FINISH or GIVE_BACK an item, unless the host has returned it meanwhile."""
        with self._sending:
            if generation == self.generation and self._closed is None:
                self._held -= 1
                self._settled.append((self._latest, (opcode, *arguments)))
                if self._link is not None:
                    self._send(self._link, opcode, *arguments)

    def hold(self, count: int) -> None:
        """Note that `count` items have arrived that will be settled; until then the session must stay alive."""
        with self._sending:
            self._held += count

    def error_of(self, answer: tuple[Any, ...]) -> Exception | None:
        """Return the error of an answer, None if there is none."""
        if answer[0] == _FAILED:
            failure: Exception = answer[1]
            return failure
        if answer[0] in (Opcode.ACCEPTED, Opcode.DELIVERY, Opcode.WITHDRAWN):
            return None
        try:
            self.check(answer, Opcode.ACCEPTED)
        except ChannelError as error:
            return error
        return None

    def _keep_connected(self) -> None:
        with self._helping:
            if self._is_helped:
                return
            self._is_helped = True
        threading.Thread(target=self._help, name=f"connects {self._name[1]}", daemon=True).start()

    def _needs_help(self) -> bool:
        if self._link is not None or self._closed is not None:
            return False
        return bool(self._held or self._settled or self._watched) or any(
            call.then is not None for call in list(self._calls.values())
        )

    def _help(self) -> None:
        while self._needs_help():
            try:
                self._connect()
            except Exception as error:  # the callbacks get it
                for call in list(self._calls.values()):
                    if call.then is not None:
                        self._settle(call.number, _FAILED, error)
            self._due.run()
        with self._helping:
            self._is_helped = False
        if self._needs_help():
            self._keep_connected()

    # Requests, in the threads of users.

    def request(self, number: int, message: tuple[Any, ...], seconds: float | None) -> tuple[Any, ...]:
        """Send a request and wait for its answer; after `seconds` it is withdrawn, which is an answer, too."""
        call = PendingRequest(number, message)
        try:
            self._send_request(call)
            patience = seconds if call.waits else self._policy.timeout_s
            while call.answer is None:
                link = self._link
                if link is None:
                    self._connect()
                elif self._wait(call, link, patience):
                    call.changed.clear()
                elif call.waits:
                    self._withdraw(call)
                    patience = self._policy.timeout_s
                else:
                    self._drop_link(f"no answer within {patience} s")
        except BaseException:
            self._abandon(call)
            raise
        return call.answer

    def _wait(self, call: PendingRequest, link: AnyLink, patience: float | None) -> bool:
        """Until the call has changed. False if it has not after `patience` seconds."""
        until = None if patience is None else time.monotonic() + min(patience, threading.TIMEOUT_MAX)
        link.read_while(lambda: not call.changed.is_set(), patience, self._calls.__len__)
        return call.changed.wait(None if until is None else max(0.0, until - time.monotonic()))

    def _drop_link(self, why: str) -> None:
        link = self._link
        if link is not None:
            self._note(why)
            link.close(0)
            self.on_lost(link, why)

    def _send_request(self, call: PendingRequest) -> None:
        with self._sending:
            if self._closed is not None:
                raise self._error()
            self._calls[call.number] = call
            if self._link is not None:
                self._write_request(self._link, call)

    def _write_request(self, link: AnyLink, call: PendingRequest) -> None:
        """While `_sending` is held."""
        opcode, *rest = call.message
        if opcode in WAITING:
            rest = [min(self._calls, default=call.number), *rest]
        if opcode == Opcode.PUT:  # perhaps there was no connection until now
            rest.append(time.monotonic() - call.began)
        large = opcode == Opcode.PUT and sum(size for _, _, size in call.message[2]) > opcodes.SMALL
        try:
            # The caller waits for the host to accept the items, so they stay as they are until they are written.
            link.send(
                (self._subscription, int(opcode), call.number, *rest),
                lane=(self._subscription, call.number) if large else self._subscription,
                copy_buffers=False,
            )
            call.sent = True
            self._latest = max(self._latest, call.number)
        except LinkClosed as error:
            self.on_lost(link, str(error))

    def _withdraw(self, call: PendingRequest) -> None:
        with self._sending:
            if self._link is not None and call.answer is None:
                self._send(self._link, Opcode.WITHDRAW, call.number)
            call.waits = False
            call.message = (call.message[0], False, *call.message[2:])  # if it has to be said again

    def _abandon(self, call: PendingRequest) -> None:
        """Its thread was interrupted, or cannot be served. What is delivered for it goes back."""
        with self._sending, self._hearing:
            call.abandoned = True
            if not call.sent:
                self._calls.pop(call.number, None)
            elif call.answer is None and call.waits and self._link is not None:
                self._send(self._link, Opcode.WITHDRAW, call.number)
            elif call.answer is not None and call.answer[0] == Opcode.ROOM and self._link is not None:
                self._send(self._link, Opcode.RETURN_ROOM, call.number)
            elif call.answer is not None and call.answer[0] == Opcode.DELIVERY:
                _log.warning("a get from %s was interrupted when its items had come; they are lost", self._name[1])

    def _send(self, link: AnyLink, opcode: int, *arguments: Any) -> None:
        try:
            link.send((self._subscription, int(opcode), *arguments), lane=self._subscription)
        except LinkClosed as error:
            self.on_lost(link, str(error))

    def check(self, answer: tuple[Any, ...], expected: int) -> tuple[Any, ...]:
        if answer[0] == expected:
            return answer[1:]
        if answer[0] == _IN_DOUBT:
            raise PutInDoubt(
                f"queue {self._name[1]} at {self._host}: the connection broke during a put, for longer than the host "
                "remembers; the items may be in the queue or not"
            )
        if answer[0] in (Opcode.CLOSED, _LOST):
            raise self.end(answer[1])
        raise InternalError(f"{answer[0]} answers a request that expects {expected}")

    def end(self, why: str) -> QueueClosed:
        """It is closed from now on."""
        with self._sending:
            if self._closed is None:
                self._closed = why
                self._note(f"closed: {why}")
        return self._error()

    def _error(self) -> QueueClosed:
        return QueueClosed(f"queue {self._name[1]} at {self._host} is closed: {self._closed}")

    # The connection, in the threads of users.

    def _connect(self) -> None:
        """Attach the session over a new link, or find that somebody else just did.

        Raises: QueueClosed, ChannelNotReachable, ChannelConflict.
        """
        try:
            self._connect_once()
        finally:
            self._due.run()

    def _connect_once(self) -> None:
        tries = self._tries
        with self._connecting:
            if self._link is not None:
                return
            if self._tries != tries:
                if self._failure is not None:
                    raise self._failure
                return
            try:
                self._failure = None
                self._attach()
            except Exception as error:
                self._failure = error
                raise
            finally:
                self._tries += 1

    def _attach(self) -> None:
        pause = _FIRST_PAUSE_S
        for left in range(self._policy.retries, -1, -1):
            try:
                link = self._connection.link(self._policy.timeout_s)
                self._resume(link)
                return
            except (ChannelNotReachable, LinkClosed) as error:
                self._note(f"no connection: {error}")
                if not left:
                    raise self._give_up(error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _give_up(self, error: ChannelError) -> Exception:
        if self._host_id is None and not self._policy.served:
            where = f"queue {self._name[1]} at {self._host}"
            return ChannelNotReachable(f"{where} ({self._policy.retries + 1} tries): {error}{_cure(error)}")
        self.lost = True
        self._settle_all(_LOST, why := f"its host is gone, and with it what was in the queue ({error})")
        return self.end(why)

    def _resume(self, link: AnyLink) -> None:
        """Raises: LinkClosed if it breaks or the host is silent; ChannelConflict."""
        while not self._attached.empty():  # of earlier tries
            self._attached.get()
        with self._hearing:  # what the old link still brings comes again, and must not count twice
            self._heard = link
            calls, received = list(self._calls.values()), self._received
        gets = [call.number for call in calls if call.message[0] == Opcode.GET and not call.abandoned]
        scope, channel_id = self._name
        attach = (scope, channel_id, self._maxsize, self._part, self._host_id, self._session, received, gets)
        link.send((self._subscription, int(Opcode.ATTACH), *attach), lane=self._subscription)
        answered, opcode, rest = self._wait_attached(link)
        if opcode == _LOST:
            raise LinkClosed(str(rest[0]))
        if opcode == Opcode.CONFLICT:
            raise ChannelConflict(
                f"queue {channel_id} at {self._host} was made with maxsize={rest[0]}, "
                f"this descriptor has maxsize={self._maxsize}"
            )
        host, known = rest
        self._take_up(answered, host, known)

    def _wait_attached(self, link: AnyLink) -> tuple[AnyLink, int, tuple[Any, ...]]:
        while True:
            try:
                told = self._attached.get(timeout=self._policy.timeout_s)
            except queue.Empty:
                link.close(0)
                raise LinkClosed(f"no answer within {self._policy.timeout_s:.3g} s") from None
            if told[0] is link:
                return told

    def _take_up(self, link: AnyLink, host: str, known: bool) -> None:
        """The session is attached: say again what is open."""
        with self._sending:
            if self._host_id not in (None, host):
                why = "its host was started anew, and what was in the queue is lost"
                self._closed, self.lost = why, True
                self._settle_all(_LOST, why)
                return
            if self._host_id is not None and not known:
                self._received = 0
                self.generation += 1
                self._held = 0
                self._settled.clear()
                if self._part == opcodes.OWNER:
                    self._closed = why = "the connection was lost for longer than its host remembers"
                    self._settle_all(_LOST, why)
                    return
            self._note("attached again" if known else "attached")
            resumed = known or self._host_id is None
            self._host_id = host
            self._link = link
            for _, arguments in self._settled:  # it may have been said over the lost link, and is true still
                self._send(link, *arguments)
            for call in list(self._calls.values()):
                if call.message[0] == Opcode.PUT and call.sent and not resumed:
                    self._settle(call.number, _IN_DOUBT)
                elif call.abandoned:
                    self._calls.pop(call.number, None)
                elif call.answer is None:  # a delivery that was sent again may have come meanwhile
                    self._write_request(link, call)

    # What comes from the host, on the exchange thread or on one that reads for itself: two links may bring it at the
    # same time, an old one that somebody still reads and the new one. It takes no lock that is held for long.

    def on_message(self, link: AnyLink, opcode: int, rest: tuple[Any, ...]) -> None:
        """A message of the host."""
        if opcode in (Opcode.ATTACHED, Opcode.CONFLICT):
            self._attached.put((link, opcode, rest))
            return
        number, *answer = rest
        with self._hearing:
            if link is not self._heard:
                return  # all that was open is said again over the new one, and answered there
            if opcode == Opcode.DELIVERY:
                while self._settled and self._settled[0][0] < number:
                    self._settled.popleft()  # the host has heard what was said before it heard this call
                self._on_delivery(link, number, *answer)
            elif opcode == Opcode.ROOM:
                self._on_room(link, number)
            elif opcode in (Opcode.ABANDONED, Opcode.DROPPED):
                if (tell := self._watched.get(number)) is not None:
                    self._due.add(partial(tell, opcode == Opcode.DROPPED))
            else:
                self._settle(number, opcode, *answer)
        self._due.run()

    def _on_delivery(self, link: AnyLink, number: int, delivery: int, runs: list[Any]) -> None:
        call = self._calls.get(number)
        if call is None or call.abandoned:
            self._send(link, Opcode.REFUSE, delivery)
            self._calls.pop(number, None)
            return
        self._received = delivery
        self._send(link, Opcode.ACKNOWLEDGE, delivery)
        self._settle(number, Opcode.DELIVERY, runs, delivery)

    def _on_room(self, link: AnyLink, number: int) -> None:
        call = self._calls.get(number)
        if call is None or call.abandoned:
            self._send(link, Opcode.RETURN_ROOM, number)
            self._calls.pop(number, None)
            return
        self._settle(number, Opcode.ROOM)

    def on_lost(self, link: AnyLink, reason: str) -> None:
        """The link is gone; who waits dials again."""
        self._attached.put((link, _LOST, (reason,)))
        if self._link is link:
            self._link = None
            self._note(f"lost the connection: {reason}")
        for call in list(self._calls.values()):
            call.changed.set()
        if self._needs_help():
            self._keep_connected()

    def _settle(self, number: int, *answer: Any) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            call.settle(*answer)
            if call.then is not None:
                self._due.add(partial(call.then, answer))

    def _settle_all(self, *answer: Any) -> None:
        for number in list(self._calls):
            self._settle(number, *answer)
        for tell in list(self._watched.values()):
            self._due.add(partial(tell, True))
        self._watched.clear()

    def _note(self, what: str) -> None:
        self._story.note(time.monotonic(), what)


def _cure(error: ChannelError) -> str:
    if "key" not in str(error):
        return ""
    return " (a descriptor carries no key: with_credentials(key=...) gives it one, which the server's `key` tells)"
