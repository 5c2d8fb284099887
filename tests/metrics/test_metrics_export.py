"""What a job exports: the table in the docs, no more and no less."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from job_folder import finish, start, write
from prometheus_client.parser import text_string_to_metric_families

from sage_flow import END, IDLE, LocalEnvironment, Service, Source, batched
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.metrics.prometheus import exported
from sage_flow.metrics.samples import buckets_of
from sage_flow.metrics.shares import Shares, by_operator, shares_between
from sage_flow.metrics.table import LABELS, METRICS, PREFIX, as_markdown
from sage_flow.runtime.statistics import Histogram

ROOT = Path(__file__).parents[2]


class Numbers(Source):
    """Gives a hundred numbers, and ends when there is a file."""

    def __init__(self, file):
        self.file = file
        self.given = 0

    def next_batch(self):
        if self.given < 100:
            self.given += 1
            return [self.given - 1]
        return END if self.file.exists() else IDLE

    def snapshot(self):
        return self.given

    def restore(self, position):
        self.given = position


class Doubler(Service):
    @batched(max_size=4, max_wait=timedelta(milliseconds=1))
    def double(self, numbers):
        return [2 * n for n in numbers]


def fetched(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_table_of_the_docs_is_the_table_of_the_code():
    assert as_markdown() in (ROOT / "docs/metrics.md").read_text(encoding="utf-8")


def test_a_job_exports_what_the_table_says_and_nothing_else(tmp_path):
    goes_on = tmp_path / "goes_on"  # in another process

    def step(n, ctx):
        ctx.metrics.counter("steps", help="taken").inc()
        ctx.metrics.histogram("sizes").observe(n)
        return ctx.service("doubler").double(n)

    env = LocalEnvironment("export", executor=ProcessExecutor())
    env.enable_checkpointing(str(tmp_path / "stored"), interval=timedelta(milliseconds=50))
    env.register_service("doubler", Doubler)
    timed = env.from_source(Numbers(goes_on)).assign_timestamps(
        lambda n: 1_714_557_600_000 + n, max_out_of_order=timedelta(0)
    )
    timed.rebalance().map(step, name="step", parallelism=2).for_each(lambda n: None)
    with env.submit() as job, exported(job, 0) as port:
        wanted = {PREFIX + name for name in METRICS} | {"sage_flow_user_steps", "sage_flow_user_sizes"}
        for _ in range(2000):  # until all of them have come
            found = fetched(port)
            steps = [sample.value for sample in found["sage_flow_user_steps"].samples] if wanted <= set(found) else []
            if sum(steps) == 100:
                break
            threading.Event().wait(0.02)
        goes_on.touch()
    assert set(found) == wanted
    for name, row in METRICS.items():
        family = found[PREFIX + name]
        assert (family.type, family.documentation) == (row.kind, row.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(LABELS[row.of])
    emitted = [s for s in found["sage_flow_records"].samples if s.labels["operator"] == "step"]
    assert {s.labels["subtask"] for s in emitted} == {"step[1/2]", "step[2/2]"}
    assert sum(s.value for s in emitted) == 100
    latency = {s.labels.get("le"): s.value for s in found["sage_flow_call_latency_seconds"].samples}
    assert latency["+Inf"] == 100
    assert sum(s.value for s in found["sage_flow_user_steps"].samples) == 100


def test_a_port_in_use_is_an_error_that_names_it():
    env = LocalEnvironment("port")
    env.from_collection([1]).for_each(str)
    with socket.create_server(("127.0.0.1", 0)) as taken, env.submit() as job:
        port = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=f"port {port} is in use.*0 for any free one"), exported(job, port):
            pass
        for wrong in (70000, -1):
            with pytest.raises(PipelineError, match=f"there is no port {wrong}"), exported(job, wrong):
                pass


def test_the_metrics_are_for_this_machine_only():
    env = LocalEnvironment("loopback")
    env.from_collection([1]).for_each(str)
    with env.submit() as job, exported(job, 0) as port, pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_run_exports_metrics_on_the_port_it_is_given_and_tells_it(tmp_path):
    job = """
    import re, sys, urllib.request

    def look(n, ctx):
        if n == 0:
            ctx.metrics.gauge("looked").set(1)
        return n

    def build(env):
        env.from_collection([0]).map(look).print()
    """
    write(tmp_path / "looking.py", job)
    code, out, err = finish(start("-m", "sage_flow.cli", "run", "--metrics-port", "0", "looking.py", cwd=tmp_path))
    assert (code, out.splitlines()[0]) == (0, "0")
    assert re.search(r"metrics: http://127\.0\.0\.1:\d+/metrics", err)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = finish(start("-m", "sage_flow.cli", "run", "--metrics-port", port, "looking.py", cwd=tmp_path))
    assert code == 2
    assert f"port {port} is in use" in err


def test_buckets_are_cumulative_and_their_sum_is_about_right():
    values = Histogram()
    for value in (0.1, 0.3, 0.3, 3.0, 100.0):
        values.add(value)
    told = buckets_of(values, (0.25, 0.5, 4.0))
    assert told.below == ((0.25, 1), (0.5, 3), (4.0, 4))
    assert told.all == 5
    assert told.total == pytest.approx(103.7, rel=0.07)


def look(attempt=1, **works):
    names = ("busy_s", "idle_s", "credit_s", "calls_s")
    subtasks = [
        {"name": f"{name}[1/1]", "chain": n, "work": None if work is None else dict(zip(names, work, strict=True))}
        for n, (name, work) in enumerate(works.items())
    ]
    boxes = [{"id": n, "operators": ((name, name), (f"{name}-sink", ""))} for n, name in enumerate(works)]
    return {"attempt": attempt, "subtasks": subtasks, "pipeline": {"boxes": boxes}}


def test_shares_are_those_between_two_looks():
    before, now = look(a=(10, 0, 0, 0), b=(0, 10, 0, 0)), look(a=(10, 0, 3, 1), b=(4, 10, 0, 0))
    shares = shares_between(before, now)
    assert shares == {"a[1/1]": Shares(credit=0.75, calls=0.25), "b[1/1]": Shares(busy=1.0)}
    assert list(by_operator(now, shares)) == ["b", "b-sink", "a", "a-sink"]


def test_another_attempt_begins_anew():
    assert shares_between(look(a=(10, 0, 0, 0)), look(2, a=(1, 3, 0, 0))) == {"a[1/1]": Shares(busy=0.25, idle=0.75)}


def test_a_subtask_that_does_not_answer_has_no_share():
    now = look(a=(1, 0, 0, 0), b=None)
    assert list(shares_between(None, now)) == ["a[1/1]"]
    assert by_operator(now, shares_between(None, now))["b"] == 0.0


def test_the_time_of_a_chain_is_divided_by_samples():
    now = look(a=(1, 1, 0, 0), b=(0, 1, 0, 0))
    now["subtasks"][0]["sampled"] = {"a": 1, "a-sink": 4}
    assert by_operator(now, shares_between(None, now)) == {"a-sink": 0.4, "a": 0.1, "b": 0.0, "b-sink": 0.0}
