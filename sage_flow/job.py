"""A started job: its handle and its result."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sage_flow.cli.console import tell
from sage_flow.errors import ClusterError, JobCancelled, PipelineError, SageFlowError
from sage_flow.executors.execution import Execution, JobOutcome, SubtaskInfo
from sage_flow.runtime.coordinator import JobStatus
from sage_flow.runtime.failure import PackedError, add_notes, fold_engine_frames, unpack_error
from sage_flow.serving import HasServices

if TYPE_CHECKING:
    from sage_flow.executors.checkpoint_reports import CheckpointInfo
    from sage_flow.plan.picture import Picture

__all__ = ["JobHandle", "JobResult", "JobStatus"]

_log = logging.getLogger("sage_flow")

_SHOWN = 20
"""Names in the repr of a result."""

_LOOK_FOR_ROWS_S = 0.02

_SHORT_JOB_S = 0.5
"""A job that takes no longer is not announced."""


@dataclass(frozen=True, repr=False)
class JobResult:
    """What a job came to.

    Attributes:
        status: FINISHED, CANCELLED or STOPPED; a job that failed raises instead.
        collected: the rows of each `collect` sink, by name.
        counts: records each operator emitted (a sink: received), by name; and the number of rows of each `collect`
            sink, by the label of the rows, unless an operator has that name.
        skipped, dead_letters: records that failed under such an `on_error`, by operator, where there are any.
        late_records: records that came too late for their windows, by operator, where there are any.
        late_by_ms: by how much the latest of them was behind the watermark.
        stuck: where user code was that did not come back after a cancel.
    """

    status: JobStatus
    collected: dict[str, list[Any]]
    counts: dict[str, int]
    skipped: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    late_records: dict[str, int] = field(default_factory=dict)
    late_by_ms: dict[str, int] = field(default_factory=dict)
    _picture: Picture | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """A short text: it counts the rows and does not contain them."""
        rows = _first({label: len(rows) for label, rows in self.collected.items()})
        more: dict[str, object] = {"skipped": self.skipped, "dead_letters": self.dead_letters}
        more |= {"late_records": self.late_records, "stuck": self.stuck}
        shown = [str(self.status), f"rows={rows}", f"counts={_first(self.counts)}"]
        return f"JobResult({', '.join([*shown, *(f'{name}={value}' for name, value in more.items() if value)])})"

    def table(self) -> list[tuple[str, int, int, int]]:
        """For each operator: its name (with the label of its rows if it collects), records, skipped, dead letters."""
        titles = {name: name for name in self.counts} if self._picture is None else self._picture.titles
        return [
            (title, self.counts[name], self.skipped.get(name, 0), self.dead_letters.get(name, 0))
            for name, title in titles.items()
        ]

    def _repr_html_(self) -> str:
        from sage_flow.notebook.displays import result_html

        return result_html(self)


class JobHandle(HasServices):
    """A started job. Wait for it, or use it in a `with` block, which cancels what is left of it.

    A job that is neither waited for nor used with `with` is cancelled when the interpreter exits, with a message on
    stderr; the exit code does not change. A handle of a detached job, or one that `Cluster.job` returned, leaves the
    job alone: only `cancel`, `drain` and `stop` end such a job.
    """

    def __init__(self, execution: Execution, *, is_owner: bool = True, picture: Picture | None = None) -> None:
        self._execution = execution
        self._picture = picture
        self._is_announcing = threading.Lock()
        self._is_owner = is_owner
        _open_handles.difference_update([handle for handle in _open_handles if handle._execution.is_over])
        if is_owner:
            _open_handles.add(self)
            atexit.unregister(_cancel_forgotten_jobs)
            atexit.register(_cancel_forgotten_jobs)  # as the last, so that it runs before what ends Ray

    @property
    def id(self) -> str:
        """What `Cluster.job` and `sage-flow status` find the job by; in local mode its name."""
        return self._execution.id

    @property
    def is_owner(self) -> bool:
        """Whether the job ends with this handle: False for a detached job, and for one that `Cluster.job` returned."""
        return self._is_owner

    @property
    def name(self) -> str:
        """The job's name."""
        return self._execution.name

    @property
    def status(self) -> JobStatus:
        """CREATED, RUNNING, RESTARTING, FINISHED, STOPPED, FAILED or CANCELLED."""
        return self._execution.status

    @property
    def is_over(self) -> bool:
        """Whether `wait` would return at once."""
        return self._execution.is_over

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait for the end of the job, at most `timeout` seconds; return the status then.

        While it waits, `sage-flow channels` and `sage-flow services` can inspect the job, and `sage-flow drain` and
        `sage-flow cancel` can end it. Ctrl-C raises KeyboardInterrupt and leaves the job alone.
        """
        patience_s = _SHORT_JOB_S if timeout is None else min(timeout, _SHORT_JOB_S)
        left_s = None if timeout is None else timeout - patience_s
        if self._execution.wait(patience_s) or self._wait_in_public(left_s):
            _open_handles.discard(self)
        return self.status

    def _wait_in_public(self, timeout: float | None) -> bool:
        if not self._execution.is_announced or not self._is_announcing.acquire(blocking=False):
            return self._execution.wait(timeout)
        try:
            with contextlib.ExitStack() as stack:
                try:
                    from sage_flow.executors.running_jobs import announced

                    stack.enter_context(announced(self))
                except (OSError, SageFlowError) as error:
                    _log.warning("job %r cannot be inspected from other processes: %s", self.name, error)
                return self._execution.wait(timeout)
        finally:
            self._is_announcing.release()

    def cancel(self, reason: str = "cancelled by its user", *, wait: bool = True) -> JobStatus:
        """End the job: unwind waiting code, close everything, publish nothing. If `wait`, wait until that is done.

        A job that has begun to publish cannot be cancelled: its status is then FINISHED.
        """
        self._execution.cancel(reason)
        return self.wait() if wait else self.status

    def drain(self, *, wait: bool = True) -> JobStatus:
        """End the sources, process all records that they emitted, and publish.

        If `wait`, wait until that is done. The status is then FINISHED, unless the job fails or is cancelled in the
        meantime. Records that a `blocking` source returns within 0.5 s from a read in progress are included.
        """
        self._execution.drain()
        return self.wait() if wait else self.status

    def stop(self, *, wait: bool = True) -> JobStatus:
        """Make a last checkpoint and end with it: `restore="latest"` continues there. Nothing fires early.

        If `wait`, wait until that is done. The status is then STOPPED, or FINISHED if the job came to its end before.

        Raises PipelineError if the job has no checkpoints.
        """
        self._execution.stop()
        return self.wait() if wait else self.status

    def result(self, timeout: float | None = None) -> JobResult:
        """Wait for the end and return what the job came to.

        Raises the first error of user code as its own type, TimeoutError if the job runs on after `timeout`
        seconds, ClusterError if its rows are gone.
        """
        self.wait(timeout)
        if not self._execution.is_over:
            raise TimeoutError(f"job {self.name!r} is still running after {timeout} s")
        outcome = self._execution.outcome()
        if outcome.failure is not None and outcome.status is JobStatus.FAILED:
            raise _error(self.name, outcome, outcome.failure)
        if not outcome.has_rows:
            raise ClusterError(
                f"job {self.name!r} is {outcome.status}, but its rows did not fit into Ray's records, and its"
                " master, which held them, has ended: fetch them earlier, or write such results to files"
            )
        return _result(outcome, self._picture)

    def collected(self) -> dict[str, list[Any]]:
        """The rows of each `collect` sink so far, by name; complete when the job is FINISHED."""
        return self._execution.collected()

    def rows(self, name: str, *, timeout: float | timedelta | None = None) -> Iterator[Any]:
        """Iterate over the rows of a `collect` sink while the job runs, until it is over; each is given once.

        Rows that were given are forgotten: they are in neither `collected()` nor the result, and do not count for the
        limit on collected rows. So a job without an end can be read in this way. If the job starts again from the
        beginning, its rows come again. In a job with checkpoints a row comes when the checkpoint after it is complete,
        and none comes twice.

        >>> from sage_flow import LocalEnvironment
        >>> job = LocalEnvironment("squares")
        >>> _ = job.from_collection([1, 2, 3]).map(lambda n: n * n).collect("squares")
        >>> with job.submit() as running:
        ...     print(list(running.rows("squares")))
        [1, 4, 9]

        Args:
            timeout: seconds to wait for the next row, or a `timedelta`. None: as long as the job runs.

        Raises:
            TimeoutError: no row has come for `timeout`.
            PipelineError: no sink has this name, or `timeout` is no time to wait.

        A job that failed raises its error behind its last row; of one that is cancelled the rows end.
        """
        patience_s = _patience_s(name, timeout)
        attempt = number = 0
        waited_s = 0.0
        while True:
            is_over = self._execution.is_over  # asked before: no row comes behind the end
            taken = self._execution.take_rows(name, attempt, number)
            attempt = taken.attempt
            if taken.rows:
                waited_s, number = 0.0, taken.first
                for row in taken.rows:
                    number += 1
                    yield row
            elif is_over:
                break
            elif waited_s >= patience_s:
                raise TimeoutError(f"no row of {name!r} has come for {patience_s} s")
            else:
                self._execution.wait(_LOOK_FOR_ROWS_S)
                waited_s += _LOOK_FOR_ROWS_S
        if self.status is JobStatus.FAILED:
            self.result()

    def subtasks(self) -> list[SubtaskInfo]:
        """Every subtask, its status and where it is."""
        return self._execution.subtasks()

    def logs(self) -> dict[str, str]:
        """What the actors of a job on Ray have printed, by the name of the actor.

        Raises PipelineError in local mode; ClusterError where Ray's dashboard, which has the logs, does not run.
        """
        return self._execution.logs()

    def metrics(self) -> dict[str, Any]:
        """How far the job is.

        `operators`: counts by name. `queued`: records that wait, by chain. `services`: by name and method, `calls`
        that have ended, `errors` among them, `in_flight`, `latency_ms` as callers see it and `queue_ms` until a
        call was begun (p50, p90, p99; None without calls). What runs tells of itself five times a second.
        `calls`: the same with whole histograms. `checkpoints`: as `checkpoints()` has them. `user`: the metrics of user
        code (`ctx.metrics`), those of each subtask apart.
        """
        return self._execution.metrics()

    def checkpoints(self) -> list[CheckpointInfo]:
        """The latest checkpoints, of all attempts, at most 100: their sizes and times, and why those failed that did.

        The oldest is the first. `CheckpointInfo.path` is what `restore=` takes. A job on Ray that is over tells nothing
        of them; `sage-flow checkpoints --checkpoints STORAGE` shows what is stored.
        """
        told: list[CheckpointInfo] = self._execution.metrics()["checkpoints"]
        return told

    def statistics(self) -> dict[str, Any]:
        """What every channel and service of the job is doing; asks them all, whatever they are doing.

        `channels`: of each its `kind` (an "edge" between subtasks, "requests" of a service, "responses" of a caller),
        `name`, `medium`, `host` (who receives), `producers`, `depth` (records, requests or calls that wait),
        `oldest_s` (for how long the first of them does), `received`, `rate_per_s` since the last look, `bytes` where
        they are counted. `services`: as `metrics()` has them. `subtasks`: of each its `name`, `chain`, `operators`
        (counts), `watermarks`, `queued` (records or requests that wait), `oldest_s`, and since it began `flow`
        (records and bytes in and out) and `work` (seconds busy, idle, waiting for credit, in calls), and `threads`:
        those that have been in one call of user code for a second, see `stacks`. `stories`: the last events of
        subtasks where there were any. `pipeline`: its chains as boxes, and the arrows between them. `attempt`: its
        number. `failures`: what has ended the latest attempts before it. `unresponsive`: subtasks that gave no answer
        within a second.

        A job that is over has no channels. Raises PipelineError for a job in the simulation.
        """
        return self._execution.statistics()

    def stacks(self) -> dict[str, list[dict[str, Any]]]:
        """Where the threads and coroutines of every subtask are, by its name, whatever they are doing.

        Of each its `name`, what it is `doing` ("busy", or what it waits for: "idle", "credit", "calls"; or it is a
        "coroutine"), `for_s` (seconds, None of a coroutine), and `frames`: the lines of user code and of libraries,
        the innermost first; none if it is in the engine.

        A job that is over has no subtasks. Raises PipelineError for a job in the simulation.
        """
        told = self._execution.statistics(stacks=True)
        return {subtask["name"]: subtask["threads"] for subtask in told["subtasks"]}

    def __repr__(self) -> str:
        return f"<JobHandle {self.name!r}>"

    def _repr_html_(self) -> str:
        from sage_flow.notebook.displays import handle_html

        return handle_html(self)

    def __enter__(self) -> JobHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_owner and not self._execution.is_over:
            self.cancel("interrupted" if kind is KeyboardInterrupt else "its `with` block ended")
            stuck = self._execution.stuck
            if self.status is JobStatus.FINISHED:
                _log.warning("job %r was publishing already when it was cancelled: it is FINISHED", self.name)
            if stuck:  # nobody gets a result that could tell
                _log.warning("job %r ended while user code was still running: %s", self.name, "; ".join(stuck))
        _open_handles.discard(self)


def _error(job: str, outcome: JobOutcome, failure: PackedError) -> BaseException:
    error = unpack_error(failure)
    if outcome.stuck:
        add_notes(error, [f"the job ended while user code was still running: {'; '.join(outcome.stuck)}"])
    if isinstance(error, JobCancelled) or not isinstance(error, Exception):
        add_notes(error, [f"raised in job {job!r}"])
    fold_engine_frames(error)
    return error


def _result(outcome: JobOutcome, picture: Picture | None) -> JobResult:
    counts = outcome.counts
    return JobResult(
        outcome.status,
        outcome.collected,
        _numbers(outcome),
        {name: count.skipped for name, count in counts.items() if count.skipped},
        {name: count.dead_letters for name, count in counts.items() if count.dead_letters},
        outcome.stuck,
        {name: count.late for name, count in counts.items() if count.late},
        {name: count.late_by_ms for name, count in counts.items() if count.late},
        picture,
    )


def _first(numbers: dict[str, int]) -> str:
    """A dict of numbers, of which a long one is cut."""
    shown = [f"{name!r}: {number}" for name, number in list(numbers.items())[:_SHOWN]]
    left = len(numbers) - len(shown)
    return f"{{{', '.join([*shown, *([f'... {left} more'] if left else [])])}}}"


def _numbers(outcome: JobOutcome) -> dict[str, int]:
    """Of records by operator, and of rows by the label that collect was given, which an operator's name may hide."""
    numbers = {name: count.emitted for name, count in outcome.counts.items()}
    return numbers | {label: len(rows) for label, rows in outcome.collected.items() if label not in numbers}


_open_handles: set[JobHandle] = set()  # also of those whose user has dropped them: their jobs run on


def _cancel_forgotten_jobs() -> None:
    """Exit handlers come too late to change the exit code: Python has fixed it before it calls them."""
    for handle in list(_open_handles):
        if handle._execution.is_over:
            continue
        forgotten = f"job {handle.name!r} was submitted and neither waited for nor used with `with`"
        tell(
            f"sage-flow: error: {forgotten}: the program ends, so the job is cancelled and publishes nothing; call"
            " job.result(), or env.execute() instead of env.submit()"
        )
        handle.cancel("the interpreter exits")
        warnings.warn(f"{forgotten}: it was cancelled", ResourceWarning, stacklevel=2)


def _patience_s(name: str, timeout: Any) -> float:
    """Return how long `rows` waits for a row; infinity for None. Raises PipelineError."""
    if timeout is None:
        return math.inf
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise PipelineError(f"timeout of rows({name!r}) must be seconds or a timedelta, at least 0, not {timeout!r}")
    return seconds
