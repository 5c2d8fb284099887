"""A job small enough to be searched whole: a row, some checkpoints, a sink, leaders that are killed or replaced.

The leaders and the log are the real ones. What a subtask and a sink do is written here as the rules have it, and each
rule can be switched off. `search` goes through every interleaving of steps, kills, cancels, lost answers and leaders
that are thought dead but are not.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field, replace

from sage_flow.checkpoint.log import AttemptEntry, CreateEntry, DoneEntry, FinalEntry, LogHistory, ReadLog
from sage_flow.restart import GiveUp, RestartAfter
from sage_flow.runtime.leader import (
    CancelAttempt,
    CommitAll,
    CompleteCheckpoint,
    JobDecided,
    JobEnd,
    Leader,
    RestartJob,
    RunAttempt,
    StepDown,
)

ROWS = 1


@dataclass(frozen=True)
class Bounds:
    """How much of a job is searched."""

    leaders: int = 2
    checkpoints: int = 1  # of an attempt
    restarts: int = 0  # by a leader itself
    cancels: bool = False
    half_commits: bool = False


class Restarts:
    """A restart history that restarts at once, a number of times."""

    def __init__(self, left):
        self.left = left

    def on_failure(self, now):
        if not self.left:
            return GiveUp("no more")
        self.left -= 1
        return RestartAfter(0.0)


@dataclass(frozen=True)
class Work:
    """The subtask and the sink of the attempt that a leader runs."""

    attempt: int
    position: int
    buffer: tuple = ()
    pending: tuple = ()  # handles that are prepared and not known to be published
    cut: tuple | None = None  # (number, position, handles) of the checkpoint under way
    recorded: bool = False  # its metadata is stored, and the leader told
    cuts: int = 0
    finished: bool = False
    commits: tuple | None = None  # handles that are to be published now


@dataclass(frozen=True)
class Place:
    """A process that leads: its leader, what that wants of the log, and the attempt that it runs."""

    leader: Leader
    wants: object = None
    work: Work | None = None
    restarting: bool = False


@dataclass(frozen=True)
class State:
    log: tuple = ()  # (position, entry)
    metadata: tuple = ()  # (attempt, number, position, handles)
    staged: frozenset = frozenset()
    published: tuple = ()
    places: tuple = ()  # None: dead
    ended: str | None = None


@dataclass
class Found:
    """What a search has come to."""

    fault: str | None
    states: int
    path: list[str] = field(default_factory=list)


def key_of(state):
    return (
        state.log,
        state.metadata,
        state.staged,
        state.published,
        tuple(None if p is None else (_leader_key(p.leader), p.wants, p.work, p.restarting) for p in state.places),
        state.ended,
    )


def _leader_key(leader):
    parts = {**vars(leader), "_history": leader._history.left}
    append = parts.pop("_append")
    return *parts.values(), append and (append.nonce, append.is_tried)


def _copied(leader):
    made = copy.copy(leader)
    made._history = copy.copy(leader._history)
    made._append = copy.copy(leader._append)
    return made


class Model:
    """`off`: the rules that are switched off."""

    def __init__(self, off=(), bounds=Bounds(), make_leader=Leader):
        self.off = frozenset(off)
        self.bounds = bounds
        self.make_leader = make_leader

    # -- search ---------------------------------------------------------------------------------------------

    def search(self):
        start = State(places=(None,) * self.bounds.leaders)
        first = key_of(start)
        seen = {first: None}
        queue = deque([(first, start)])
        while queue:
            here, state = queue.popleft()
            fault = self.fault_of(state)
            if fault is not None:
                return Found(fault, len(seen), self._path(here, seen))
            for why, after in self.steps(state):
                key = key_of(after)
                if key not in seen:
                    seen[key] = (here, why)
                    queue.append((key, after))
        return Found(None, len(seen))

    def _path(self, key, seen):
        path = []
        while seen[key] is not None:
            key, why = seen[key]
            path.append(why)
        return path[::-1]

    def fault_of(self, state):
        rows = sorted(row for handle in state.published for row in handle[2])
        if len(rows) != len(set(rows)):
            return "rows twice"
        if state.ended == "FINISHED" and rows != list(range(ROWS)):
            return "rows lost"
        if state.ended in ("CANCELLED", "FAILED") and any(isinstance(e, FinalEntry) for _, e in state.log):
            return "decided, and yet not published"
        if state.ended == "unreadable":
            return "unreadable"
        leaders = [entry.nonce[0] for _, entry in state.log if isinstance(entry, AttemptEntry)]
        changes = [leader for before, leader in zip(["", *leaders], leaders) if leader != before]
        return None if len(changes) == len(set(changes)) else "two leaders fence each other"

    # -- steps ----------------------------------------------------------------------------------------------

    def steps(self, state):
        if state.ended is not None:
            return
        for index, place in enumerate(state.places):
            if place is not None:
                yield from self._steps_of(state, index, place)
            elif self._may_begin(state, index):
                yield f"{index}: a new leader", self._begin(state, index)

    def _may_begin(self, state, index):
        begun = len({entry.nonce[0] for _, entry in state.log if isinstance(entry, AttemptEntry)})
        return index == begun

    def _begin(self, state, index):
        leader = self.make_leader(f"L{index}", Restarts(self.bounds.restarts), commit_tries=3)
        return self._decide(state, index, Place(leader), leader.start())

    def _steps_of(self, state, index, place):
        yield f"{index}: kill -9", _put(state, index, None)
        if isinstance(place.wants, ReadLog):
            yield f"{index}: reads", self._event(state, index, "on_read", LogHistory(dict(state.log)))
        elif isinstance(place.wants, CreateEntry):
            yield from self._creates(state, index, place.wants)
        if place.restarting:
            yield f"{index}: restarts", self._event(state, index, "on_time")
        elif place.work is not None:
            yield from self._works(state, index, place, place.work)
        if self.bounds.cancels and place.leader.can_cancel and place.leader._cancelled is None:
            yield f"{index}: cancel", self._event(state, index, "on_cancel", "the user wants it")

    def _creates(self, state, index, wanted):
        log = dict(state.log)
        read_again = replace(state.places[index], wants=ReadLog())
        if wanted.position in log:
            yield f"{index}: finds {wanted.position} taken", _put(state, index, read_again)
            return
        log[wanted.position] = wanted.entry
        stored = replace(state, log=tuple(sorted(log.items(), key=lambda item: item[0])))
        yield f"{index}: writes {_told(wanted)}", _put(stored, index, read_again)
        yield f"{index}: writes nothing of {_told(wanted)}, and hears nothing", _put(state, index, read_again)

    def _works(self, state, index, place, work):
        def put(why, work, **changes):
            return f"{index}: {why}", _put(replace(state, **changes), index, replace(place, work=work))

        if work.commits is not None:
            staged, published = _publish(work.commits, state)
            left = tuple(handle for handle in work.pending if handle not in work.commits)
            after = replace(state, staged=staged, published=published)
            done = _put(after, index, replace(place, work=replace(work, commits=None, pending=left)))
            if work.finished:
                yield f"{index}: publishes all", self._event(done, index, "on_committed")
            else:
                yield f"{index}: publishes {work.commits}", done
                yield put("cannot publish, for now", replace(work, commits=None))
            yield f"{index}: dies while it publishes", self._fail(after, index)
            if len(work.commits) > 1 and self.bounds.half_commits:
                staged, published = _publish(work.commits[:1], state)
                half = replace(state, staged=staged, published=published)
                yield f"{index}: dies when it has published one of two", self._fail(half, index)
            return
        yield f"{index}: a subtask dies", self._fail(state, index)
        if work.finished:
            return
        if work.cut is not None:
            yield from self._checkpoint(state, index, place, work)
            return
        if work.position < ROWS:
            row = replace(work, position=work.position + 1, buffer=(*work.buffer, work.position))
            yield put(f"row {work.position}", row)
        if work.cuts < self.bounds.checkpoints:
            handle = (work.attempt, work.cuts + 1, work.buffer)
            pending = (*work.pending, handle)
            named = (handle,) if "a checkpoint names all handles that are not published" in self.off else pending
            cut = (work.cuts + 1, work.position, named)
            after = replace(work, buffer=(), pending=pending, cut=cut, cuts=work.cuts + 1)
            yield put(f"cut {work.cuts + 1}", after, staged=state.staged | {handle})
        if work.position == ROWS:
            handle = (work.attempt, 99, work.buffer)
            pending = (*work.pending, handle)
            finished = replace(work, buffer=(), pending=pending, finished=True)
            after = _put(replace(state, staged=state.staged | {handle}), index, replace(place, work=finished))
            yield f"{index}: finishes", self._event(after, index, "on_finished", pending)

    def _checkpoint(self, state, index, place, work):
        number, position, handles = work.cut
        if not work.recorded:
            metadata = (*state.metadata, (work.attempt, number, position, handles))
            told = _put(replace(state, metadata=metadata), index, replace(place, work=replace(work, recorded=True)))
            yield f"{index}: stores {number}", self._event(told, index, "on_checkpoint", number)
        may_abort = (
            not work.recorded
            or place.leader.can_abort_checkpoint
            or "a checkpoint is not aborted once it was tried" in self.off
        )
        if may_abort and (not work.recorded or "a checkpoint is not aborted once it was tried" in self.off):
            pending, staged = work.pending, state.staged
            if "a prepared handle is not aborted with its checkpoint" in self.off:
                mine = next(handle for handle in pending if handle[1] == number)
                pending, staged = tuple(h for h in pending if h != mine), staged - {mine}
            metadata = tuple(m for m in state.metadata if m[:2] != (work.attempt, number))
            after = replace(work, cut=None, recorded=False, pending=pending)
            place = replace(place, work=after)
            if work.recorded:
                place = replace(place, wants=None, leader=_aborted(place.leader))
            yield f"{index}: aborts {number}", _put(replace(state, metadata=metadata, staged=staged), index, place)

    def _fail(self, state, index):
        place = state.places[index]
        staged = state.staged
        if "a prepared handle is not aborted at a cancel" in self.off and place.work is not None:
            staged = staged - frozenset(place.work.pending)
        state = _put(replace(state, staged=staged), index, replace(place, work=None))
        return self._event(state, index, "on_failed", "it died", 0.0)

    # -- what the leader decides ----------------------------------------------------------------------------

    def _event(self, state, index, event, *arguments):
        place = state.places[index]
        leader = _copied(place.leader)
        wants = None if event == "on_read" else place.wants
        place = replace(place, leader=leader, wants=wants, restarting=place.restarting and event != "on_time")
        return self._decide(_put(state, index, place), index, place, getattr(leader, event)(*arguments))

    def _decide(self, state, index, place, decisions):
        for decision in decisions:
            match decision:
                case ReadLog() | CreateEntry():
                    place = replace(place, wants=decision)
                case RunAttempt(attempt, restores):
                    state, work = self._restored(state, attempt, restores)
                    place = replace(place, work=work)
                case CompleteCheckpoint(number) if place.work is not None:
                    due = tuple(handle for handle in place.work.pending if handle[1] <= number)
                    place = replace(place, work=replace(place.work, cut=None, recorded=False, commits=due))
                case CommitAll(handles) if place.work is not None:
                    place = replace(place, work=replace(place.work, commits=handles))
                case CancelAttempt():
                    return self._fail(_put(state, index, place), index)
                case RestartJob():
                    place = replace(place, work=None, restarting=True, wants=None)
                case StepDown():
                    return _put(state, index, None)
                case JobDecided(end):
                    return replace(_put(state, index, None), ended=None if end is JobEnd.NOT_PUBLISHED else end.name)
                case _:
                    pass
        return _put(state, index, place)

    def _restored(self, state, attempt, restores):
        if restores is None:
            position, handles = 0, ()
        elif isinstance(restores, FinalEntry):
            kept = replace(state, staged=self._swept(state, attempt, restores.handles))
            return kept, Work(attempt, ROWS, pending=restores.handles, finished=True, commits=restores.handles)
        else:
            stored = [m for m in state.metadata if m[:2] == (restores.attempt, restores.checkpoint)]
            if not stored:
                return replace(state, ended="unreadable"), None
            _, _, position, handles = stored[0]
        state = replace(state, staged=self._swept(state, attempt, handles))
        staged, published = _publish(handles, state)
        return replace(state, staged=staged, published=published), Work(attempt, position)

    def _swept(self, state, attempt, handles):
        """Recover removes what earlier attempts have prepared and the restore point does not name."""
        return frozenset(h for h in state.staged if h in handles or h[0] >= attempt)


def _aborted(leader):
    """A leader that forgets what it has tried, which the real one never does."""
    made = _copied(leader)
    made._append = None
    made._phase = type(made._phase).RUNNING
    return made


def _publish(handles, state):
    staged, published = state.staged, state.published
    for handle in handles:
        if handle in staged and handle not in published:
            staged, published = staged - {handle}, (*published, handle)
    return staged, tuple(sorted(published))


def _put(state, index, place):
    places = list(state.places)
    places[index] = place
    return replace(state, places=tuple(places))


def _told(wanted):
    entry = wanted.entry
    more = ""
    if isinstance(entry, AttemptEntry):
        at = entry.restores
        more = " from the start" if at is None else f" from {type(at).__name__} of {at.attempt}"
    if isinstance(entry, DoneEntry):
        more = f" {entry.checkpoint}"
    return f"{type(entry).__name__} of {entry.attempt}{more} at {wanted.position}"
