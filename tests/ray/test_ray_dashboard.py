"""The page in a browser, with a job on a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from browser import PATIENCE_MS, ROOT, browser, served_page  # noqa: F401 - a fixture

from sage_flow import JobStatus, RemoteEnvironment, Source


def slow(n):
    time.sleep(0.005)
    print("looked at", n)
    return n


class Numbers(Source):
    def __init__(self):
        self.given = 0

    def next_batch(self):
        self.given += 1
        return [self.given]


@pytest.fixture
def job(ray_cluster):
    env = RemoteEnvironment("page")
    env.from_source(Numbers(), name="numbers").map(slow, name="slow", parallelism=2).for_each(str, parallelism=1)
    with env.submit() as handle:
        yield handle


def test_a_job_on_ray_is_shown_and_cancelled_and_a_silent_cluster_is_said(
    job,
    ray_cluster,
    browser,  # noqa: F811
):
    environment = {**os.environ, "SAGE_FLOW_ANSWER_S": "5"}
    with served_page("--address", ray_cluster.address, environment=environment) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{address}&job={job.id}")
        page.locator("table.operators td", has_text="slow").first.wait_for()
        slow = page.locator('rect[data-operators="slow"][data-kind="busy"]')
        slow.wait_for()
        assert slow.get_attribute("fill") == "#d93025"
        page.locator('rect[data-operators="numbers"][data-kind="held"]').wait_for()
        assert page.locator("table.operators tbody tr").first.locator("td").first.inner_text() == "slow"
        page.locator('[data-tab="subtasks"]').click()
        page.locator("table.subtasks td", has_text="process ").first.wait_for()
        page.locator('[data-tab="logs"]').click()
        page.locator(".part-logs", has_text="dashboard").wait_for()  # this cluster has none, which would serve them

        gcs = ray_cluster.cluster.head_node.all_processes["gcs_server"][0].process.pid
        os.kill(gcs, signal.SIGSTOP)
        try:
            page.locator(".trouble", has_text="no answer, so what is shown is not new").wait_for()
            assert page.locator('[data-order="cancel"]').is_disabled()
        finally:
            os.kill(gcs, signal.SIGCONT)
        page.locator(".trouble").wait_for(state="hidden")
        page.locator('[data-order="cancel"]').click()
        page.locator('[data-confirm="cancel"]').click()
        page.locator(".head .status.cancelled").wait_for()
        assert job.wait(60) is JobStatus.CANCELLED
        page.close()


def test_a_page_of_a_cluster_that_is_not_there_ends_with_an_error():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-m", "sage_flow.cli", "dashboard", "--port", "0", "--address", address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    assert "page:" not in done.stderr
    assert "Traceback" not in done.stderr
