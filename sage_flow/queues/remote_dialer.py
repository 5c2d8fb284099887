"""Connects the session of a queue to its host: dials, attaches, and tries again."""

# Theory of operation
#
# `connect` runs in threads of users that wait for an answer, and in a thread that `start` makes if only callbacks wait.
# `_connecting` is held by the thread that dials; other threads that need a connection wait for it and share its result
# (`_dialed`, `_failure`). `answered` is called by the thread that reads the link, with the session's lock held: it
# only puts into a queue. `_starting` guards the flag beside it, and nothing else happens while it is held.

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

from sage_flow.errors import ChannelNotReachable, LinkClosed
from sage_flow.links.local_link import AnyLink
from sage_flow.queues.connection import QueueConnection
from sage_flow.queues.reach_policy import ReachPolicy

if TYPE_CHECKING:
    from sage_flow.queues.remote_session import RemoteSession

__all__ = ["SessionDialer"]

_FIRST_PAUSE_S: Final = 0.05  # between two tries to connect; it doubles
_LONGEST_PAUSE_S: Final = 1.0


class SessionDialer:
    """`policy` says how often it tries. It keeps no reference to its session: that would be a cycle."""

    def __init__(self, connection: QueueConnection, policy: ReachPolicy) -> None:
        self._connection = connection
        self._policy = policy
        self._connecting = threading.Lock()
        self._dialed = 0  # how often, so that a thread that waited for another one does not dial, too
        self._failure: Exception | None = None  # of the last time
        self._answers: queue.SimpleQueue[tuple[AnyLink, Exception | None]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._has_thread = False

    def connect(self, session: RemoteSession) -> None:
        """Attach the session over a new link, unless another thread has just done so.

        Raises: QueueClosed, ChannelNotReachable, ChannelConflict.
        """
        try:
            self._connect_once(session)
        finally:
            session.due.run()

    def start(self, session: RemoteSession) -> None:
        """Connect in a thread of its own, which ends when nothing needs it any more."""
        with self._starting:
            if self._has_thread:
                return
            self._has_thread = True
        name = f"connects {session.label}"
        threading.Thread(target=self._keep_connected, args=(session,), name=name, daemon=True).start()

    def answered(self, link: AnyLink, error: Exception | None = None) -> None:
        """The host has answered ATTACH, or the link is lost."""
        self._answers.put((link, error))

    def _keep_connected(self, session: RemoteSession) -> None:
        while session.needs_thread:
            try:
                self.connect(session)
            except Exception as error:  # the callbacks get it
                session.fail_callbacks(error)
            session.due.run()
        with self._starting:
            self._has_thread = False
        if session.needs_thread:  # since the last look
            self.start(session)

    def _connect_once(self, session: RemoteSession) -> None:
        dialed = self._dialed
        with self._connecting:
            if session.link is not None:
                return
            if self._dialed != dialed:
                if self._failure is not None:
                    raise self._failure
                return
            try:
                self._failure = None
                self._dial(session)
            except Exception as error:
                self._failure = error
                raise
            finally:
                self._dialed += 1

    def _dial(self, session: RemoteSession) -> None:
        pause = _FIRST_PAUSE_S
        for left in range(self._policy.retries, -1, -1):
            try:
                self._attach(session, self._connection.link(self._policy.timeout_s))
                return
            except (ChannelNotReachable, LinkClosed) as error:
                session.note(f"no connection: {error}")
                if not left:
                    raise session.unreachable(error, self._policy.retries + 1) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _attach(self, session: RemoteSession, link: AnyLink) -> None:
        """Raises: LinkClosed if it breaks or the host is silent; ChannelConflict."""
        while not self._answers.empty():  # of earlier tries
            self._answers.get()
        session.attach(link)
        while True:
            try:
                answered, error = self._answers.get(timeout=self._policy.timeout_s)
            except queue.Empty:
                link.close(0)
                raise LinkClosed(f"no answer within {self._policy.timeout_s:.3g} s") from None
            if answered is not link:
                continue
            if error is not None:
                raise error
            return
