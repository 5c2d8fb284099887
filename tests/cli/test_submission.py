"""Jobs that are sent to a cluster by its job server, and looked at from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from job_folder import write
from ray_head import RayHead, of_driver
from ray_head import ray_head as ray_head

pytestmark = pytest.mark.slow

PATIENCE_S = 90

SLOW = """
    from __future__ import annotations

    if __name__ == "__main__":
        from sage_flow.cli import run_file

        raise SystemExit(run_file(__file__))

    from dataclasses import dataclass

    from operators.pace import Slow


    @dataclass(frozen=True)
    class Options:
        fails: bool = False


    def check(n):
        return 1 // (n - 3)


    def build(env, options: Options):
        seen = env.queue("seen")
        numbers = env.from_source(Slow, name="numbers").map(lambda n: seen.put(n) or n, name="noted")
        (numbers.map(check, name="check") if options.fails else numbers).for_each(lambda n: None, name="out")


    def report(result):
        print("the report", result.status)
"""

PACE = """
    import time

    from sage_flow.functions import Source


    class Slow(Source):
        blocking = True

        def open(self, ctx):
            self.n = -1

        def next_batch(self):
            time.sleep(0.05)
            self.n += 1
            print(f"number {self.n}.", flush=True)
            return [self.n]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write(folder / "operators" / "__init__.py", "")
    write(folder / "operators" / "pace.py", PACE)
    write(folder / "jobs" / "slow.py", SLOW)
    write(folder / "jobs" / "importing.py", "import no_such_module\ndef build(env): ...\n")
    return folder


def record(head: RayHead, job: str, cwd: Path) -> dict[str, Any]:
    """What `status --json` tells."""
    _, out, err = head.sage_flow("status", job, "--address", head.address, "--json", cwd=cwd)
    assert out, err
    found: dict[str, Any] = json.loads(out)
    return found


def submit(head: RayHead, project: Path, *arguments: str) -> str:
    """Submit the slow job, wait until it runs; return the id of the submission."""
    code, out, err = head.sage_flow(
        "submit", "jobs/slow.py", "--address", head.url, "--detach", *arguments, cwd=project
    )
    assert code == 0, err
    return await_running(head, out.strip(), project)


def await_running(head: RayHead, job: str, project: Path) -> str:
    until = time.monotonic() + PATIENCE_S
    while record(head, job, project)["status"] != "RUNNING":
        assert time.monotonic() < until
        time.sleep(0.2)
    return job


def test_a_new_project_gives_the_same_on_the_cluster_as_here(ray_head, tmp_path):
    assert ray_head.sage_flow("new", "fresh", cwd=tmp_path)[0] == 0
    project = tmp_path / "fresh"
    (project / "some words.txt").write_text("b a\nb c b a\n")
    options = ("--option", "path=some words.txt", "--option", "top=2")
    here = ray_head.sage_flow("run", "jobs/example.py", *options, cwd=project)
    assert here == (0, "     3  b\n     2  a\n", "")
    code, out, err = ray_head.sage_flow("submit", "jobs/example.py", "--address", ray_head.url, *options, cwd=project)
    assert code == 0, err
    assert of_driver(out).endswith(here[1])
    submission = err.split()[-1]

    code, listed, _ = ray_head.sage_flow("list", "--json", "--address", ray_head.url, cwd=tmp_path)
    assert code == 0
    job = json.loads(listed)[0]
    assert (job["name"], job["status"], job["submission_id"]) == ("example", "FINISHED", submission)

    code, table, _ = ray_head.sage_flow("list", "--address", ray_head.address, cwd=tmp_path)
    assert code == 0
    assert table.splitlines()[1].split()[:4] == [job["id"], "example", "FINISHED", "1"]

    code, logs, _ = ray_head.sage_flow("logs", job["id"], "--address", ray_head.address, cwd=tmp_path)
    assert code == 0
    assert f"driver ({submission}): {here[1].splitlines()[0]}\n" in logs
    by_process = ("logs", job["id"], "--by-process", "--address", ray_head.address)
    code, logs, _ = ray_head.sage_flow(*by_process, cwd=tmp_path)
    assert code == 0
    assert here[1] in logs
    assert f"== {job['id']}/master\n" in logs


def test_a_driver_of_this_machine_brings_its_folder_along(ray_head, project):
    write(project / "words.txt", "one\ntwo\n")
    job = """
    from operators.pace import Slow


    def text_of(line):
        return f"{type(line).__name__} {line}", Slow.blocking


    def build(env):
        env.read_text("words.txt").map(text_of).collect("texts")


    def report(result):
        print(sorted(result.collected["texts"]))
    """
    write(project / "jobs" / "reading.py", job)
    there = ray_head.sage_flow("run", "jobs/reading.py", "--address", ray_head.address, cwd=project)
    assert there[:2] == (0, "[('str one', True), ('str two', True)]\n"), there[2]


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_go_on(ray_head, project):
    command = (sys.executable, "-m", "sage_flow.cli", "submit", "jobs/slow.py", "--name", "left")
    process = ray_head.start(*command, "--address", ray_head.url, cwd=project)
    assert process.stdout is not None
    for line in process.stdout:
        if "number 3." in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "interrupted; the job goes on; go on with:\n  sage-flow status raysubmit_" in err

    told = record(ray_head, "left", project)
    assert told["status"] == "RUNNING"
    (subtask,) = told["subtasks"]
    assert subtask["name"] == "numbers -> noted -> out[1/1]"
    assert subtask["status"] == "RUNNING"
    assert len(subtask["node"]) > 20
    assert subtask["pid"] > 0
    assert subtask["actor"].startswith(f"{told['id']}/")
    assert told["operators"]["numbers"]["emitted"] > 0

    _, printed, _ = ray_head.sage_flow("logs", "left", "--address", ray_head.address, "--json", cwd=project)
    logs = json.loads(printed)
    assert "number 0.\nnumber 1.\n" in logs[subtask["actor"]]
    (driver,) = [log for name, log in logs.items() if name.startswith("driver (raysubmit_")]
    assert "sage_flow.cli run jobs/slow.py" in driver
    assert "number 0." not in driver

    asked = ray_head.sage_flow("services", "left", "--address", ray_head.address, "--json", cwd=project)
    whose = {"name": "left", "id": told["id"]}
    assert json.loads(asked[1]) == {"job": whose, "services": {}, "stories": {}, "unresponsive": []}
    asked = ray_head.sage_flow("channels", "left", "--address", ray_head.address, cwd=project)
    assert asked[1].startswith(f"channels of job 'left' (id {told['id']})\n")
    assert "\nseen of left-" in asked[1]
    asked = ray_head.sage_flow("channels", "left", "--address", ray_head.address, "--json", cwd=project)
    (seen,) = json.loads(asked[1])["queues"]
    assert (seen["kind"], seen["channel_id"]) == ("ray", "seen")
    assert seen["depth"] > 0

    code, out, _ = ray_head.sage_flow("cancel", "left", "--address", ray_head.url, cwd=project)
    assert (code, out) == (0, f"job {told['id']} is: CANCELLED\n")
    again = ray_head.sage_flow("cancel", "left", "--address", ray_head.address, cwd=project)
    assert again[:2] == (0, f"job {told['id']} was over: CANCELLED\n")


def test_a_failure_is_told_as_here_and_ends_with_its_exit_code(ray_head, project):
    arguments = ("jobs/slow.py", "--address", ray_head.url, "--option", "fails=yes", "--name", "failing")
    code, out, err = ray_head.sage_flow("submit", *arguments, cwd=project)
    assert code == 1, err
    assert "ZeroDivisionError: " in out
    assert re.search(r"jobs/slow\.py:\d+ in check +return 1 // \(n - 3\)", out)
    assert " is FAILED: Job entrypoint command failed with exit code 1\n" in err
    code, out, err = ray_head.sage_flow("status", "failing", "--address", ray_head.address, cwd=project)
    assert code == 1
    assert "message    ZeroDivisionError: " in out, err


def test_a_plain_ray_job_drains_and_its_driver_reports(ray_head, project):
    command = ("ray", "job", "submit", "--address", ray_head.url, "--working-dir", ".", "--no-wait")
    process = ray_head.start(*command, "--", "python", "jobs/slow.py", "--name", "plain", cwd=project)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, out + err
    until = time.monotonic() + PATIENCE_S
    while " plain " not in ray_head.sage_flow("list", "--address", ray_head.address, cwd=project)[1]:
        assert time.monotonic() < until
    await_running(ray_head, "plain", project)
    follower = ray_head.start(
        *(sys.executable, "-m", "sage_flow.cli", "logs", "-f", "plain", "--address", ray_head.address), cwd=project
    )
    code, drained, _ = ray_head.sage_flow("drain", "plain", "--address", ray_head.address, "--json", cwd=project)
    assert (code, json.loads(drained)["status"]) == (0, "FINISHED"), drained
    followed, _ = follower.communicate(timeout=PATIENCE_S)
    assert follower.returncode == 0
    assert ": number 0.\n" in followed
    assert ": the report FINISHED\n" in followed


def test_a_submission_that_is_stopped_drains_its_job(ray_head, project):
    submission = submit(ray_head, project, "--name", "stopped")
    process = ray_head.start("ray", "job", "stop", submission, "--address", ray_head.url, cwd=project)
    process.communicate(timeout=PATIENCE_S)
    told = record(ray_head, submission, project)
    assert (told["name"], told["status"]) == ("stopped", "FINISHED")
    _, logs, _ = ray_head.sage_flow("logs", submission, "--address", ray_head.address, cwd=project)
    assert "sage-flow: SIGTERM: draining job 'stopped'" in logs


def test_a_submission_that_starts_no_job_tells_why(ray_head, project):
    arguments = ("jobs/importing.py", "--address", ray_head.url, "--detach", "--name", "importing it")
    refused = ray_head.sage_flow("submit", *arguments, cwd=project)
    assert refused[:2] == (1, "")  # before it travels
    assert "No module named 'no_such_module'" in refused[2]
    code, out, _ = ray_head.sage_flow("submit", *arguments, "--no-check", cwd=project)
    assert code == 0
    submission = out.strip()
    await_status(ray_head, "importing it", "FAILED", project)
    for name in ("importing it", submission):
        code, out, _ = ray_head.sage_flow("status", name, "--address", ray_head.address, cwd=project)
        assert code == 1
        assert "job        importing it\nstatus     FAILED\n" in out
        assert f" as {submission}\n" in out
        assert "message    its driver has started no job: Job entrypoint command failed with exit code 1" in out
        for flags in ([], ["-f"]):
            code, log, _ = ray_head.sage_flow("logs", *flags, name, "--address", ray_head.url, cwd=project)
            assert code == 1
            assert "No module named 'no_such_module'" in log
        code, _, err = ray_head.sage_flow("drain", name, "--address", ray_head.address, cwd=project)
        assert code == 2
        assert f"submission {submission} is FAILED: its driver has started no job: " in err
        code, out, _ = ray_head.sage_flow("cancel", name, "--address", ray_head.address, cwd=project)
        assert (code, out) == (1, f"submission {submission} was over: FAILED\n")
    _, table, _ = ray_head.sage_flow("list", "--address", ray_head.address, cwd=project)
    (row,) = [line for line in table.splitlines() if submission in line]
    assert row.split()[:4] == ["-", "importing", "it", "FAILED"]
    assert "sage-flow" not in table  # nor is a command that the cluster has run


def await_status(head: RayHead, job: str, status: str, project: Path) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while (told := record(head, job, project))["status"] != status:
        assert time.monotonic() < until, told
        time.sleep(0.2)
    return told


def test_a_submission_whose_driver_is_still_writing_its_pipeline_can_be_cancelled_by_name(ray_head, project):
    write(project / "jobs" / "writing.py", "import time\ndef build(env):\n    time.sleep(3600)\n")
    arguments = ("jobs/writing.py", "--address", ray_head.url, "--detach", "--name", "writes", "--no-build")
    assert ray_head.sage_flow("submit", *arguments, cwd=project)[0] == 0
    told = record(ray_head, "writes", project)
    assert (told["id"], told["status"]) == (None, "SUBMITTED")
    assert told["message"] == "its driver has started no job yet"
    code, out, err = ray_head.sage_flow("cancel", "writes", "--address", ray_head.address, cwd=project)
    assert (code, out) == (0, f"submission {told['submission_id']} is: CANCELLED\n"), err


def test_a_job_whose_driver_was_killed_says_so(ray_head, project):
    submission = submit(ray_head, project, "--name", "orphan")
    os.kill(driver_of(ray_head, "orphan"), signal.SIGKILL)
    told = await_status(ray_head, "orphan", "CANCELLED", project)
    assert told["submission_id"] == submission
    assert told["message"] == "its driver gave no sign of life for 10 s"


def driver_of(head: RayHead, name: str) -> int:
    """The process of this machine that runs the job of this name."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = path.joinpath("cmdline").read_bytes().decode().split("\0")
            environment = path.joinpath("environ").read_bytes().decode(errors="replace")
            is_ours = f"HOME={head.environment['HOME']}\0" in environment
            if (
                is_ours
                and "sage_flow.cli" in words
                and "run" in words
                and name in words
                and words[0].endswith("python")
            ):
                return int(path.name)
    raise AssertionError(f"no driver of {name}")


def test_no_such_job_lists_those_there_are(ray_head, project):
    for address in (ray_head.address, ray_head.url):
        code, out, err = ray_head.sage_flow("status", "nothing", "--address", address, cwd=project)
        assert (code, out) == (2, "")
        assert "no job 'nothing' is known here; there are: " in err


def test_a_wrong_token_is_told(ray_head, project, monkeypatch):
    monkeypatch.setitem(ray_head.environment, "RAY_AUTH_TOKEN", "0" * 32)
    code, out, err = ray_head.sage_flow("list", "--address", ray_head.url, cwd=project)
    assert (code, out) == (3, "")
    assert "token" in err
    assert len(err.splitlines()) == 1
