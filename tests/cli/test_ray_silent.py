"""A cluster that does not answer: whoever asks it is told so within a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from job_folder import write
from ray_head import RayHead
from ray_head import ray_head as ray_head

pytestmark = pytest.mark.slow

PATIENCE_S = 240  # many programs at once
LIMIT_S = 10  # for an answer, instead of 30 s: a GCS that has stood still may take some seconds to come to itself

JOB = """
    def build(env):
        env.from_collection(range(3)).collect("rows")
"""

ENDLESS = """
    import time

    def build(env):
        env.from_collection(range(1)).map(lambda n: time.sleep(3600)).collect("rows")
"""

PROGRAM = """
    import os
    import sys
    import time

    from sage_flow import IDLE, LocalEnvironment, RemoteEnvironment, Source, connect
    from sage_flow.errors import ClusterError


    class Endless(Source):
        def next_batch(self):
            return IDLE


    def environment(name):
        env = RemoteEnvironment(name, address=sys.argv[1])
        env.from_source(Endless()).for_each(print)
        return env


    env = environment("early")
    job = env.submit()
    while job.status != "RUNNING":
        time.sleep(0.1)
    print("ready", flush=True)
    sys.stdin.readline()
    for name, asks in {
        "status": lambda: job.status,
        "jobs": lambda: connect(sys.argv[1]).jobs(),
        "submit": lambda: environment("late").submit(),
    }.items():
        try:
            print(name, asks())
        except ClusterError as error:
            print(name, error)
    print("cancel", job.cancel() == job.wait() == "CANCELLED", flush=True)  # the master answers by itself
    os._exit(0)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write(folder / "jobs" / "three.py", JOB)
    write(folder / "jobs" / "endless.py", ENDLESS)
    return folder


def impatient(head: RayHead) -> RayHead:
    """The same cluster, for programs that wait for `LIMIT_S` seconds."""
    return replace(head, environment={**head.environment, "SAGE_FLOW_ANSWER_S": str(LIMIT_S)})


def start(head: RayHead, project: Path, *arguments: str) -> subprocess.Popen[str]:
    return head.start(sys.executable, "-m", "sage_flow.cli", *arguments, cwd=project)


def test_every_command_gives_up_on_a_cluster_that_stands_still(ray_head, project):
    code, out, err = ray_head.sage_flow("submit", "jobs/three.py", "--address", ray_head.url, cwd=project)
    assert code == 0, err
    commands = [
        *(["list", "--address", address] for address in (ray_head.address, ray_head.url, ray_head.client)),
        *([name, "three", "--address", ray_head.address] for name in ("status", "logs", "cancel", "drain")),
        ["channels", "three", "--address", ray_head.address],
        ["submit", "jobs/three.py", "--address", ray_head.url],
        ["run", "jobs/three.py", "--address", ray_head.address],
    ]
    os.kill(ray_head.gcs, signal.SIGSTOP)
    try:
        started = [start(impatient(ray_head), project, *command) for command in commands]
        ended = [(*process.communicate(timeout=PATIENCE_S), process.returncode) for process in started]
    finally:
        os.kill(ray_head.gcs, signal.SIGCONT)
    for command, (out, err, code) in zip(commands, ended, strict=True):
        assert (code, out) == (3, ""), (command, out, err)
        # Ray may log a line of its own behind it.
        assert any(line.startswith("sage-flow: error: ") for line in err.splitlines()), (command, err)
        assert "did not answer within" in err or "does not answer" in err, (command, err)


def test_a_command_that_waits_for_a_job_gives_up_when_the_cluster_stands_still(ray_head, project):
    code, out, err = ray_head.sage_flow("submit", "jobs/endless.py", "--detach", "--address", ray_head.url, cwd=project)
    assert code == 0, err
    follower = start(impatient(ray_head), project, "logs", "-f", out.strip(), "--address", ray_head.address)
    assert follower.stdout is not None
    assert follower.stdout.readline()
    os.kill(ray_head.gcs, signal.SIGSTOP)
    try:
        _, err = follower.communicate(timeout=PATIENCE_S)
    finally:
        os.kill(ray_head.gcs, signal.SIGCONT)
    assert follower.returncode == 3, err
    assert ray_head.sage_flow("cancel", out.strip(), "--address", ray_head.address, cwd=project)[0] == 0


def test_a_program_is_told_that_its_cluster_stands_still(ray_head, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    process = subprocess.Popen(
        [sys.executable, str(script), ray_head.address],
        env=impatient(ray_head).environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(ray_head.gcs, signal.SIGSTOP)
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
        told = [process.stdout.readline() for _ in range(3)]
    finally:
        os.kill(ray_head.gcs, signal.SIGCONT)
    assert [line.split()[0] for line in told] == ["status", "jobs", "submit"]
    assert all(f"the GCS of the cluster did not answer within {LIMIT_S} s" in line for line in told), told
    out, err = process.communicate(timeout=PATIENCE_S)
    assert out == "cancel True\n", err


def test_a_limit_that_is_no_number_of_seconds_is_told_and_not_taken():
    code = "from sage_flow.executors.ray.answers import ANSWER_S; print(ANSWER_S)"
    environment = {**os.environ, "SAGE_FLOW_ANSWER_S": "soon"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "30.0\n"
    assert told.stderr == (
        "the environment variable SAGE_FLOW_ANSWER_S must be a number of seconds above 0, not 'soon'; the limit is"
        " 30 s\n"
    )


def test_the_limit_that_is_set_holds_for_a_connection_by_a_client_server_too_twice_as_long():
    code = "from sage_flow.executors.ray.cluster import _CLIENT_S; print(_CLIENT_S)"
    environment = {**os.environ, "SAGE_FLOW_ANSWER_S": "7"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "14.0\n"
