"""What a subtask tells about itself: counters per operator, and how full its inputs are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sage_flow.plan.graph import Operator
from sage_flow.runtime.statistics import CallStatistics
from sage_flow.runtime.user_metrics import MetricValue
from sage_flow.runtime.work_time import WorkTimes

__all__ = ["ChannelReport", "Counters", "Flow", "OperatorCounts", "PortReport", "SubtaskReport", "ThreadReport"]


class OperatorCounts(NamedTuple):
    """`emitted`: records the operator gave (a sink: received). `skipped`, `dead_letters` and `late` are apart.

    `late_by_ms`: by how much the latest of the late records was behind the watermark.
    """

    emitted: int = 0
    skipped: int = 0
    dead_letters: int = 0
    late: int = 0
    late_by_ms: int = 0

    def plus(self, other: OperatorCounts) -> OperatorCounts:
        """Add up."""
        added = OperatorCounts(*map(sum, zip(self, other, strict=True)))
        return added._replace(late_by_ms=max(self.late_by_ms, other.late_by_ms))


class SubtaskReport(NamedTuple):
    """Counts by operator name; `queued` are the records that wait in the inputs.

    `calls`: what came of the calls that were made and answered here, by "service.method". `watermarks`: of the
    operators whose records have timestamps, by name, in ms since the epoch. `metrics`: those of user code, by operator
    and name.
    """

    operators: dict[str, OperatorCounts]
    queued: int = 0
    calls: dict[str, CallStatistics] = {}  # noqa: RUF012 - never changed
    watermarks: dict[str, int] = {}  # noqa: RUF012 - never changed
    metrics: dict[str, dict[str, MetricValue]] = {}  # noqa: RUF012 - never changed


class ChannelReport(NamedTuple):
    """A channel as its host, which receives on it, sees it.

    `kind`: "edge" carries frames of records, "requests" those of a service, "responses" what a caller waits for.
    `medium`: "memory" or "unix socket"; there `bytes` is counted, elsewhere None. `depth`: records that came and
    are not processed (requests not begun, calls open), the oldest for `oldest_s` seconds. `received`: records
    (requests, replies) so far.
    """

    kind: str
    name: str
    medium: str
    host: int
    producers: tuple[int, ...]
    depth: int
    oldest_s: float | None
    received: int
    bytes: int | None = None


class Flow(NamedTuple):
    """What has come to a subtask from others, and what it has sent them. Bytes are None where nothing is encoded."""

    records_in: int = 0
    bytes_in: int | None = None
    records_out: int = 0
    bytes_out: int | None = None


class ThreadReport(NamedTuple):
    """Where a thread or a coroutine of a subtask is.

    `doing`: "busy", or what it waits for: "idle", "credit", "calls", and "coroutine". `for_s`: since when, None if that
    is not known. `frames`: the lines of user code and of libraries, the innermost first; none if it is in the engine.
    """

    name: str
    doing: str
    for_s: float | None
    frames: tuple[str, ...]


class PortReport(NamedTuple):
    """What a subtask's port knows by itself, also while user code runs.

    `threads`: those in user code that does not come back; all of them if that was asked for. `sampled`: how often each
    operator was found at work.
    """

    now: float
    channels: tuple[ChannelReport, ...]
    calls: dict[str, CallStatistics]
    story: tuple[tuple[float, str], ...]
    work: WorkTimes = WorkTimes()
    flow: Flow = Flow()
    threads: tuple[ThreadReport, ...] = ()
    sampled: dict[str, int] = {}  # noqa: RUF012 - never changed


class Counters:
    """Running counts of a chain, by the index of the operator."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        self._operators = operators
        self.emitted = [0] * len(operators)
        self.skipped = [0] * len(operators)
        self.dead_letters = [0] * len(operators)
        self.late = [0] * len(operators)
        self.late_by_ms = [0] * len(operators)

    def report(self, queued: int = 0) -> SubtaskReport:
        """A picture of now. A key_by moves records and makes none, so it has no count."""
        columns = zip(
            self._operators, self.emitted, self.skipped, self.dead_letters, self.late, self.late_by_ms, strict=True
        )
        counts = {operator.name: OperatorCounts(*numbers) for operator, *numbers in columns if operator.kind.is_counted}
        return SubtaskReport(counts, queued)
