"""One authenticated connection between two processes, with messages both ways.

`dial` (`dialing`) makes one, a `Listener` accepts many. Both ends prove to each other that they know the key
(`handshake`). A key opens only what it was given for, because the name of that - "queues", "service:answer" - is part
of the proof. Before the proof a peer gets a few kilobytes and a few seconds, and nothing that it sends is unpickled.

One thread serves all links of a process (those of a job's mesh have another one: see `exchange`). It calls `on_link`,
`on_message` and `on_closed`, which must not wait.
"""

# Theory of operation
#
# Threads. The loop's thread ("the exchange thread") opens, ends and closes a link; everything under "for the exchange
# thread" runs there. Any thread may `send`, `flush`, `close` and `interrupt`. Any one thread may read at a time: the
# exchange thread (`_on_ready`), a thread that waits for messages of the loop (`_on_readable`, see `loop`), or one that
# waits for messages of this link (`read_while`). So `on_message` runs in whichever of them reads; `on_closed` runs in
# the exchange thread.
#
# Locks, in the order in which they may be taken:
# 1. `_reading` is held while one thread reads and delivers, and is only ever tried: a thread that does not get it
#    leaves the socket to the holder. `drain` alone waits for it, in the exchange thread, before a peer is declared
#    silent.
# 2. `_watching` guards `_read_elsewhere`, `_is_delegated` and what the loop watches, which follows from them. It is
#    held for a few assignments and a call of the selector, never while reading, writing or in a callback.
# 3. The locks of `Outbound` (`connection`): one order for encoding and queueing, and one for the queue.
#
# Reading is *delegated* when the loop does not watch the socket for input, because a thread of a user reads it. It
# stays so for `DEFER_S` after that thread left: it mostly comes back at once, and two changes of what the loop watches
# would cost more than the message. If `others_wait`, it ends at once, because only the loop could wake those others.
#
# The end. `end` runs in the exchange thread, once. `_reason` is set first, so that no delivery begins after
# `on_closed`. A socket that another thread reads is shut down and not closed: that thread closes it when it leaves
# `_poll`. Otherwise its file descriptor could become that of a new socket before the thread polls it again.

from __future__ import annotations

import math
import select
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final

from sage_flow.errors import ChannelNotReachable, CodecError, LinkClosed, ProtocolError
from sage_flow.links.connection import ClosedByPeer, ConnectionLost, Inbound, Outbound
from sage_flow.links.loop import DEFER_S, READ, WRITE, EventLoop, exchange_loop
from sage_flow.links.pipe import Pipe
from sage_flow.links.story import Story
from sage_flow.links.waker import Waker
from sage_flow.wire.frames import MESSAGE_LIMIT
from sage_flow.wire.handshake import Acceptor, Dialer, Established, Refused, WriteBytes

__all__ = ["BUSY_S", "CLOSED_HERE", "FLUSH_S", "Link", "OnClosed", "OnMessage", "exchange_loop", "text_of"]

FLUSH_S: Final = 5.0
"""How long a link that is closed may take to write what was sent, in seconds."""
_LAST_READS: Final = 256  # reads from a peer that is gone; more than a socket's buffer can hold
BUSY_S: Final = 1.0
"""How long the exchange thread may take to notice that a time limit has passed, in seconds."""
CLOSED_HERE: Final = "it was closed here"

OnMessage = Callable[["Link", Any, int], object]
"""Called with the link, the value and its encoded bytes."""
OnClosed = Callable[["Link", str], object]
"""Called with the link and the reason: once, after the last message."""


class Link:
    """One end of a connection. What is sent in one lane arrives in order; lanes may overtake each other.

    `dial` and `Listener` make links. `peer` describes the other end in messages; `process` is its number in a job,
    otherwise 0. `state` belongs to the code that made the link.
    """

    def __init__(
        self,
        loop: EventLoop,
        peer: str,
        *,
        on_message: OnMessage,
        on_closed: OnClosed,
        on_open: Callable[[Link], object],
        limit: int = MESSAGE_LIMIT,
        describe: Callable[[Any], str] = lambda value: "a message",
    ) -> None:
        self.peer = peer
        self.process = 0
        self.state: Any = None
        self.opened = False
        """The handshake was completed."""
        self._loop = loop
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_open = on_open
        self._describe = describe
        self._limit = limit
        self._out = Outbound(limit)
        self._in: Inbound  # once it is open: a stranger gets no memory for messages
        self._pipe: Pipe | None = None
        self._handshake: Dialer | Acceptor | None = None  # while it is under way
        self._greeted = False  # TLS, if any, is done
        self._closing = False
        self._reading = threading.Lock()  # held by whichever thread reads
        self._watching = threading.Lock()  # guards the next, and is held while the loop is told what to watch
        self._read_elsewhere = False  # by a thread that waits for messages
        self._is_delegated = False  # to such threads: the loop does not watch for what there is to read
        self._last_read_s = 0.0  # when the last of them stopped
        self._to_read = select.poll()  # the socket, while reading is delegated, and the waker
        self._waker: Waker | None = None  # once a thread has read
        self._reason: str | None = None
        self._gone = threading.Event()
        self._story = Story()

    def __repr__(self) -> str:
        state = "open" if self.opened and self._reason is None else self._reason or "connecting"
        return f"Link({self.peer!r}, {state})"

    def send(
        self, value: Any, lane: Hashable = None, copy_buffers: bool = True, subject: Any = None, on_hold: bool = False
    ) -> int:
        """Send any value that pickles, from any thread, without waiting; return its encoded bytes.

        Without `copy_buffers` large buffers (arrays) in `value` are not copied and must not change any more; all
        else is copied before this returns. `subject`: what an error describes instead of `value`. `on_hold`: more
        messages follow at once, so this one may be written together with them, or when a thread waits (`flush`). The
        exchange thread writes it within two milliseconds, so user code that runs for long does not delay it.

        Raises: LinkClosed; CodecError if something in `value` cannot be pickled, and then nothing was sent.
        """
        if self._loop.given_up:
            raise LinkClosed(f"the connection with {self.peer} belongs to the process that forked this one")
        try:
            # What the exchange thread sends is written when it has read all that is there.
            is_exchange = threading.get_ident() == self._loop.thread
            size, unfinished = self._out.send(
                value, lane, copy_buffers=copy_buffers, subject=subject, on_hold=on_hold or is_exchange
            )
        except LinkClosed as closed:
            raise LinkClosed(f"the connection with {self.peer} is closed: {closed}") from None
        if unfinished and on_hold and not is_exchange:
            self._loop.defer(self.flush)
        elif unfinished:
            self._loop.call_soon_threadsafe(self._flush)
        return size

    def flush(self) -> None:
        """Write what is on hold, from any thread."""
        try:
            unfinished = not self._out.write()
        except OSError:
            unfinished = True
        if unfinished:
            self._loop.call_soon_threadsafe(self._flush)

    def close(self, flush_s: float = FLUSH_S, *, wait: bool = False) -> None:
        """Write what was sent, for at most `flush_s` seconds, then close; `wait` for that, except in a callback."""
        self._out.refuse(CLOSED_HERE)
        if not self._loop.given_up:
            self._loop.call_soon_threadsafe(lambda: self.finish(flush_s))
            if wait and threading.get_ident() != self._loop.thread:
                self._gone.wait(flush_s)

    def read_while(
        self, is_waiting: Callable[[], bool], timeout_s: float | None, others_wait: Callable[[], object] = lambda: False
    ) -> None:
        """Read in the caller's thread, which waits for messages of this link, while `is_waiting()`.

        So a message does not pass through the exchange thread, which would have to wake the caller. Only one thread
        reads at a time: if another one does, this returns at once, and the caller waits in some other way. A thread
        that has waited mostly waits again at once, so the exchange thread resumes reading after `DEFER_S`, or at once
        if `others_wait()` when this thread leaves.
        """
        pipe = self._pipe
        if pipe is None or not self.opened or not pipe.is_plain or not self._reading.acquire(blocking=False):
            return
        until = None if timeout_s is None else time.monotonic() + min(timeout_s, 86_400)  # poll() counts ms in an int
        with self._watching:
            if self._reason is not None:  # the link ended just now, and its socket may be closed
                self._reading.release()
                return
            self._read_elsewhere = True  # from now on the socket stays open, also if the link ends
            if self._waker is None:
                self._waker = Waker()
                self._to_read.register(self._waker, select.POLLIN)
            if not self._is_delegated:
                self._is_delegated = True
                self._to_read.register(pipe.sock, select.POLLIN)
                self._watch(pipe)
        try:
            self._poll(pipe, self._waker, is_waiting, until)
        finally:
            with self._watching:
                self._read_elsewhere = False
                self._reading.release()
                if self._reason is not None:
                    self._watch(pipe)
                elif others_wait():
                    self._take_back(pipe)
                else:
                    self._last_read_s = time.monotonic()
                    self._loop.defer(self._come_back)

    def _poll(self, pipe: Pipe, waker: Waker, is_waiting: Callable[[], bool], until: float | None) -> None:
        while is_waiting() and self._reason is None:
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            for number, _ in self._to_read.poll(None if left_s is None else math.ceil(left_s * 1000)):
                if number == waker.fileno():
                    waker.clear()
                elif not self._read_or_end(pipe):
                    return

    def interrupt(self) -> None:
        """Let the thread that is in `read_while` call `is_waiting()` again."""
        if self._read_elsewhere and self._waker is not None:
            self._waker.wake()

    def _come_back(self) -> None:
        """Let the loop watch the socket again, unless a thread reads it or has just stopped."""
        with self._watching:
            if self._read_elsewhere or not self._is_delegated or self._reason is not None or self._pipe is None:
                return
            if time.monotonic() - self._last_read_s < DEFER_S:
                self._loop.defer(self._come_back)
            else:
                self._take_back(self._pipe)

    def _take_back(self, pipe: Pipe) -> None:
        self._is_delegated = False
        self._to_read.unregister(pipe.sock)
        self._watch(pipe)

    def _watch(self, pipe: Pipe) -> None:
        """Let the loop watch for what no other thread watches for. For any thread that holds `_watching`."""
        if self._reason is not None:
            if not self._read_elsewhere:
                self._loop.drop(pipe.sock)
            return
        wanted = 0 if self._is_delegated else READ
        if pipe.wants_write or not self.idle:
            wanted |= WRITE
        if wanted == READ and self.opened and pipe.is_plain and self._loop.shares_reading:
            self._loop.watch(pipe.sock, READ, self._on_readable, shared=True)
        elif wanted:
            self._loop.watch(pipe.sock, wanted, self._on_ready)
        else:
            self._loop.forget(pipe.sock)

    def _read_or_end(self, pipe: Pipe) -> bool:
        """Read a plain pipe. False after an error, by which the link ends."""
        try:
            self._in.read(pipe, self._deliver)
        except BlockingIOError:
            pass
        except BaseException as error:  # also an interrupt, which leaves half a message behind
            why = self._why(error)
            self._loop.call_soon_threadsafe(lambda: self.end(why))
            if not isinstance(error, Exception):
                raise
            return False
        return True

    def _on_readable(self, _: int) -> None:
        """Called in whichever thread waits for messages of the loop."""
        pipe = self._pipe
        if pipe is None or self._reason is not None or not self._reading.acquire(blocking=False):
            return
        try:
            goes_on = self._read_or_end(pipe)
        finally:
            self._reading.release()
        if not goes_on:
            self._loop.forget(pipe.sock)  # it would be ready again at once

    @property
    def is_closed(self) -> bool:
        """It has ended, or it belongs to the process that forked this one."""
        return self._reason is not None or self._loop.given_up

    @property
    def holds(self) -> bool:
        """Something is on hold."""
        return self._out.holds

    @property
    def idle(self) -> bool:
        """Nothing waits to be written."""
        return self._out.idle

    @property
    def received_messages(self) -> int:
        """How many have come."""
        return self._in.messages if self.opened else 0

    def statistics(self) -> dict[str, Any]:
        """Messages and bytes sent (`queued_bytes` are not written yet), dropped and received; why it is `closed`,
        if it is; the story: its last events."""
        return {
            **self._out.statistics(),
            "received_messages": self.received_messages,
            "received_bytes": self._in.bytes if self.opened else 0,
            "closed": self._reason,
            "story": self._story.events(),
        }

    # All below is for the exchange thread.

    def begin(self, pipe: Pipe, handshake: Dialer | Acceptor, timeout_s: float) -> None:
        """Start the handshake, which must be over in `timeout_s`."""
        if self._reason is not None:
            pipe.sock.close()
            return
        self._pipe, self._handshake = pipe, handshake
        late, this = f"no handshake within {timeout_s:.2g} s", weakref.ref(self)

        def expire() -> None:  # may run long after the end of the link, and must not keep it alive
            if (link := this()) is not None and link._handshake is not None:
                link.end(late)

        self._loop.call_later(timeout_s, expire)
        self._on_ready(READ)

    def end(self, reason: str) -> None:
        """Close the socket at once, drop what is queued, tell the owner."""
        if self._reason is not None:
            return
        self._reason, self._handshake = reason, None
        self._note(reason)
        self._out.abandon(reason)
        try:
            self._on_closed(self, reason)
        finally:
            if self._pipe is not None:
                with self._watching:
                    if self._read_elsewhere:
                        self._loop.forget(self._pipe.sock)
                        self._pipe.interrupt()  # the reader closes it
                    else:
                        self._loop.drop(self._pipe.sock)
            self._gone.set()

    def finish(self, flush_s: float) -> None:
        """Write what is queued, for at most `flush_s` seconds, then end."""
        if self._reason is not None:
            return
        if not self.opened or flush_s <= 0:
            self.end(CLOSED_HERE)
            return
        self._closing = True
        self._loop.call_later(
            flush_s, lambda: self.end(CLOSED_HERE if self.idle else f"{CLOSED_HERE} before all was written")
        )
        self._flush()

    def drain(self) -> str | None:
        """Deliver what a peer wrote before it went. Returns what was wrong with it, None if nothing was."""
        pipe = self._pipe
        if pipe is None or not self.opened or self._reason is not None:
            return None
        try:
            with self._reading:
                for _ in range(_LAST_READS):
                    self._in.read(pipe, self._deliver)
        except (BlockingIOError, ClosedByPeer):
            pass
        except Exception as error:
            return text_of(error)
        return None

    def _on_ready(self, events: int) -> None:
        pipe = self._pipe
        if pipe is None or self._reason is not None:
            return
        try:
            if self._handshake is not None:
                self._greet(pipe, self._handshake)
                events |= WRITE  # if the link is open now, what was queued can be written
            elif (events & READ or pipe.wants_write) and not self._read_alone(pipe):
                events |= WRITE  # another thread reads: `_flush` also stops watching for input
        except BlockingIOError:
            events |= WRITE if pipe.wants_write or self._handshake is not None else 0
        except Exception as error:
            self.end(self._why(error))
            return
        if events & WRITE:
            self._flush()

    def _why(self, error: BaseException) -> str:
        # Once all was written, the peer ends the connection because this end has closed it, with whatever error.
        return CLOSED_HERE if self._closing and self.idle else text_of(error)

    def _flush(self) -> None:
        pipe = self._pipe
        if pipe is None or self._reason is not None:
            return
        try:
            done = self._out.write()
        except OSError as error:
            self.end(text_of(error))
            return
        if done and self._closing:
            pipe.end_writing()  # then wait for the peer: closing with unread bytes could destroy what was written
        with self._watching:
            self._watch(pipe)

    def _read_alone(self, pipe: Pipe) -> bool:
        """False if another thread reads."""
        if not self._reading.acquire(blocking=False):
            return False
        try:
            self._in.read(pipe, self._deliver)
            while pipe.unread and self._reason is None:
                self._in.read(pipe, self._deliver)
        finally:
            self._reading.release()
        return True

    def _deliver(self, value: Any, size: int) -> None:
        if self._reason is not None:  # a callback before this one ended the link
            return
        try:
            self._on_message(self, value, size)
        except ConnectionLost:
            raise
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            raise ConnectionLost(f"{self._describe(value)} could not be delivered: {trace}") from error

    def _greet(self, pipe: Pipe, handshake: Dialer | Acceptor) -> None:
        if not self._greeted:
            pipe.greet()
            self._greeted = True
            if isinstance(handshake, Dialer):
                _send_at_once(pipe, handshake.start().data)
        while self._handshake is not None:
            space = bytearray(handshake.wanted)
            if not (count := pipe.read(memoryview(space))):
                raise ClosedByPeer
            for decision in handshake.receive(space[:count]):
                match decision:
                    case WriteBytes(data):
                        _send_at_once(pipe, data)
                    case Refused(reason):
                        raise ConnectionLost(reason)
                    case Established(process):
                        self._open(pipe, process)

    def _open(self, pipe: Pipe, process: int) -> None:
        self.process, self._handshake, self._in = process, None, Inbound(self._limit)
        self._on_open(self)
        self.opened = True
        self._note("opened")
        self._out.open(pipe)
        if pipe.unread:  # the selector does not report these bytes again
            self._loop.call_soon_threadsafe(lambda: self._on_ready(READ))

    def _note(self, what: str) -> None:
        self._story.note(time.monotonic(), what)


def _send_at_once(pipe: Pipe, data: bytes) -> None:
    """Write a message of a handshake; it always fits, as nothing else is in the socket's buffer."""
    try:
        pipe.write(deque([data]))
    except OSError:
        pass  # the other end is closed; the next read tells, perhaps with the reason


def text_of(error: BaseException) -> str:
    """Return the text of an error, or its repr if the text does not explain it."""
    explained = (ConnectionLost, CodecError, ProtocolError, ChannelNotReachable)
    if isinstance(error, explained) or (isinstance(error, OSError) and error.errno is None and error.args):
        return str(error)
    return repr(error)
