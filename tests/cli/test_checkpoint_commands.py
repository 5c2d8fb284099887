"""`sage-flow checkpoints` and `sage-flow inspect`, of a job that runs and of what is stored."""

import json
import signal
import tempfile

import pytest
from job_folder import await_announced, finish, start, write

from sage_flow.cli import main
from sage_flow.cli.checkpoint_commands import told_by_job
from sage_flow.cli.program import _parser

JOB = """
import time
from dataclasses import dataclass

@dataclass
class Last:
    number: int

def wait(n):
    if n == 200:
        print("ready", flush=True)
    time.sleep(0.002)
    return n

def remember(n, ctx):
    ctx.state.value("last").set(Last(n))
    return [n]

def build(env):
    numbers = env.from_collection(range(1_000_000), name="numbers").map(wait, name="waits")
    numbers.key_by(lambda n: n % 3).process(remember, name="remembers").for_each(abs, name="sink")
"""


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A job that runs in a process of its own, and has made checkpoints; and its folder."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "shown.py", JOB)
        command = ["run", "shown.py", "--checkpoints", "kept", "--checkpoint-interval", "50ms"]
        process = start("-m", "sage_flow.cli", *command, cwd=tmp_path)
        assert process.stdout.readline() == "ready\n"
        await_announced(process)
        yield process
        process.kill()
        process.communicate()


def told(capsys, *words, code=0):
    """The lines that a command prints on stdout, and all of stderr."""
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_the_checkpoints_of_a_job_are_shown_while_it_runs_and_when_it_is_stopped(running, capsys):
    lines, _ = told(capsys, "checkpoints", "shown")
    assert lines[0] == f"checkpoints of job 'shown' (process {running.pid})"
    assert lines[2].split()[:7] == ["number", "attempt", "began", "size", "duration", "alignment", "pause"]
    first = lines[3].split()
    assert first[:2] == ["1", "1"]
    assert lines[-1].rstrip().endswith(f"/checkpoints/a1-n{lines[-1].split()[0]}")
    infos = json.loads(told_text(capsys, "checkpoints", "--json"))["checkpoints"]
    assert infos[0]["checkpoint"] == 1
    assert infos[-1]["path"].startswith("/")

    running.send_signal(signal.SIGTERM)
    assert finish(running)[0] == 0
    (lines, err) = told(capsys, "checkpoints", "shown", code=2)
    assert lines == []
    assert "no job 'shown' runs" in err
    assert "--checkpoints" in err
    lines, _ = told(capsys, "checkpoints", "--checkpoints", "kept")
    assert lines[0].startswith("job 'shown', run 2")
    assert lines[0].endswith(": stopped")
    path = lines[-1].split()[-1]
    assert path.rpartition("-n")[2] == lines[-1].split()[0]
    assert told(capsys, "checkpoints", "shown", "--checkpoints", "kept")[0] == lines
    (run,) = json.loads(told_text(capsys, "checkpoints", "--checkpoints", "kept", "--json"))
    assert (run["job"], run["state"], run["checkpoints"][-1]["path"]) == ("shown", "stopped", path)
    look_into(path, capsys)


def look_into(path, capsys):
    lines, err = told(capsys, "inspect", path)
    assert lines[0].startswith("checkpoint ")
    assert " of job 'shown', attempt 1 of run 2" in lines[0]
    operators = {line.split()[0]: line for line in lines if line}
    assert operators["remembers"].split()[1:3] == ["process", "1"]
    assert operators["remembers"].endswith("state last: 3 keys")
    assert "this process does not have shown.Last" in err  # nor does it import the job to look
    lines, _ = told(capsys, "inspect", path, "--operator", "remembers")
    assert [line.split()[:4] for line in lines[1:]] == [["1", "state", "last", str(key)] for key in range(3)]
    assert "Last(number=" in lines[1]
    lines, _ = told(capsys, "inspect", path, "--operator", "remembers", "--key", "2", "--limit", "5")
    assert [line.split()[3] for line in lines[1:]] == ["2"]
    lines, _ = told(capsys, "inspect", path, "--operator", "remembers", "--limit", "1")
    assert lines[-1] == "... more than 1; --limit shows more of them"
    assert told(capsys, "inspect", path, "--operator", "waits")[0] == ["'waits' keeps nothing"]
    content = json.loads(told_text(capsys, "inspect", path, "--json"))
    assert {operator["name"]: operator["keys"] for operator in content["operators"]}["remembers"] == {"state last": 3}
    entries = json.loads(told_text(capsys, "inspect", path, "--operator", "numbers", "--json"))["entries"]
    assert (entries[0]["table"], entries[0]["key"]) == ("position", None)
    assert "no operator 'nobody'" in told(capsys, "inspect", path, "--operator", "nobody", code=2)[1]
    assert "--key says whose value" in told(capsys, "inspect", path, "--key", "x", code=2)[1]


def told_text(capsys, *words):
    return "\n".join(told(capsys, *words)[0])


def test_what_is_not_there_is_a_wrong_use(tmp_path, capsys):
    assert "no run is stored there" in told(capsys, "checkpoints", "--checkpoints", str(tmp_path), code=2)[1]
    path = str(tmp_path / "checkpoints" / "a1-n1")
    assert "is not there" in told(capsys, "inspect", path, code=2)[1]
    assert "no path of a checkpoint" in told(capsys, "inspect", str(tmp_path), code=2)[1]


def test_a_checkpoint_that_has_failed_says_why_and_where():
    arguments = _parser().parse_args(["checkpoints", "x"])
    info = {"checkpoint": 3, "attempt": 2, "began": 0, "size": 12_345, "took_s": 0.25, "alignment_s": 0.1}
    info |= {"pause_s": 0.001, "stored_s": 0.1, "slowest": "", "failed": None, "path": "/s/job/run/checkpoints/a2-n3"}
    failed = {**info, "checkpoint": 4, "failed": "the disk is full", "slowest": "count-1[2/3]", "path": None}
    lines = told_by_job(arguments, [info, failed, {**info, "path": None}], name="x", process=7).splitlines()
    assert lines[0] == "checkpoints of job 'x' (process 7)"
    assert lines[3].split()[-9:] == ["12.3", "kB", "250", "ms", "100", "ms", "1", "ms", info["path"]]
    assert lines[4].endswith("failed: the disk is full (count-1[2/3])")
    assert lines[5].endswith("not kept any more")
    assert told_by_job(arguments, [], name="x", process=7).endswith("none yet, or it makes none")
