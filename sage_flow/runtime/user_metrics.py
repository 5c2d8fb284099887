"""Metrics that user code counts itself: `ctx.metrics.counter("seen").inc()`."""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.runtime.statistics import Histogram

__all__ = ["CounterMetric", "GaugeMetric", "HistogramMetric", "MetricValue", "UserMetrics", "clash"]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MADE_BY_EXPORTERS: Final = ("_total", "_count", "_sum", "_bucket", "_created", "_info")
_MOST: Final = 200
"""Metrics of one operator; more are a sign of names that are made of data."""


class MetricValue(NamedTuple):
    """A metric of one operator in one subtask, as it travels. `kind`: "counter", "gauge" or "histogram"."""

    kind: str
    help: str
    value: float | Histogram


class CounterMetric:
    """A number that only grows."""

    kind: Final = "counter"

    def __init__(self, help: str, lock: AbstractContextManager[Any]) -> None:
        self.help = help
        self._lock = lock
        self._value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`, which is not negative."""
        if not amount >= 0:
            raise ValueError(f"a counter only grows, so it cannot count {amount!r}: use a gauge")
        with self._lock:
            self._value += amount

    def told(self) -> MetricValue:
        """Return its value now."""
        return MetricValue(self.kind, self.help, self._value)


class GaugeMetric:
    """A number that goes up and down."""

    kind: Final = "gauge"

    def __init__(self, help: str, lock: AbstractContextManager[Any]) -> None:
        self.help = help
        self._lock = lock
        self._value = 0.0

    def set(self, value: float) -> None:
        """Set it."""
        self._value = float(value)

    def add(self, amount: float) -> None:
        """Add to it; a negative amount takes away."""
        with self._lock:
            self._value += amount

    def told(self) -> MetricValue:
        """Return its value now."""
        return MetricValue(self.kind, self.help, self._value)


class HistogramMetric:
    """How often which values come. A percentile of it is exact to 7 %."""

    kind: Final = "histogram"

    def __init__(self, help: str, lock: AbstractContextManager[Any]) -> None:
        self.help = help
        self._lock = lock
        self._values = Histogram()

    def observe(self, value: float) -> None:
        """Count one value, which is not negative: a duration in seconds, a size."""
        if not 0 <= value < float("inf"):
            raise ValueError(f"a histogram counts finite values that are not negative, not {value!r}")
        with self._lock:
            self._values.add(value)

    def told(self) -> MetricValue:
        """Return its values now."""
        with self._lock:
            return MetricValue(self.kind, self.help, self._values.copy())


_Metric = CounterMetric | GaugeMetric | HistogramMetric
MetricT = TypeVar("MetricT", CounterMetric, GaugeMetric, HistogramMetric)


class UserMetrics:
    """The metrics of one operator in one subtask, by name. To ask for one again gives the same.

    A name has letters, digits and `_`; exporters put `sage_flow_user_` before it. Operators may use the same name,
    since their values are apart, by the label `operator`; but the kind must be the same in the whole job.
    """

    def __init__(self, operator: str, lock: AbstractContextManager[Any] | None = None) -> None:
        """`lock` guards the values where several threads of user code change them."""
        self._operator = operator
        self._lock: AbstractContextManager[Any] = contextlib.nullcontext() if lock is None else lock
        self._metrics: dict[str, _Metric] = {}

    def counter(self, name: str, help: str = "") -> CounterMetric:
        """Return the counter of this name. Raises PipelineError, as the others do, if the name cannot be used."""
        return self._get(CounterMetric, name, help)

    def gauge(self, name: str, help: str = "") -> GaugeMetric:
        """Return the gauge of this name."""
        return self._get(GaugeMetric, name, help)

    def histogram(self, name: str, help: str = "") -> HistogramMetric:
        """Return the histogram of this name."""
        return self._get(HistogramMetric, name, help)

    def told(self) -> dict[str, MetricValue]:
        """Return their values now."""
        return {name: metric.told() for name, metric in list(self._metrics.items())}

    def _get(self, kind: type[MetricT], name: str, help: str) -> MetricT:
        found = self._metrics.get(name)
        if isinstance(found, kind):
            return found
        if found is not None:
            raise PipelineError(
                f"{self._operator!r} uses the metric {name!r} as a {kind.kind}, and it is a {found.kind} already:"
                " choose another name"
            )
        _check_name(self._operator, name)
        if len(self._metrics) >= _MOST:
            raise PipelineError(
                f"{self._operator!r} has {_MOST} metrics and asks for another one, {name!r}: names of metrics must not"
                " be made of data"
            )
        with self._lock:  # two threads may ask for it at once
            made = self._metrics.setdefault(name, kind(help, self._lock))
        return made if isinstance(made, kind) else self._get(kind, name, help)


def _check_name(operator: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PipelineError(
            f"{operator!r} cannot name a metric {name!r}: a name begins with a letter and has letters, digits and '_'"
        )
    for end in _MADE_BY_EXPORTERS:
        if name.endswith(end):
            raise PipelineError(
                f"{operator!r} cannot name a metric {name!r}: Prometheus puts {end!r} behind names itself, leave it out"
            )


def clash(kinds: dict[str, tuple[str, str]], told: dict[str, dict[str, MetricValue]]) -> PipelineError | None:
    """Note in `kinds` (by name: kind, operator) what a subtask tells; return the error if a name has two kinds."""
    for operator, metrics in told.items():
        for name, metric in metrics.items():
            kind, first = kinds.setdefault(name, (metric.kind, operator))
            if kind != metric.kind:
                return PipelineError(
                    f"the metric {name!r} is a {kind} in {first!r} and a {metric.kind} in {operator!r}: a name has one"
                    " kind in a job, choose another name"
                )
    return None
