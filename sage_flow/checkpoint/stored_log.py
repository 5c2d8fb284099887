"""The log of a job in a storage: one sealed file for each entry, named by its position and never written again."""

from __future__ import annotations

import pickle
import re

from sage_flow.checkpoint.format import sealed, unsealed
from sage_flow.checkpoint.log import AttemptEntry, DoneEntry, Entry, FinalEntry, LogHistory, OverEntry
from sage_flow.checkpoint.storage import Storage
from sage_flow.errors import CheckpointError, CheckpointMissing, LogUnavailable, StorageError
from sage_flow.wire import by_value

__all__ = ["StoredLog"]

_FOLDER = "log"
_KIND = "log entry"
_NEWEST = 8
"""So many of the newest positions are read even if the storage does not list them; see `_unread`."""


class StoredLog:
    """The log below `log/` in the folder of a run.

    Each entry is read once and kept, because it never changes. An entry that cannot be read is an error: passed over,
    it could be the attempt that makes this process one of the past. The same holds if entries are gone that only
    somebody else can have deleted.

    Errors: LogUnavailable if the storage does not answer, which may pass. StorageError if trying again cannot help, for
    example without permission. CheckpointError if an entry is damaged, foreign, of a newer version, or gone.
    """

    def __init__(self, storage: Storage) -> None:
        """`storage` is the folder of a run."""
        self._storage = storage
        self._entries: dict[int, Entry] = {}
        self._deleted: set[int] = set()  # positions of entries that are known to be deleted
        self._tried = 0  # the position behind the last one that this process has tried to create
        self._is_in_doubt = False  # a create has failed, so an entry may be listed and not be durable

    def read(self) -> LogHistory:
        """Return all of it."""
        try:
            if self._is_in_doubt:
                self._storage.make_durable(_FOLDER)
            listed = self._listed()
            for position in self._unread(listed):
                self._read_entry(position, position in listed)
            self._check_nothing_lost(listed)
        except StorageError as fault:
            raise _unavailable(fault) from fault
        self._is_in_doubt = False
        return LogHistory(dict(sorted(self._entries.items())))

    def create(self, position: int, entry: Entry) -> None:
        """Store `entry` at `position` if nothing is there; the next `read` tells."""
        content = sealed(_KIND, by_value.dumps(entry))
        self._tried = max(self._tried, position + 1)
        self._deleted.discard(position)
        try:
            self._storage.create(_name(position), content)
        except StorageError as fault:
            self._is_in_doubt = True
            raise _unavailable(fault) from fault

    def trim(self, history: LogHistory, attempt: int) -> None:
        """Delete the `Done` entries of `attempt` except its last one.

        Only the leader of that attempt may do this. Entries of attempts and of the end stay for ever, and so does the
        last `Done` of each attempt: the position of an entry that is deleted is free again, and a leader of the past
        could write there. If it does, it finds entries behind its own, and stops (`log.EntryOvertaken`).
        """
        entries = history.entries.items()
        done = sorted(p for p, entry in entries if isinstance(entry, DoneEntry) and entry.attempt == attempt)
        try:
            self._storage.delete([_name(position) for position in done[:-1]])
        except StorageError as fault:
            raise _unavailable(fault) from fault
        for position in done[:-1]:
            self._forget(position)

    # -- reading --------------------------------------------------------------------------------------------

    def _listed(self) -> set[int]:
        return {self._position_of(name) for name in self._storage.names(_FOLDER)}

    def _position_of(self, name: str) -> int:
        if re.fullmatch(r"[0-9]{12}", name) is None:
            place = self._storage.place_of(f"{_FOLDER}/{name}")
            raise CheckpointError(f"{place}: is no entry of a log, which is all that this folder may hold; remove it")
        return int(name)

    def _unread(self, listed: set[int]) -> list[int]:
        """Where an entry may be that is not read yet.

        A list may lag behind the files, for example of a folder that other machines write to. That is no danger at the
        end: a create finds the position taken. But an entry that is not listed, while a later one is, would be missed.
        So the newest positions are tried whatever the list says, and also those that this process has tried to create.
        """
        end = max(max(listed | set(self._entries), default=-1) + 1, self._tried)
        newest = set(range(max(0, end - _NEWEST), end)) - self._deleted
        return sorted((listed | newest) - set(self._entries))

    def _read_entry(self, position: int, is_listed: bool) -> None:
        place = self._storage.place_of(_name(position))
        try:
            content = self._storage.read(_name(position))
        except CheckpointMissing:
            if is_listed and position in self._listed():  # else its leader has deleted it since it was listed
                raise LogUnavailable(f"{place}: is listed and cannot be read") from None
            self._deleted.add(position)
            return
        self._entries[position] = _unpickled(unsealed(_KIND, content, place), place)
        self._deleted.discard(position)

    def _check_nothing_lost(self, listed: set[int]) -> None:
        """Of the entries that were read, only those may be gone that their leader may delete."""
        for position in sorted(set(self._entries) - listed):
            try:
                self._storage.read(_name(position))
            except CheckpointMissing:
                if not self._may_be_deleted(position):
                    raise CheckpointError(
                        f"{self._storage.place_of(_name(position))}: was in the log of this job and is gone; bring the "
                        f"folder of the run back, and start the job again with `restore=`"
                    ) from None
                self._forget(position)

    def _may_be_deleted(self, position: int) -> bool:
        known = dict(self._entries)  # the thread that records checkpoints may trim the log meanwhile
        if (entry := known.get(position)) is None:
            return True
        later = (other for place, other in known.items() if place > position)
        return isinstance(entry, DoneEntry) and any(
            isinstance(other, DoneEntry) and other.attempt == entry.attempt for other in later
        )

    def _forget(self, position: int) -> None:
        self._entries.pop(position, None)
        self._deleted.add(position)


def _name(position: int) -> str:
    return f"{_FOLDER}/{position:012d}"


def _unpickled(content: bytes, place: str) -> Entry:
    try:
        entry = pickle.loads(content)
    except Exception as fault:  # what a class raises that cannot be made again
        raise CheckpointError(
            f"{place}: cannot be unpickled: {fault!r}; use the versions of sage_flow and of the job that wrote it"
        ) from fault
    if not isinstance(entry, (AttemptEntry, DoneEntry, FinalEntry, OverEntry)):
        raise CheckpointError(f"{place}: holds a {type(entry).__qualname__}, which is no entry of a log")
    return entry


def _unavailable(fault: StorageError) -> LogUnavailable | StorageError:
    return LogUnavailable(str(fault)) if fault.may_pass else fault
