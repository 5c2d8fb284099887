"""What one subtask stores for a checkpoint: its tables by what has changed, in steps between records, and all else.

A large state is not stored anew each time: a cut gives what was touched since the latest complete checkpoint, and names
that one as its base. It gives everything again if the state is small, if what was given since has become more than the
state itself, or if it does not know what became of its last cut: then the files of the base may be deleted already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.runtime.key_table import KeyTable, TableEntries
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.state_check import StateCheck
from sage_flow.runtime.table_writing import KeyedChunk, TableWriting
from sage_flow.wire import by_value
from sage_flow.wire.culprit import find_culprit

__all__ = ["Cut", "CutPiece", "CutWriter"]

_SMALL = 1 << 20  # bytes of a state that is stored whole each time
_MOST_CHANGES = 1.0  # bytes of changes for each byte of the whole state: then it is stored whole again
_MOST_CUTS = 100  # of which a state may consist: a restore reads all of their files
_PIECE = 8 << 20  # bytes of a file: no thread runs while they are put together
_STEP_S = 0.002
"""How long some entries are pickled without a look at the clock, about."""
_MOST_STEPS = 12
"""Of these between two slices: a subtask that waits for its readers most of the time has few slices."""
_FIRST_STEP = 500
_MERGED = 20_000  # entries of a step of merging


@dataclass(frozen=True, slots=True)
class CutPiece:
    """A part of what is kept by key, to be stored before the cut it belongs to. `number`: counted from 1."""

    checkpoint: int
    number: int
    keyed: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a subtask gives for a checkpoint, when all of it is pickled.

    `small`: a pickle of the parts without keys. `keyed`: pickles of lists of `KeyedChunk`, behind those of `pieces`
    earlier ones. `base`: the checkpoint whose entries these change; None: they are all. `keeping`: the operators that
    keep something. `pause_s`: the longest time for which records waited.
    """

    checkpoint: int
    small: bytes
    keyed: tuple[bytes, ...]
    pieces: int
    base: int | None
    keeping: tuple[str, ...]
    prepared: tuple[Prepared, ...]
    alignment_s: float
    pause_s: float


@dataclass(slots=True)
class _Lineage:
    """What the entries of a checkpoint consist of: the bytes of a whole state, and of the changes since."""

    checkpoint: int
    whole: int
    changes: int
    cuts: int

    @property
    def goes_on(self) -> bool:
        """Whether the next checkpoint is to store changes only."""
        return self.whole >= _SMALL and self.changes < _MOST_CHANGES * self.whole and self.cuts < _MOST_CUTS


class _CutWriting:
    """A cut whose tables are being pickled."""

    def __init__(self, checkpoint: int, base: _Lineage | None, store: Callable[[CutPiece], None]) -> None:
        self.checkpoint = checkpoint
        self.base = base
        self._store = store
        self.small = b""
        self.keeping: tuple[str, ...] = ()
        self.prepared: tuple[Prepared, ...] = ()
        self.alignment_s = self.pause_s = 0.0
        self.tables: deque[TableWriting] = deque()
        self.fault: _CannotBeStored | None = None
        self.size = 0
        self._pieces = 0
        self._pickled: list[bytes] = []
        self._waiting = 0  # bytes of it

    def add(self, pickled: bytes) -> None:
        """Take pickles of what is kept by key."""
        self._pickled.append(pickled)
        self.size += len(pickled)
        self._waiting += len(pickled)
        if self._waiting >= _PIECE:
            self._pieces += 1
            self._store(CutPiece(self.checkpoint, self._pieces, tuple(self._pickled)))
            self._pickled, self._waiting = [], 0

    def add_chunk(self, chunk: KeyedChunk) -> None:
        """Pickle some entries of a table. What cannot be pickled fails the checkpoint, and not the record."""
        try:
            self.add(_packed({chunk[0]: chunk[3]}, [chunk]))
        except _CannotBeStored as fault:
            self.fault = self.fault or fault
            self.give_up()

    def give_up(self) -> None:
        """Nobody wants the rest."""
        for table in self.tables:
            table.is_over = True
        self.tables.clear()

    def finished(self) -> Cut:
        """Return the cut, of which all is pickled now."""
        keyed, base = tuple(self._pickled), None if self.base is None else self.base.checkpoint
        rest = (self.keeping, self.prepared, self.alignment_s, self.pause_s)
        return Cut(self.checkpoint, self.small, keyed, self._pieces, base, *rest)

    def lineage(self) -> _Lineage:
        """Return what the entries of its checkpoint consist of."""
        if self.base is None:
            return _Lineage(self.checkpoint, self.size, 0, 1)
        return _Lineage(self.checkpoint, self.base.whole, self.base.changes + self.size, self.base.cuts + 1)


class CutWriter:
    """Stores the cuts of one subtask, of which the last one may still be under way when the next one begins."""

    def __init__(
        self,
        store: Callable[[Cut | CutPiece], None],
        decline: Callable[[int, str], None],
        clock: Callable[[], float],
        *,
        checks: bool,
    ) -> None:
        """`checks`: find values that change while another key is current."""
        self._check = StateCheck() if checks else None
        self._store = store
        self._decline = decline
        self._clock = clock
        self.has_work = False
        """There is something to do between two slices: `work`."""
        self._writing: _CutWriting | None = None
        self._stored: _Lineage | None = None  # of the latest cut, until it is known what became of its checkpoint
        self._complete: _Lineage | None = None  # of the checkpoint that the next cut is based on; None: it is whole
        self._latest_complete = 0
        self._tables: list[KeyTable] = []  # of the latest cut
        self._merging: list[KeyTable] = []
        self._step = _FIRST_STEP  # entries
        self._worked_at = 0.0

    def on_abort(self, checkpoint: int) -> None:
        """A checkpoint has failed: the next cut has the base that it had, and takes its layers along."""
        if self._writing is not None and self._writing.checkpoint == checkpoint:
            self._writing.give_up()
            self._writing = None
        if self._stored is not None and self._stored.checkpoint == checkpoint:
            self._stored = None

    def on_complete(self, checkpoint: int) -> None:
        """A checkpoint is recorded: the next cut may be based on it."""
        if self._stored is not None and self._stored.checkpoint == checkpoint:
            self._complete, self._stored = self._stored, None
            self._latest_complete = checkpoint
            self._merging, self.has_work = list(self._tables), True

    def begin(
        self,
        checkpoint: int,
        prepared: tuple[Prepared, ...],
        kept: Mapping[str, Parts],
        alignment_s: float,
        began: float,
    ) -> None:
        """Freeze the tables, and pickle what is small. `began`: when the last record had been processed."""
        if self._writing is not None:
            self._writing.give_up()  # another checkpoint has begun, so that one has failed
        if self._stored is not None:
            self._complete = None  # if that one is complete, the files of its base may be deleted
        base = self._complete if self._complete is not None and self._complete.goes_on else None
        writing = self._writing = _CutWriting(checkpoint, base, self._store)
        writing.prepared, writing.alignment_s = prepared, alignment_s
        writing.keeping = tuple(name for name, part in kept.items() if part.is_worth_keeping)
        self._freeze(kept, writing)
        try:
            self._pickle(kept, writing)
        except _CannotBeStored as fault:
            writing.fault = fault
            writing.give_up()
        self._stored = None
        if base is None:
            self._complete = None
        writing.pause_s = self._clock() - began
        self._merging, self.has_work = [], True

    def _freeze(self, kept: Mapping[str, Parts], writing: _CutWriting) -> None:
        self._tables = []
        for name, part in kept.items():
            for table, entries in part.keyed.items():
                if not isinstance(entries, TableEntries) or (live := entries.live) is None:
                    continue
                if self._check is not None:
                    self._check.check(name, table, live)
                is_new = not live.has_layers
                layers = live.freeze(writing.checkpoint, self._latest_complete)
                if writing.base is not None and is_new:
                    writing.add_chunk((name, table, None, None))  # an earlier table of this name is forgotten
                if writing.base is not None:
                    layers = layers[:1]
                one = TableWriting(name, table, layers[::-1], writing.add_chunk)
                live.write(one)
                writing.tables.append(one)
                self._tables.append(live)
        if self._check is not None:
            self._check.end()

    def _pickle(self, kept: Mapping[str, Parts], writing: _CutWriting) -> None:
        """Pickle all but the tables."""
        others: dict[str, list[KeyedChunk]] = {}
        for name, part in kept.items():
            for table, entries in part.keyed.items():
                if not isinstance(entries, TableEntries) or entries.live is None:
                    others.setdefault(name, []).append((name, table, None, list(entries)))
        for name, chunks in others.items():
            writing.add(_packed({name: chunks}, chunks))
        small = {
            name: (part.splits, part.rests, part.own, part.lowest, list(part.keyed)) for name, part in kept.items()
        }
        writing.small = _packed(small)

    def work(self) -> None:
        """Do some of what is left of the cut, or of what follows when it is complete."""
        if self._writing is not None:
            self._write(self._writing)
        elif self._merging and self._merging[-1].merge(self._latest_complete, _MERGED):
            self._merging.pop()
        self.has_work = self._writing is not None or bool(self._merging)

    def _write(self, writing: _CutWriting) -> None:
        """Pickle some entries: for a quarter of the time since this was done, within limits."""
        began = now = self._clock()
        until = began + (began - self._worked_at) / 4 - _STEP_S
        for _ in range(_MOST_STEPS):
            left = self._step
            while writing.tables and left > 0:
                one = writing.tables[0]
                left -= one.write_some(left)
                if one.is_over and writing.tables:
                    writing.tables.popleft()
            before, now = now, self._clock()
            if now - before > _STEP_S:
                self._step = max(1, self._step // 2)
            elif now - before < _STEP_S / 2:
                self._step = min(_MERGED, self._step * 2)
            if not writing.tables or now >= until:
                break
        self._worked_at = now
        writing.pause_s = max(writing.pause_s, now - began)
        if not writing.tables:
            self._finish(writing)

    def _finish(self, writing: _CutWriting) -> None:
        self._writing = None
        if writing.fault is not None:
            self._decline(writing.checkpoint, str(writing.fault))
        else:
            self._stored = writing.lineage()
            self._store(writing.finished())


class _CannotBeStored(Exception):
    """The state of an operator cannot be pickled."""


def _packed(by_operator: Mapping[str, Any], value: Any = None) -> bytes:
    """Pickle `value`, by default `by_operator`. Raises _CannotBeStored naming the operator."""
    try:
        return by_value.dumps_state(by_operator if value is None else value)
    except Exception:
        for name, part in by_operator.items():
            try:
                by_value.dumps_state(part)
            except Exception as error:
                _, culprit = find_culprit(part, by_value.dumps_state, by_value.dumps_state, depth=12)
                raise _CannotBeStored(
                    f"the state of {name!r} cannot be pickled: a {type(culprit).__name__} is in it ({error})"
                ) from error
        raise
