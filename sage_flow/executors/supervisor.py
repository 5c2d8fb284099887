"""Watches the processes of one attempt: tells the driver which of them are dead, and kills those that may not be.

Threads. Events come from the exchange thread (connections, messages to the driver) and from the threads that wait for
the ends of processes. They only queue the event. One activation, `run`, passes the events to `runtime.membership` and
carries out its decisions, because to kill an actor takes longer than the exchange thread may wait. The lock is that of
the condition; it is not held while the driver is called.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from sage_flow.errors import WorkerDied
from sage_flow.executors.driver import WorkersDied
from sage_flow.executors.shell import Condition
from sage_flow.runtime.membership import LEADER, Decision, Declare, Kill, Membership, Wake
from sage_flow.runtime.messages import Ended, Message, PeerLost

__all__ = ["Supervisor", "WorkerProcesses"]


class WorkerProcesses(Protocol):
    """The processes that a supervisor watches."""

    def kill(self, process: int) -> None:
        """End a process, whatever it is doing."""

    def death_of(self, declared: Declare) -> WorkerDied:
        """Return the error that ends the attempt: which process died, how, and what it ran."""


class Supervisor:
    """Stands between the exchange and the driver of an attempt, `tell_driver`.

    `subtasks` are the addresses of each process's subtasks; `start_s`: see `Membership`.
    """

    def __init__(
        self,
        subtasks: Mapping[int, Iterable[int]],
        processes: WorkerProcesses,
        tell_driver: Callable[[Message | WorkersDied], None],
        condition: Condition,
        now: Callable[[], float],
        *,
        start_s: float | None = None,
    ) -> None:
        self._membership = Membership(subtasks, start_s=start_s)
        self._processes = processes
        self._tell_driver = tell_driver
        self._condition = condition
        self._lock = condition.lock
        self._now = now
        self._events: deque[Callable[[], Iterable[Decision]]] = deque()
        self._wake_at = math.inf
        self._is_stopped = False

    # -- from any thread ------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """Take a message for the driver, or for this supervisor."""
        if isinstance(message, PeerLost):  # between two workers, which both may be alive
            lost = partial(self._membership.on_peer_lost, message.peer, message.process, message.reason)
            self._add(partial(lost, self._now()))
            return
        self._tell_driver(message)
        if isinstance(message, Ended):
            self._add(partial(self._membership.on_subtask_ended, message.subtask))

    def connected(self, process: int) -> None:
        """A process has connected."""
        self._add(partial(self._membership.on_connected, process))

    def peer_lost(self, process: int, reason: str) -> None:
        """The connection with a process has ended; all that came on it was delivered."""
        self._add(partial(self._membership.on_peer_lost, process, LEADER, reason, self._now()))

    def process_ended(self, process: int, how: str, *, is_clean: bool = False) -> None:
        """A process has ended; see `Membership.on_process_ended`."""
        self._add(partial(self._membership.on_process_ended, process, how, self._now(), is_clean=is_clean))

    def stop(self) -> None:
        """Stop watching: the attempt is over, so its processes may end now."""
        with self._lock:
            self._is_stopped = True
            self._condition.notify_all()

    def _add(self, event: Callable[[], Iterable[Decision]]) -> None:
        with self._lock:
            self._events.append(event)
            self._condition.notify_all()

    # -- its own activation ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until `stop`."""
        try:
            self._obey(self._membership.start(self._now()))
            while self._wait():
                while self._events:
                    self._obey(self._events.popleft()())
                self._obey(self._membership.on_time(self._now()))
        except Exception as error:  # otherwise no thread would end the attempt if a process dies
            died = WorkerDied(f"the processes of the attempt are not watched any more: {type(error).__name__}: {error}")
            died.__cause__ = error
            self._tell_driver(WorkersDied(self._membership.addresses, died))
            raise

    def _wait(self) -> bool:
        """Wait for an event, or until `on_time` is due; return whether the attempt goes on."""
        with self._lock:
            while not self._is_stopped and not self._events:
                left = self._wake_at - self._now()
                if left <= 0:
                    break
                self._condition.wait(None if math.isinf(left) else left)
            return not self._is_stopped

    def _obey(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Wake(at):
                    self._wake_at = at
                case _ if self._is_stopped:
                    return
                case Kill(process):
                    self._processes.kill(process)
                case Declare():
                    self._tell_driver(WorkersDied(decision.subtasks, self._processes.death_of(decision)))
