"""The latest report of each subtask of a job, and their sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sage_flow.errors import PipelineError
from sage_flow.plan.physical import Plan
from sage_flow.runtime.report import OperatorCounts, PortReport, SubtaskReport
from sage_flow.runtime.statistics import CallStatistics, Histogram, merged
from sage_flow.runtime.user_metrics import clash

__all__ = ["JobReports", "UserMetric"]


class UserMetric(NamedTuple):
    """A metric of user code: whose it is, its name, and what `MetricValue` has."""

    operator: str
    subtask: str
    name: str
    kind: str
    help: str
    value: float | Histogram


class JobReports:
    """The driver's activation writes it, any thread reads it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._latest: dict[int, SubtaskReport] = {}  # by address
        self._kinds: dict[str, tuple[str, str]] = {}  # of metrics of user code, by name: kind and operator

    def note(self, subtask: int, report: SubtaskReport | None) -> PipelineError | None:
        """Keep the report of a subtask. Return an error if a metric of user code has another kind elsewhere."""
        if report is None:
            return None
        self._latest[subtask] = report
        return clash(self._kinds, report.metrics) if report.metrics else None

    def user_metrics(self) -> list[UserMetric]:
        """The metrics of user code, those of each subtask apart."""
        names = {subtask.address: subtask.name for subtask in self._plan.subtasks}
        return [
            UserMetric(operator, names[address], name, *metric)
            for address, report in sorted(self._latest.items())
            for operator, metrics in report.metrics.items()
            for name, metric in metrics.items()
        ]

    def latest(self, subtask: int) -> SubtaskReport | None:
        """The last report of a subtask, None if there is none."""
        return self._latest.get(subtask)

    def counts(self) -> dict[str, OperatorCounts]:
        """The counts of all operators, added up over their subtasks, in the order of the plan."""
        operators = [operator for chain in self._plan.chains for operator in chain.operators]
        totals = {operator.name: OperatorCounts() for operator in operators if operator.kind.is_counted}
        for report in list(self._latest.values()):
            for name, counts in report.operators.items():
                totals[name] = totals[name].plus(counts)
        return totals

    def watermarks(self) -> dict[str, int]:
        """How far the operators are whose records have timestamps, by name: the slowest subtask counts.

        Those are missing of which a subtask has told nothing yet.
        """
        slowest: dict[str, int] = {}
        told: dict[str, int] = {}
        for report in list(self._latest.values()):
            for name, watermark in report.watermarks.items():
                slowest[name] = min(watermark, slowest.get(name, watermark))
                told[name] = told.get(name, 0) + 1
        subtasks = {operator.name: chain.parallelism for chain in self._plan.chains for operator in chain.operators}
        return {name: watermark for name, watermark in slowest.items() if told[name] == subtasks[name]}

    def queued(self) -> dict[str, int]:
        """How many records wait in the inputs of each chain, by its name."""
        queued: dict[str, int] = {}
        for subtask in self._plan.subtasks:
            report = self._latest.get(subtask.address)
            queued[subtask.chain.name] = queued.get(subtask.chain.name, 0) + (report.queued if report else 0)
        return queued

    def services(
        self, outside: dict[str, CallStatistics], inspected: Mapping[int, PortReport] | None = None
    ) -> dict[str, dict[str, CallStatistics]]:
        """The outcomes of the calls so far, by service and method; a service that was not called has none.

        `outside` are the calls from outside the job; `inspected` are answers that some subtasks have just given, which
        are newer than their reports.
        """
        calls = {address: report.calls for address, report in list(self._latest.items())}
        calls.update({address: report.calls for address, report in (inspected or {}).items()})
        found: dict[str, dict[str, CallStatistics]] = {name: {} for name in self._plan.services}
        for label, statistics in merged([*calls.values(), outside]).items():
            name, _, method = label.rpartition(".")
            if name in found:
                found[name][method] = statistics
        return found
