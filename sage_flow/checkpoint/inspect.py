"""Reads what a storage holds: its jobs, their runs and checkpoints, and what a checkpoint keeps for each operator.

For people who look: nothing is changed, and what cannot be read is told beside what can.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from reprlib import Repr
from typing import Any

from sage_flow.checkpoint.format import PARTS, unsealed
from sage_flow.checkpoint.lenient import Lenient
from sage_flow.checkpoint.log import DoneEntry, LogHistory
from sage_flow.checkpoint.metadata import CheckpointMetadata, SubtaskPart
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.checkpoint.runs import job_folder, number_of, runs_of, state_of
from sage_flow.checkpoint.storage import Storage, open_storage
from sage_flow.checkpoint.stored_log import StoredLog
from sage_flow.errors import CheckpointError, CheckpointMissing, LogUnavailable, PipelineError, StorageError
from sage_flow.runtime.table_writing import merged_chunks

__all__ = [
    "CheckpointContent",
    "KeptEntry",
    "OperatorContent",
    "StoredCheckpoint",
    "StoredRun",
    "checkpoint_of",
    "stored_runs",
]

_FOLDER = "checkpoints"

_shown = Repr()
_shown.maxlevel = 6
_shown.maxstring = _shown.maxother = _shown.maxlong = 200
_shown.maxlist = _shown.maxtuple = _shown.maxdict = _shown.maxset = 20


# -- a storage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in a storage. `problem`: why it cannot be restored, or read; None: it can."""

    path: str
    metadata: CheckpointMetadata | None
    problem: str | None = None


@dataclass(frozen=True)
class StoredRun:
    """A run in a storage. `state`: what its log says of it, or why it says nothing."""

    job: str
    name: str
    state: str
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)


def stored_runs(location: str, job: str | None = None) -> list[StoredRun]:
    """Return the runs of one job, or of all, the latest last. Raises StorageError; PipelineError if there is none."""
    storage = open_storage(_absolute(location))
    folders = storage.names() if job is None else [job_folder(job)]
    runs = [_run(storage.at(folder), folder, name) for folder in folders for name in runs_of(storage.at(folder))]
    if not runs:
        whose = "no run" if job is None else f"no run of job {job!r}"
        raise PipelineError(f"{storage.location}: {whose} is stored there; give the place that the job has been given")
    return runs


def _run(jobs: Storage, folder: str, name: str) -> StoredRun:
    storage = jobs.at(name)
    try:
        history = StoredLog(storage).read()
        state = state_of(history).value
    except (CheckpointError, LogUnavailable, StorageError) as error:
        history, state = None, f"its log cannot be read: {error}"
    found = sorted((number, file) for file in storage.names(_FOLDER) if (number := number_of(file)) is not None)
    checkpoints = [_stored(storage, f"{_FOLDER}/{file}", number, history) for number, file in found]
    job = next((c.metadata.job for c in checkpoints if c.metadata is not None), folder)
    return StoredRun(job, name, state, checkpoints)


def _stored(storage: Storage, name: str, number: tuple[int, int], history: LogHistory | None) -> StoredCheckpoint:
    place = storage.place_of(name)
    try:
        metadata = CheckpointMetadata.from_bytes(storage.read(name), place)
    except (CheckpointError, StorageError) as error:
        return StoredCheckpoint(place, None, str(error).removeprefix(f"{place}: "))
    if history is not None and not _is_recorded(history, number):
        return StoredCheckpoint(place, metadata, "its job ended before it was recorded")
    return StoredCheckpoint(place, metadata)


def _is_recorded(history: LogHistory, number: tuple[int, int]) -> bool:
    """The log keeps the last one of each attempt; those before it were recorded, too."""
    attempt, checkpoint = number
    done = [entry for entry in history.entries.values() if isinstance(entry, DoneEntry) and entry.attempt == attempt]
    return any(entry.checkpoint >= checkpoint for entry in done)


# -- one checkpoint ------------------------------------------------------------------------------------------


@dataclass
class OperatorContent:
    """What a checkpoint keeps for one operator.

    `keys`: the number of entries by table; the panes and windows of an operator count as one table. `others`: of what
    has no key. `kind`: "" if nothing is kept, so that it is not known.
    """

    name: str
    kind: str
    parallelism: int
    keys: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptEntry:
    """One entry of an operator, as text. `subtask`: counted from 1. `key`: None for what has none."""

    subtask: int
    table: str
    key: str | None
    value: str


def checkpoint_of(path: str) -> CheckpointContent:
    """Open a checkpoint by the path or URL of its metadata. Raises CheckpointError, StorageError, PipelineError."""
    location = _absolute(path)
    folder, _, file = location.rpartition(f"/{_FOLDER}/")
    if not folder or not file or "/" in file:
        raise PipelineError(
            f"{path!r} is no path of a checkpoint, which ends in {_FOLDER}/a1-n7: `sage-flow checkpoints` shows them"
        )
    storage = open_storage(folder)
    name = f"{_FOLDER}/{file}"
    return CheckpointContent(storage, CheckpointMetadata.from_bytes(storage.read(name), storage.place_of(name)))


class CheckpointContent:
    """What is in a checkpoint. `storage` is that of its run."""

    def __init__(self, storage: Storage, metadata: CheckpointMetadata) -> None:
        self.metadata = metadata
        self.problems: dict[str, str] = {}
        """Files that cannot be read, and why."""
        self._storage = storage
        self._lenient = Lenient()

    @property
    def missing_classes(self) -> list[str]:
        """The classes that this process does not have, of what was read so far; their objects are stood in for."""
        return sorted(self._lenient.missing)

    def operators(self) -> list[OperatorContent]:
        """Read everything, and count it."""
        kinds = {place.name: place.kind for place in self.metadata.operators}
        found: dict[str, OperatorContent] = {}
        for part in self.metadata.parts:
            for name in part.chain:
                found.setdefault(name, OperatorContent(name, kinds.get(name, ""), part.parallelism))
            for (name, table), entries in self._keyed(part):
                kept = found[name].keys
                kept[_group(table)] = kept.get(_group(table), 0) + len(entries)
            for name, what, items in self._without_keys(part):
                found[name].others[what] = found[name].others.get(what, 0) + len(items)
        for prepared in self._prepared():
            if prepared.operator in found:
                others = found[prepared.operator].others
                others["prepared"] = others.get("prepared", 0) + 1
        return list(found.values())

    def entries(self, operator: str, key: str | None = None) -> Iterator[KeptEntry]:
        """Yield what is kept for one operator; with a key, as `str` or `repr` show it, only what belongs to that.

        Raises PipelineError if there is no such operator.
        """
        mine = [part for part in self.metadata.parts if operator in part.chain]
        if not mine:
            names = dict.fromkeys(name for part in self.metadata.parts for name in part.chain)
            raise PipelineError(f"no operator {operator!r} is in the checkpoint; there are: {', '.join(names)}")
        for part in sorted(mine, key=lambda part: part.index):
            for (name, table), entries in self._keyed(part):
                pairs = entries.items() if isinstance(entries, dict) else entries
                for own, value in pairs if name == operator else ():
                    if key is None or key in (str(own), repr(own)):
                        yield KeptEntry(part.index + 1, _table(table), _text(own), _text(value))
            for name, what, items in self._without_keys(part) if key is None else ():
                for item in items if name == operator else ():
                    yield KeptEntry(part.index + 1, what, None, _text(item))
        for prepared in self._prepared() if key is None else ():
            if prepared.operator == operator:
                yield KeptEntry(prepared.subtask + 1, "prepared", None, _text(prepared.handle))

    # -- its files ------------------------------------------------------------------------------------------

    def _keyed(self, part: SubtaskPart) -> Iterable[tuple[tuple[str, Hashable], Any]]:
        """The tables of the operators of a subtask, and what else they keep by key."""
        known = {
            (name, table)
            for file in part.chunks[:1]
            for small in self._loaded(file)
            for name in small
            for table in small[name][4]
        }
        chunks = (one for file in part.chunks[1:] for several in self._loaded(file) for one in several)
        return [(where, entries) for where, entries in merged_chunks(chunks).items() if where in known]

    def _without_keys(self, part: SubtaskPart) -> Iterator[tuple[str, str, list[Any]]]:
        kept_by = [
            (name, kept) for file in part.chunks[:1] for small in self._loaded(file) for name, kept in small.items()
        ]
        for name, (splits, rests, own, *_) in kept_by:
            for split, items in splits.items():
                yield name, "position", [(split, item) for item in items]
            for split, items in rests.items():
                yield name, "record not processed", [(split, item) for item in items]
            for of, items in own.items():
                yield name, _table(of), items

    def _loaded(self, file: str) -> Iterator[Any]:
        """Yield the objects in a file of a subtask: what is small, or lists with some entries of a table."""
        place = self._storage.place_of(file)
        try:
            yield from self._lenient.loads_each(unsealed(PARTS, self._storage.read(file), place))
        except (CheckpointError, CheckpointMissing, StorageError) as error:
            self.problems[file] = str(error).removeprefix(f"{place}: ")
        except Exception as error:  # of the code that makes an object of a class that has changed
            self.problems[file] = f"cannot be unpickled: {error!r}"

    def _prepared(self) -> list[Prepared]:
        try:
            found: list[Prepared] = list(self._lenient.loads(self.metadata.prepared))
            return found
        except Exception as error:
            self.problems["prepared"] = f"cannot be unpickled: {error!r}"
            return []


def _group(table: Hashable) -> str:
    """The name of a table in counts: panes and windows have one for all of them."""
    match table:
        case ("state", (str(name), _)):
            return f"state {name}"
        case (str(kind), *_):
            return kind
    return str(table)


def _table(table: Hashable) -> str:
    match table:
        case ("state", (str(name), _)):
            return f"state {name}"
        case (str(kind), *of):
            return " ".join([kind, *map(str, of)])
    return str(table)


def _text(value: Any) -> str:
    return _shown.repr(value)


def _absolute(location: str) -> str:
    return location if "://" in location else os.path.abspath(os.path.expanduser(location))
