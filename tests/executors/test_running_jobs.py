"""Jobs that run are found, asked and shown; what killed ones left is taken away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment
from sage_flow.cli import main
from sage_flow.errors import ChannelNotReachable, PipelineError
from sage_flow.executors import running_jobs

JOB = """
    import sys, time
    from sage_flow import LocalEnvironment
    from sage_flow.channels import PythonQueueDescriptor

    class Adder:
        def add(self, n):
            return n + 1

    inside = PythonQueueDescriptor(queue_id="inside")
    between = PythonQueueDescriptor(use_multiprocessing=True, queue_id="between")

    def slow(n, ctx):
        ctx.service("adder").add(n)
        inside.put(n)
        between.put_many([n, n])
        if n == 5:
            time.sleep(600)

    env = LocalEnvironment(sys.argv[1])
    env.register_service("adder", Adder)
    env.from_collection(range(100)).rebalance().map(slow, parallelism=2).for_each(str)
    env.execute(progress=False)
"""


@pytest.fixture(autouse=True)
def own_directory(monkeypatch):
    """The jobs of these tests are the only ones; pytest's own paths are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield directory


@pytest.fixture
def start(tmp_path):
    """Start a job in a process of its own; it is there when it can be found."""
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    started = []

    def start(name):
        process = subprocess.Popen([sys.executable, str(script), name])
        started.append(process)
        for _ in range(3000):
            if any(job.pid == process.pid for job in running_jobs.running_jobs()):
                return process
            assert process.poll() is None
            threading.Event().wait(0.01)
        raise AssertionError("the job was not announced")

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_running_job_shows_its_channels_and_services(start, capsys):
    pid = start("shown").pid
    assert main(["channels"]) == 0
    whose, _, *shown = capsys.readouterr().out.splitlines()
    assert whose == f"channels of job 'shown' (process {pid})"
    assert shown[0].split()[:3] == ["channel", "kind", "medium"]
    assert any("collection-1[1/1] => map-1[1/2]" in line and "memory" in line for line in shown)
    assert any("requests of adder" in line for line in shown)
    assert main(["services", "shown"]) == 0
    whose, _, title, row = capsys.readouterr().out.splitlines()[:4]
    assert whose == f"services of job 'shown' (process {pid})"
    assert title.split()[:4] == ["service", "method", "calls", "errors"]
    assert row.split()[:2] == ["adder", "add"]
    assert main(["services", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["job"] == {"name": "shown", "process": pid}
    assert told["services"]["adder"]["add"]["calls"] >= 6
    assert told["unresponsive"] == []


def test_a_running_job_shows_the_queues_in_its_process(start, capsys):
    start("queueing")
    assert main(["channels"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in shown if line[:1] == ["queue"])[:4] == ["queue", "kind", "host", "waiting"]
    assert next(line for line in shown if line[:1] == ["inside"])[1:3] == ["python", "process"]
    assert next(line for line in shown if line[:1] == ["between"])[1] == "hosted"
    assert main(["channels", "--json"]) == 0
    depths = {queue["channel_id"]: queue["depth"] for queue in json.loads(capsys.readouterr().out)["queues"]}
    assert depths["between"] == 2 * depths["inside"] >= 12


def test_jobs_are_told_apart_by_name_and_process(start, capsys):
    one, two = start("one"), start("two")
    assert main(["channels"]) == 2
    told = capsys.readouterr().err
    assert "several jobs run" in told
    assert f"'one' (process {one.pid}), 'two' (process {two.pid})" in told
    assert main(["channels", "two"]) == 0
    assert main(["channels", str(one.pid)]) == 0
    assert main(["channels", "three"]) == 2
    told = capsys.readouterr().err
    assert "no job 'three' runs" in told
    assert "(a job on a Ray cluster is found with --address)" in told


def test_what_a_killed_job_left_is_taken_away(start, own_directory, capsys):
    process = start("killed")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert main(["services"]) == 2
    assert "no job runs" in capsys.readouterr().err
    assert os.listdir(f"{own_directory}/sage_flow-{os.geteuid()}") == []


@pytest.mark.race
def test_a_job_that_has_ended_leaves_nothing(own_directory):
    lets_go = threading.Event()

    def items():
        lets_go.wait(60)
        yield from ()

    env = LocalEnvironment("ending")
    env.from_iterable(items).for_each(str)
    with env.submit() as job:
        waiting = threading.Thread(target=job.wait)
        waiting.start()
        for _ in range(3000):
            if running_jobs.running_jobs():
                break
            threading.Event().wait(0.01)
        found = running_jobs.find_job("ending")
        assert found.key.hex() not in repr(found)
        assert found.ask()["channels"] == []
        lets_go.set()
        waiting.join()
    assert os.listdir(f"{own_directory}/sage_flow-{os.geteuid()}") == []
    with pytest.raises(ChannelNotReachable):
        found.ask()
    with pytest.raises(PipelineError, match="no job 'ending' runs"):
        running_jobs.find_job("ending")


@pytest.fixture
def directory(own_directory):
    """Where this user's jobs announce themselves."""
    path = Path(own_directory, f"sage_flow-{os.geteuid()}")
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def announcement(directory):
    """What a job of this process announces while it runs, in a file that a test may copy."""
    lets_go = threading.Event()
    env = LocalEnvironment("there")
    env.from_iterable(lambda: iter(lambda: lets_go.wait(0.01), True)).for_each(str)
    with env.submit() as job:
        waiting = threading.Thread(target=job.wait)
        waiting.start()
        yield await_(lambda: next(directory.glob("*.json"), None))
        lets_go.set()
        waiting.join()


def await_(condition):
    until = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def dead_socket(path):
    """As a killed process leaves it."""
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))
        ended.listen()


def test_a_job_is_announced_where_one_of_the_same_process_number_was_killed(directory, announcement, capsys):
    stale = directory / f"{os.getpid()}-1.json"  # as in a container that has started again
    stale.write_text(json.dumps({"name": "before", "pid": os.getpid(), "key": "00"}))
    dead_socket(stale.with_suffix(".sock"))
    assert main(["channels"]) == 0
    assert "before" not in capsys.readouterr().out
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [announcement.name, announcement.with_suffix(".sock").name]
    )


def test_a_job_of_another_container_is_found_whatever_its_process_number(announcement):
    told = json.loads(announcement.read_text())
    announcement.write_text(json.dumps({**told, "pid": 2**22 + 1}))  # nobody has it here
    found = running_jobs.find_job("there")
    assert "queues" in found.ask()  # it answers; other tests of this process may have some
    assert announcement.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"name": "x", "key": "00"}', '{"name": 1, "pid": [], "key": 2}']
)
def test_a_file_that_is_no_announcement_is_passed_over(announcement, content):
    broken = announcement.with_name("broken.json")
    broken.write_text(content)
    os.link(announcement.with_suffix(".sock"), broken.with_suffix(".sock"))  # somebody listens there
    assert [job.name for job in running_jobs.running_jobs()] == ["there"]
    assert broken.exists()


def test_what_was_left_before_a_job_was_announced_goes_in_time(directory, monkeypatch):
    for name in ("1-a.sock", "2-b.sock"):
        dead_socket(directory / name)
    (directory / "1-a.part").touch()
    assert running_jobs.running_jobs() == []
    assert len(list(directory.iterdir())) == 3
    os.utime(directory / "1-a.sock", (0, 0))
    os.utime(directory / "1-a.part", (0, 0))
    assert running_jobs.running_jobs() == []
    assert [path.name for path in directory.iterdir()] == ["2-b.sock"]


@pytest.mark.parametrize("kind", ["open to others", "a file", "a link"])
@pytest.mark.parametrize("command", [["channels"], ["services", "x"]])
def test_a_directory_that_is_not_ours_alone_is_a_clear_error(own_directory, kind, command, capsys):
    path = Path(own_directory, f"sage_flow-{os.geteuid()}")
    if kind == "a file":
        path.touch()
    elif kind == "a link":
        path.symlink_to(own_directory, target_is_directory=True)
    else:
        path.mkdir(0o755)
    assert main(command) == 2
    err = capsys.readouterr().err
    assert f"{path} must be a directory of mode 0700 that belongs to user {os.geteuid()}" in err
    assert "set XDG_RUNTIME_DIR or TMPDIR" in err
    assert "bug" not in err
    assert "File exists" not in err  # which is no cause of it


def test_a_directory_that_cannot_be_made_is_a_clear_error(own_directory, monkeypatch, capsys):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", f"{own_directory}/nowhere")
    assert main(["channels"]) == 2
    err = capsys.readouterr().err
    assert "where jobs announce themselves: No such file or directory; set XDG_RUNTIME_DIR" in err


def test_a_directory_that_others_can_enter_is_not_used(own_directory, caplog):
    os.mkdir(f"{own_directory}/sage_flow-{os.geteuid()}", 0o755)

    def items():
        until = time.monotonic() + 60
        while "cannot be inspected" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        yield 1

    env = LocalEnvironment("private")
    env.from_iterable(items).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [1]
    assert "job 'private' cannot be inspected from other processes" in caplog.text
    assert "0700" in caplog.text


ENDLESS = """
    import itertools, sys
    from sage_flow import LocalEnvironment
    from sage_flow.errors import SageFlowError

    env = LocalEnvironment(sys.argv[1])
    numbers = env.from_iterable(itertools.count)
    numbers.map(str).write_text(sys.argv[2])
    try:
        result = env.execute(progress=False)
        print(result.status)
    except ZeroDivisionError:
        print("failed")
"""


@pytest.fixture
def start_endless(tmp_path):
    """Start an endless job in a process of its own; it is there when it can be found."""
    script = tmp_path / "endless.py"
    started = []

    def start(name, text=ENDLESS):
        script.write_text(textwrap.dedent(text))
        command = [sys.executable, str(script), name, str(tmp_path / f"{name}.txt")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        await_announced(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def await_announced(process):
    for _ in range(3000):
        if any(job.pid == process.pid for job in running_jobs.running_jobs()):
            return
        assert process.poll() is None
        threading.Event().wait(0.01)
    raise AssertionError("the job was not announced")


def test_a_local_job_is_drained_by_its_name_and_keeps_its_output(start_endless, capsys, tmp_path):
    process = start_endless("drained")
    assert main(["drain", "drained"]) == 0
    out, err = capsys.readouterr()
    assert out == f"job 'drained' (process {process.pid}) is: FINISHED\n"
    assert err.startswith(f"sage-flow: drain of job 'drained' (process {process.pid}) has begun: its sources end")
    assert process.communicate(timeout=60)[0] == "FINISHED\n"
    rows = (tmp_path / "drained.txt").read_text().split()
    assert rows == list(map(str, range(len(rows))))
    assert len(rows) > 0


def test_a_local_job_is_cancelled_by_its_process_and_publishes_nothing(start_endless, capsys, tmp_path):
    process, other = start_endless("one"), start_endless("two")
    assert main(["cancel", str(process.pid), "--json"]) == 0
    told = {"name": "one", "pid": process.pid, "status": "CANCELLED"}
    assert json.loads(capsys.readouterr().out) == told
    assert process.communicate(timeout=60)[0] == "CANCELLED\n"
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix in (".txt", ".tmp")) == [
        file.name for file in tmp_path.glob(".two.txt.*.tmp")
    ]
    assert other.poll() is None


def test_a_drain_that_fails_says_so_with_its_exit_code(start_endless, capsys):
    failing = ENDLESS.replace(
        "map(str)", "map_batches(lambda batch: [1 // 0] if len(batch) < 7 else [''], batch_size=7)"
    )
    start_endless("failing", failing.replace("itertools.count", "lambda: itertools.chain([1], _silence())")
        .replace("env = Local", """def _silence():
        import threading
        threading.Event().wait()
        yield 1

    env = Local"""))  # fmt: skip
    assert main(["drain", "failing"]) == 1
    assert "is: FAILED" in capsys.readouterr().out


def test_of_several_jobs_of_one_name_none_is_ended(start_endless, capsys):
    one, two = start_endless("twin"), start_endless("twin")
    assert main(["drain", "twin"]) == 2
    assert f"several jobs run, say which by name or process id: 'twin' (process {one.pid})" in capsys.readouterr().err
    assert (one.poll(), two.poll()) == (None, None)


def test_who_ordered_an_end_learns_that_the_process_died(start_endless, tmp_path):
    stuck = ENDLESS.replace("map(str)", "map(lambda n: __import__('time').sleep(3600))")
    process = start_endless("dying", stuck)
    found = running_jobs.find_job("dying")
    answers = []
    has_begun = threading.Event()

    def drain():
        try:
            found.end("drain", has_begun.set)
        except ChannelNotReachable as error:
            answers.append(str(error))

    waiting = threading.Thread(target=drain)
    waiting.start()
    assert has_begun.wait(60)
    process.kill()
    waiting.join(60)
    assert f"job 'dying' (process {process.pid}) accepted 'drain', but ended" in answers[0]


def test_a_job_that_nobody_may_reach_cannot_be_ended(start_endless):
    process = start_endless("locked")
    found = running_jobs.find_job("locked")
    stranger = running_jobs.RunningJob(found.name, found.pid, found.path, b"another key, which is of no use.")
    with pytest.raises(ChannelNotReachable):
        stranger.end("cancel")
    assert process.poll() is None
