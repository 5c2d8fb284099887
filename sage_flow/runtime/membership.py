"""Which processes of one attempt of a job are dead.

Two witnesses tell of the end of a process: its connections, and whoever started it (an operating system, Ray). Either
may come first, or alone, and a connection may end although both its processes live. Three rules follow.

* A process that has ended is declared dead when its connection with the leader has been read to the end, because what
  it sent before still counts: mostly that is the error that ended it. After `loss_s` seconds it is declared anyway.
* A process that lost a connection is a suspect. If nobody tells of its end within `loss_s` seconds, it is killed and
  declared dead: edges do not reconnect, so without it the attempt would wait for ever.
* One dead process ends the attempt. From then on what other processes have lost does not count against one whose
  connection with the leader stands: it is mostly alive, and has sinks to abort.

A process whose subtasks have all ended is done, and may go as it likes. A process that never connects is a suspect
after `start_s` seconds. Silent ones (stopped, cut off) are the affair of the leases of connections, which then end.

Pure: events in, decisions out. The shell (`executors/supervisor.py`) watches, kills, and keeps the time. It calls
`on_time` when `Wake` says so. Times are seconds of any clock that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sage_flow.errors import InternalError

__all__ = ["LEADER", "LOSS_S", "Declare", "Decision", "Kill", "Membership", "Suspicion", "Wake"]

LEADER: Final = 0
"""The process of the driver."""

LOSS_S: Final = 2.0
"""Between the two witnesses of an end."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """`witness` has lost its connection with `process`."""

    process: int
    witness: int
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End `process`, which may be alive."""

    process: int


@dataclass(frozen=True, slots=True)
class Declare:
    """`process` is dead, and `subtasks` with it. `how` it ended; None: it was killed because of `suspicions`.

    These are all of the attempt, because the cause is often told of another process.
    """

    process: int
    subtasks: tuple[int, ...]
    how: str | None
    suspicions: tuple[Suspicion, ...]


@dataclass(frozen=True, slots=True)
class Wake:
    """Call `on_time` at `at`, and not before, unless something happens; infinity: never."""

    at: float


Decision = Kill | Declare | Wake


class _Phase(Enum):
    STARTING = "starting"
    CONNECTED = "connected"
    SUSPECTED = "suspected"
    ENDED = "ended"  # its connection may hold something that was not read
    GONE = "gone"  # done, or declared dead


@dataclass(slots=True)
class _Member:
    subtasks: tuple[int, ...]
    working: set[int]  # those of them that have not ended
    phase: _Phase = _Phase.STARTING
    due: float = math.inf  # when its phase is over
    how: str = ""
    has_connected: bool = False
    is_read: bool = False  # its connection with the leader has ended, behind all that came
    witnesses: set[int] = field(default_factory=set)  # who lost a connection with it


class Membership:
    """The processes of one attempt, but the leader's own.

    `subtasks` are the addresses of each process's subtasks. `start_s`: for a process to connect; None: whoever started
    it says if it is gone, and a slow start is no death.
    """

    def __init__(
        self, subtasks: Mapping[int, Iterable[int]], *, loss_s: float = LOSS_S, start_s: float | None = None
    ) -> None:
        self._members = {process: _Member(tuple(own), set(own)) for process, own in subtasks.items()}
        self._process_of = {address: process for process, m in self._members.items() for address in m.subtasks}
        self._loss_s = loss_s
        self._start_s = start_s
        self._suspicions: list[Suspicion] = []
        self._is_failing = False  # somebody was declared dead
        self._wake_at = math.inf

    @property
    def alive(self) -> tuple[int, ...]:
        """The processes that are neither done nor declared dead."""
        return tuple(process for process, member in self._members.items() if member.phase is not _Phase.GONE)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Their subtasks."""
        return tuple(address for process in self.alive for address in self._members[process].subtasks)

    # -- events ---------------------------------------------------------------------------------------------

    def start(self, now: float) -> Iterator[Decision]:
        """The processes were started."""
        if self._start_s is not None:
            for member in self._members.values():
                if member.phase is _Phase.STARTING:
                    member.due = now + self._start_s
        yield from self._wake()

    def on_connected(self, process: int) -> Iterator[Decision]:
        """A process has a connection with the leader."""
        member = self._member(process)
        member.has_connected = True
        if member.phase is _Phase.STARTING or (member.phase is _Phase.SUSPECTED and not member.witnesses):
            member.phase, member.due = _Phase.CONNECTED, math.inf
        yield from self._wake()

    def on_subtask_ended(self, address: int) -> Iterator[Decision]:
        """The last message of a subtask has come."""
        member = self._member(self._process_of[address])
        member.working.discard(address)
        if not member.working:
            member.phase, member.due = _Phase.GONE, math.inf
        yield from self._wake()

    def on_peer_lost(self, process: int, witness: int, reason: str, now: float) -> Iterator[Decision]:
        """The connection of `witness` with `process` has ended. The leader's has been read to its end."""
        member = self._member(process)
        if member.phase is _Phase.GONE:
            return
        self._suspicions.append(Suspicion(process, witness, reason))
        member.witnesses.add(witness)
        member.is_read = member.is_read or witness == LEADER
        if member.phase is _Phase.ENDED:
            if member.is_read:
                yield from self._declare(process, member.how)
        elif member.phase is not _Phase.SUSPECTED:
            member.phase, member.due = _Phase.SUSPECTED, now + self._loss_s
        yield from self._wake()

    def on_process_ended(self, process: int, how: str, now: float, *, is_clean: bool = False) -> Iterator[Decision]:
        """Whoever started a process tells of its end.

        `is_clean`: it ended by itself, as one does whose subtasks have ended. Then what it sent is on its way, and is
        waited for until the end of its connection.
        """
        member = self._member(process)
        if member.phase in (_Phase.ENDED, _Phase.GONE):
            return
        member.phase, member.how = _Phase.ENDED, how
        member.due = math.inf if is_clean and member.has_connected else now + self._loss_s
        if member.is_read:
            yield from self._declare(process, how)
        yield from self._wake()

    def on_time(self, now: float) -> Iterator[Decision]:
        """The time of `Wake` has come."""
        for process, member in self._members.items():
            if member.due > now:
                continue
            match member.phase:
                case _Phase.STARTING:
                    reason = f"it did not connect within {self._start_s:g} s"
                    self._suspicions.append(Suspicion(process, LEADER, reason))
                    member.phase, member.due = _Phase.SUSPECTED, now + self._loss_s
                case _Phase.SUSPECTED if self._is_failing and self._is_seen_alive(member):
                    member.phase, member.due = _Phase.CONNECTED, math.inf
                    member.witnesses.clear()
                case _Phase.SUSPECTED:
                    yield Kill(process)
                    yield from self._declare(process, None)
                case _Phase.ENDED:
                    yield from self._declare(process, member.how)
        yield from self._wake()

    # -- decisions ------------------------------------------------------------------------------------------

    def _declare(self, process: int, how: str | None) -> Iterator[Decision]:
        member = self._members[process]
        member.phase, member.due = _Phase.GONE, math.inf
        self._is_failing = True
        yield Declare(process, member.subtasks, how, tuple(self._suspicions))

    def _is_seen_alive(self, member: _Member) -> bool:
        """Whether its connection with the leader stands."""
        return member.has_connected and LEADER not in member.witnesses

    def _wake(self) -> Iterator[Decision]:
        at = min((member.due for member in self._members.values()), default=math.inf)
        if at != self._wake_at:
            self._wake_at = at
            yield Wake(at)

    def _member(self, process: int) -> _Member:
        if process not in self._members:
            raise InternalError(f"process {process} is none of {sorted(self._members)}")
        return self._members[process]
