"""What a job on Ray exports, and where its status says that it is slow."""

from __future__ import annotations

import argparse
import json
import time
import urllib.request

import pytest

from sage_flow import IDLE, RemoteEnvironment, Service, Source
from sage_flow.cli.cluster_queries import show_status
from sage_flow.cluster import Cluster
from sage_flow.metrics.table import METRICS, PREFIX

pytestmark = pytest.mark.usefixtures("ray_cluster")

NEEDS_CHECKPOINTS = {"checkpoint_latest", "checkpoint_duration_seconds", "checkpoint_size_bytes"}
NEEDS_TIME = {"watermark_seconds", "watermark_lag_seconds"}
"""Metrics that a job without checkpoints, or without timestamps, does not have."""
NEVER_HERE = {"restarts", "credit_wait_seconds", "skipped_records", "dead_letters", "late_records", "call_errors"}
NEVER_HERE |= {"call_batches", "batched_calls"}
"""Counters of what does not happen here: Ray shows a counter from its first growth on."""


class Endless(Source):
    def __init__(self):
        self.given = 0

    def next_batch(self):
        self.given += 1
        return [self.given] if self.given % 10 else IDLE


class Slow(Service):
    def double(self, n):
        return 2 * n


def slow(n, ctx):
    ctx.metrics.counter("slow").inc()
    ctx.service("slow").double(n)
    time.sleep(0.005)
    return n


@pytest.fixture(scope="module")
def job(ray_cluster):
    env = RemoteEnvironment("busy", metrics_interval_s=0.5)
    env.register_service("slow", Slow)
    env.from_source(Endless()).map(slow, name="slow-step", parallelism=2).for_each(str, name="last", parallelism=1)
    with env.submit() as handle:
        yield handle


def test_the_busiest_operator_is_the_first_row_of_the_status(job, ray_cluster, capsys):
    arguments = argparse.Namespace(job=job.id, json=True, namespace=ray_cluster.namespace)
    for _ in range(20):
        assert show_status(Cluster(ray_cluster.namespace), arguments) == 0
        told = json.loads(capsys.readouterr().out)
        if told["busy"] and next(iter(told["busy"].values())) > 0.5:
            break
    assert next(iter(told["operators"])) == "slow-step"
    assert told["busy"]["slow-step"] == max(told["busy"].values())
    arguments.json = False
    assert show_status(Cluster(ray_cluster.namespace), arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = next(n for n, line in enumerate(lines) if line.startswith("operator "))
    assert lines[titles].split()[1] == "busy"
    assert lines[titles + 1].split()[0] == "slow-step"


def exported(ray_cluster):
    """The lines that Ray exports on its nodes, of our metrics."""
    import ray

    lines = []
    for node in (node for node in ray.nodes() if node["Alive"]):  # other tests kill some
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines += answer.read().decode().splitlines()
    return [line for line in lines if line.startswith(f"ray_{PREFIX}")]


def test_rays_endpoint_has_the_metrics_of_the_table(job, ray_cluster):
    rows = [row for name, row in METRICS.items() if name not in NEEDS_CHECKPOINTS | NEEDS_TIME | NEVER_HERE]
    ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    wanted = {f"ray_{PREFIX}{row.name}{end}" for row in rows for end in ends[row.kind]} | {
        "ray_sage_flow_user_slow_total"
    }
    for _ in range(120):
        lines = exported(ray_cluster)
        found = {line.split("{")[0] for line in lines}
        if wanted <= found:
            break
        time.sleep(0.5)
    assert wanted - found == set()
    known = {f"ray_{PREFIX}{row.name}{end}" for row in METRICS.values() for end in ends[row.kind]}
    assert found - known == {"ray_sage_flow_user_slow_total"}
    records = [line for line in lines if line.startswith("ray_sage_flow_records_total{")]
    of_step = [line for line in records if 'operator="slow-step"' in line]
    assert of_step
    assert all('job_name="busy"' in line and 'subtask="slow-step[' in line for line in of_step)
