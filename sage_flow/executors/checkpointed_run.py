"""The run of a job with checkpoints: where it is stored, and what it begins from.

A job that is started gets a run of its own, or goes on with the latest one (`restore="latest"`). The process that leads
the job leaves a mark of its job's id in the run, so that another process that leads the same job finds it.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass, replace
from typing import Any

from sage_flow.checkpoint.log import AttemptEntry, DoneEntry, ForeignCheckpoint
from sage_flow.checkpoint.metadata import CheckpointMetadata
from sage_flow.checkpoint.options import LATEST, CheckpointOptions
from sage_flow.checkpoint.restore import RestorePoint, check_restore
from sage_flow.checkpoint.runs import RunState, job_folder, latest_run, metadata_name, new_run, runs_of, state_of
from sage_flow.checkpoint.storage import Storage, open_storage
from sage_flow.checkpoint.stored_log import StoredLog
from sage_flow.errors import CheckpointError, PipelineError
from sage_flow.plan.physical import Plan
from sage_flow.restart import RestartHistory
from sage_flow.runtime.leader import Leader

__all__ = ["CheckpointedRun", "open_run"]

_log = logging.getLogger("sage_flow.checkpoints")
"""Of its own: `sage-flow run` prints what comes here."""


@dataclass(frozen=True)
class CheckpointedRun:
    """A run, and how its leader begins.

    `continues`: it has begun before, in another job. `begins_from`: the checkpoint that the user has named.
    """

    name: str
    storage: Storage
    log: StoredLog
    continues: bool = False
    begins_from: ForeignCheckpoint | None = None
    allow_dropped: bool = False

    def leader(self, name: str, history: RestartHistory, lost: Any) -> Leader:
        """A leader of this name, which begins the run or goes on with it. `lost`: see `Leader`."""
        continues = self.continues and lost is None
        return Leader(name, history, lost=lost, begins_from=self.begins_from, continues=continues)

    def plan_for(self, plan: Plan) -> Plan:
        """The plan as it runs in this run: the names of temporary files and of checkpoints carry that of the run."""
        return replace(plan, checkpoints=self.storage.location, job_id=self.name)

    def restored(self, plan: Plan, restores: DoneEntry | ForeignCheckpoint | None) -> Plan:
        """The plan of an attempt that begins from a checkpoint.

        Raises CheckpointError if that cannot be read, is of another job, or does not fit the plan; StorageError.
        """
        match restores:
            case None:
                return plan
            case DoneEntry(_, attempt, checkpoint):
                storage, name = self.storage, metadata_name(attempt, checkpoint)
            case ForeignCheckpoint(location):
                folder, _, file = location.rpartition("/checkpoints/")
                storage, name = open_storage(folder), f"checkpoints/{file}"
        place = storage.place_of(name)
        metadata = CheckpointMetadata.from_bytes(storage.read(name), place)
        try:
            check_restore(metadata, plan, place, allow_dropped=self.allow_dropped)
        except PipelineError as error:
            raise CheckpointError(str(error)) from error
        return replace(plan, restores=RestorePoint(storage.location, metadata))


def open_run(options: CheckpointOptions, job: str, owner: str, now_ms: int) -> CheckpointedRun:
    """Find or make the run of a job. `owner`: the id of the job, which no other start of it has.

    Raises StorageError if the storage cannot be used, CheckpointError if its log cannot be read, PipelineError if
    `restore` names no checkpoint.
    """
    storage = open_storage(options.storage)
    storage.check()
    jobs = storage.at(job_folder(job))
    mark = f"owners/{owner}"
    for name in reversed(runs_of(jobs)):
        if owner in jobs.at(name).names("owners"):
            return _taken_up(_run(jobs, name, options), owner, options)
    latest = latest_run(jobs)
    if options.restore == LATEST and latest is not None:
        run = replace(_run(jobs, latest, options), continues=True)
        _tell(job, latest, state_of(run.log.read()))
    else:
        name = new_run(now_ms, secrets.token_hex(4), jobs.names())
        run = _run(jobs, name, options)
        if options.restore not in (None, LATEST):
            run = replace(run, begins_from=_named(str(options.restore)))
        elif options.restore == LATEST:
            _log.info("job %s: nothing is stored below %s, so it begins at the beginning", job, jobs.location)
        elif latest is not None and _can_continue(jobs, latest):
            _log.info(
                'job %s begins anew; its run %s can be continued instead: restore="latest" (--restore latest)',
                job,
                latest,
            )
    run.storage.create(mark, b"")
    return run


def _taken_up(run: CheckpointedRun, owner: str, options: CheckpointOptions) -> CheckpointedRun:
    """The run that another process of this job has taken before: it may have died before its leader's first entry."""
    attempts = (entry for entry in run.log.read().entries.values() if isinstance(entry, AttemptEntry))
    has_claimed = any(entry.nonce[0].startswith(f"{owner}/") for entry in attempts)
    begins_from = None if options.restore in (None, LATEST) else _named(str(options.restore))
    return replace(run, continues=not has_claimed, begins_from=begins_from)


def _run(jobs: Storage, name: str, options: CheckpointOptions) -> CheckpointedRun:
    storage = jobs.at(name)
    return CheckpointedRun(name, storage, StoredLog(storage), allow_dropped=options.allow_dropped)


def _can_continue(jobs: Storage, run: str) -> bool:
    history = StoredLog(jobs.at(run)).read()
    return history.done is not None and state_of(history) is not RunState.FINISHED


def _tell(job: str, run: str, state: RunState) -> None:
    if state is RunState.FINISHED:
        _log.warning("job %s: its run %s has finished; nothing is run or published again", job, run)
    elif state is RunState.OPEN:
        _log.info(
            "job %s continues its run %s, whose end is not recorded; if it still runs elsewhere, it ends there",
            job,
            run,
        )
    else:
        _log.info("job %s continues its run %s, which was %s", job, run, state.value)


def _named(restore: str) -> ForeignCheckpoint:
    """The checkpoint that the user has named by its path or URL."""
    location = restore if "://" in restore else os.path.abspath(os.path.expanduser(restore))
    folder, _, file = location.rpartition("/checkpoints/")
    if not folder or not file or file not in open_storage(folder).names("checkpoints"):
        raise PipelineError(
            f'restore={restore!r} names no checkpoint; write "latest", or the path of one, such as'
            " STORAGE/JOB/RUN/checkpoints/a1-n7 (`sage-flow checkpoints` lists them)"
        )
    return ForeignCheckpoint(location)
