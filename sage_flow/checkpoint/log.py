"""The log of a job: which attempts there were, which checkpoints are done, whether its end is decided.

An entry is claimed by creating it at the next free position, which only one process can do. That is all the consensus
a job needs. A leader that finds the entry of a later attempt before the position that it wants belongs to the past,
and must change nothing that others see.

    Attempt k restores n    attempt k begins, from checkpoint n or from the beginning
    Done n by k             every part of checkpoint n is stored: from now on it is what an attempt restores
    Final by k              the job has finished: what its sinks have prepared is published, by whichever attempt
    Over                    the job has ended: everything is published, or it has failed or was cancelled

Five rules keep this right, whatever is delayed, lost or repeated. Three are rules of the log:

* An entry is composed for the very position at which it is written, from all entries before it. If the position is
  taken meanwhile, the log is read and the entry is composed again.
* The log is read after each create, whether the create was confirmed, refused, or its answer was lost. Each entry
  carries a unique number, so the create was a success if the log has an entry with that number.
* Entries of attempts and of the end are never deleted: at a position that is free again, a leader of the past could
  write.

The other two bind the leader (`runtime.leader`): once it has tried to write `Final` or `Done n`, it cancels or aborts
nothing that this entry decides; and when it finds an attempt of another leader behind its own, it stops for good.

Pure: `Append` says what to do with the store and is told what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

__all__ = [
    "Append",
    "AttemptEntry",
    "CreateEntry",
    "DoneEntry",
    "Entry",
    "EntryOvertaken",
    "EntryRefused",
    "EntryWritten",
    "FinalEntry",
    "ForeignCheckpoint",
    "JobEnd",
    "LogHistory",
    "Nonce",
    "OverEntry",
    "ReadLog",
]

Nonce = tuple[str, int]
"""A leader, which nobody else is called like, and a number that it gives once."""


@dataclass(frozen=True, slots=True)
class DoneEntry:
    """`checkpoint` of `attempt` is complete."""

    nonce: Nonce
    attempt: int
    checkpoint: int


@dataclass(frozen=True, slots=True)
class FinalEntry:
    """The job has finished in `attempt`. `handles`: all that its sinks have prepared and not published."""

    nonce: Nonce
    attempt: int
    handles: Any = ()


@dataclass(frozen=True, slots=True)
class ForeignCheckpoint:
    """A checkpoint of another run, or an older one of this: the user has named it. `location` is that of its file."""

    location: str


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """`attempt` begins from `restores`; None: from the beginning."""

    nonce: Nonce
    attempt: int
    restores: DoneEntry | FinalEntry | ForeignCheckpoint | None = None


class JobEnd(Enum):
    """How a job has ended.

    STOPPED: with a last checkpoint, from which it can go on. NOT_PUBLISHED: it has finished, and its output could not
    be published; no entry says so.
    """

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    NOT_PUBLISHED = "not published"


@dataclass(frozen=True, slots=True)
class OverEntry:
    """The job is over. FINISHED: all that `FinalEntry` names is published. Else nothing will be; `failure` says why."""

    nonce: Nonce
    attempt: int
    end: JobEnd
    failure: Any = None
    note: str = ""


E = TypeVar("E")

Entry = AttemptEntry | DoneEntry | FinalEntry | OverEntry


@dataclass(frozen=True, slots=True)
class LogHistory:
    """What the log says: its entries, by position. Positions of deleted `Done` entries are missing."""

    entries: Mapping[int, Entry] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The next free position."""
        return max(self.entries, default=-1) + 1

    @property
    def latest_attempt(self) -> int:
        """The number of the latest attempt; 0: there was none."""
        return max((e.attempt for e in self.entries.values() if isinstance(e, AttemptEntry)), default=0)

    @property
    def done(self) -> DoneEntry | None:
        """The latest complete checkpoint."""
        return self._last(DoneEntry)

    @property
    def final(self) -> FinalEntry | None:
        """The decision that the job has finished."""
        return self._last(FinalEntry)

    @property
    def over(self) -> OverEntry | None:
        """How the job has ended; None if an attempt behind that has continued it."""
        found = {position: entry for position, entry in self.entries.items() if isinstance(entry, OverEntry)}
        if not found or any(isinstance(e, AttemptEntry) for at, e in self.entries.items() if at > max(found)):
            return None
        return found[max(found)]

    @property
    def foreign(self) -> ForeignCheckpoint | None:
        """The checkpoint of another run with which this one began."""
        named = (e.restores for e in self.entries.values() if isinstance(e, AttemptEntry))
        return next((restores for restores in named if isinstance(restores, ForeignCheckpoint)), None)

    def latest_attempt_of(self, leader: str) -> int:
        """The number of the latest attempt that this leader claimed; 0: none."""
        mine = (e.attempt for e in self.entries.values() if isinstance(e, AttemptEntry) and e.nonce[0] == leader)
        return max(mine, default=0)

    def position_of(self, nonce: Nonce) -> int | None:
        """Where the entry with this number is."""
        return next((position for position, entry in self.entries.items() if entry.nonce == nonce), None)

    def _last(self, kind: type[E]) -> E | None:
        found = {position: entry for position, entry in self.entries.items() if isinstance(entry, kind)}
        return found[max(found)] if found else None


# -- what to do ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadLog:
    """List the whole log for `on_read`. An entry that cannot be read is an error, and never passed over."""


@dataclass(frozen=True, slots=True)
class CreateEntry:
    """Create `entry` at `position` if nothing is there. Then, whatever came of it, read the log, as `ReadLog` says."""

    position: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class EntryWritten:
    """The entry is in the log."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class EntryOvertaken:
    """The entry is in the log, and others are behind it, which it does not know."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class EntryRefused:
    """The log says that this entry must not be written."""

    reason: str


class Append:
    """Writes one entry at the end of the log, or learns why it must not.

    What was created is read back in any case. Usually it is the last entry. If others are behind it, its position had
    been that of a `Done` entry which was deleted after the log was read: it was composed without the entries since.
    """

    def __init__(self, nonce: Nonce) -> None:
        self.nonce = nonce
        self.is_tried = False
        """A create was asked for: the entry may be in the log from now on, whatever is heard of it."""

    def on_read(
        self, history: LogHistory, compose: Callable[[LogHistory], Entry | EntryRefused]
    ) -> CreateEntry | EntryWritten | EntryOvertaken | EntryRefused:
        """The log is read. `compose` makes the entry from all that is in it, or refuses."""
        position = history.position_of(self.nonce)
        if position is not None:
            mine = history.entries[position]
            return EntryWritten(mine) if position + 1 == history.end else EntryOvertaken(mine)
        composed = compose(history)
        if isinstance(composed, EntryRefused):
            return composed
        self.is_tried = True
        return CreateEntry(history.end, composed)
