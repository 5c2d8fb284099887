"""Metrics that user code counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from sage_flow import Function, LocalEnvironment, Service
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.executors.threads import ThreadExecutor
from sage_flow.runtime.user_metrics import UserMetrics


class Measured(Service):
    def open(self, ctx):
        self.metrics = ctx.metrics

    def double(self, n):
        self.metrics.histogram("size").observe(n)
        return 2 * n


class Looked(Function):
    def open(self, ctx):
        self.seen = ctx.metrics.counter("seen", help="records that were looked at")

    def __call__(self, n, ctx):
        self.seen.inc()
        ctx.metrics.gauge("last").set(n)
        return ctx.service("measured").double(n)


@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor, SimulationExecutor])
def test_a_job_tells_the_metrics_of_its_functions_and_services(make):
    env = LocalEnvironment("measured", executor=make())
    env.register_service("measured", Measured)
    env.from_collection(range(10)).rebalance().map(Looked(), name="look", parallelism=2).for_each(str)
    with env.submit() as job:
        job.result()
        told = job.metrics()["user"]
    seen = {one.subtask: one.value for one in told if one.name == "seen"}
    assert len(seen) == 2
    assert sum(seen.values()) == 10
    assert {one.help for one in told if one.name == "seen"} == {"records that were looked at"}
    assert max(one.value for one in told if one.name == "last") == 9
    (size,) = (one for one in told if one.name == "size")
    assert (size.operator, size.kind) == ("measured", "histogram")
    assert size.value.percentile(100) == pytest.approx(9, rel=0.07)


def test_a_name_has_one_kind_in_a_job():
    env = LocalEnvironment("clash")
    counted = env.from_collection([1]).map(lambda n, ctx: ctx.metrics.counter("n").inc() or n, name="one")
    counted.rebalance().map(lambda n, ctx: ctx.metrics.gauge("n").set(n) or n, name="two").for_each(str)
    with pytest.raises(PipelineError, match=r"'n' is a (counter|gauge) in '(one|two)' and a (gauge|counter) in"):
        env.execute()


def test_an_operator_uses_a_name_for_one_metric():
    metrics = UserMetrics("step")
    assert metrics.counter("n") is metrics.counter("n")
    with pytest.raises(PipelineError, match="'step' uses the metric 'n' as a gauge, and it is a counter already"):
        metrics.gauge("n")


@pytest.mark.parametrize("name", ["", "1st", "a-b", "ä", "__x", "a b", 'a"} 1', None, 7])
def test_a_name_that_prometheus_does_not_know_is_refused(name):
    with pytest.raises(PipelineError, match="'step' cannot name a metric"):
        UserMetrics("step").counter(name)


@pytest.mark.parametrize("name", ["rows_total", "wait_bucket", "wait_sum", "wait_count"])
def test_an_end_that_prometheus_adds_itself_is_refused(name):
    with pytest.raises(PipelineError, match="leave it out"):
        UserMetrics("step").histogram(name)


def test_names_that_are_made_of_data_end_in_an_error():
    metrics = UserMetrics("step")
    for n in range(200):
        metrics.counter(f"user{n}")
    with pytest.raises(PipelineError, match="must not be made of data"):
        metrics.counter("user200")


def test_impossible_values_are_refused():
    metrics = UserMetrics("step")
    with pytest.raises(ValueError, match="only grows"):
        metrics.counter("n").inc(-1)
    for value in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite values"):
            metrics.histogram("h").observe(value)


def test_threads_of_a_service_lose_no_count():
    env = LocalEnvironment("threads")

    class Counted(Service):
        def open(self, ctx):
            self.calls = ctx.metrics.counter("calls")

        def add(self, n):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: self.calls.inc(), range(500)))

    env.register_service("counted", Counted, concurrency=4)
    env.from_collection(range(8)).map_async(lambda n, ctx: ctx.service("counted").add.remote(n)).for_each(str)
    with env.submit() as job:
        job.result()
        assert [one.value for one in job.metrics()["user"]] == [4000]
