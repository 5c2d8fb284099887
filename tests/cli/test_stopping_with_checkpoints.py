"""A job with checkpoints is stopped by a signal or a command, with a last checkpoint, and goes on from it later."""

import os
import signal
import tempfile
import threading

import pytest
from job_folder import await_announced, finish, start, write

JOB = """
import pathlib
import time

def wait(n):
    if n == 50:
        print("ready", flush=True)
    if n >= 50 and not pathlib.Path("go").exists():
        time.sleep(0.01)
    return n

def build(env):
    numbers = env.from_collection(range(1000), name="numbers").map(wait, name="waits")
    numbers.key_by(lambda n: n % 3).count().map(str).write_text("counts.txt")
    numbers.key_by(lambda n: n % 3).sum(emit="final").collect("sums")

def report(result):
    print("reported", result.status, sorted(result.collected["sums"]))
"""
SUMS = [(k, sum(range(k, 1000, 3))) for k in range(3)]
COUNTS = sorted(str((k, c)) for k in range(3) for c in range(1, len(range(k, 1000, 3)) + 1))
CONTINUES = '--restore latest, in a program restore="latest", goes on from it\n'

STARTED = []


@pytest.fixture(autouse=True)
def _own_directory(monkeypatch):
    """The jobs of these tests are the only ones; pytest's own paths are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def started(*arguments, cwd):
    process = start(*arguments, cwd=cwd)
    STARTED.append(process)
    return process


def run(folder, *words):
    return started("-m", "sage_flow.cli", "run", "slow.py", *words, cwd=folder)


def running(folder, *words):
    write(folder / "slow.py", JOB)
    process = run(folder, "--checkpoints", "kept", "--checkpoint-interval", "50ms", *words)
    assert process.stdout.readline() == "ready\n"
    return process


def command(folder, *words):
    return finish(started("-m", "sage_flow.cli", *words, cwd=folder))


def finished(folder):
    """Let the job go on from its last checkpoint to its end; return what it has told."""
    write(folder / "go", "")
    code, out, err = finish(run(folder, "--checkpoints", "kept", "--restore", "latest"))
    assert (code, out.splitlines()[-1]) == (0, f"reported FINISHED {SUMS}"), err
    assert sorted((folder / "counts.txt").read_text().splitlines()) == COUNTS
    return err


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_the_first_signal_stops_the_job_and_it_goes_on_to_the_same_answer(tmp_path, number, name):
    process = running(tmp_path)
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (0, ""), err
    assert f"sage-flow: {name}: stopping job 'slow' with a last checkpoint, from which it can go on later" in err
    assert err.endswith(f"sage-flow: job 'slow' is STOPPED with a last checkpoint; {CONTINUES}")
    assert not (tmp_path / "counts.txt").exists()
    assert "which was stopped" in finished(tmp_path)


def test_the_second_signal_cancels(tmp_path):
    text = JOB.replace("time.sleep(0.01)", "time.sleep(3600)")
    write(tmp_path / "slow.py", text)
    process = run(tmp_path, "--checkpoints", "kept")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "with a last checkpoint" in line:
            break
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert (code, out) == (143, ""), err
    assert "job 'slow' is CANCELLED, nothing more is published" in err


def test_a_run_without_restore_says_that_the_earlier_one_can_go_on(tmp_path):
    process = running(tmp_path)
    process.send_signal(signal.SIGINT)
    finish(process)
    process = running(tmp_path)
    process.send_signal(signal.SIGINT)
    assert "can be continued instead" in finish(process)[2]


def test_a_job_that_has_nothing_stored_begins_at_the_beginning_and_says_so(tmp_path):
    write(tmp_path / "slow.py", JOB)
    assert "nothing is stored below" in finished(tmp_path)


def test_a_run_that_has_finished_is_told_and_publishes_nothing_again(tmp_path):
    write(tmp_path / "slow.py", JOB)
    finished(tmp_path)
    (tmp_path / "counts.txt").unlink()  # its user has moved it away
    for flags in ([], ["--quiet"]):
        code, out, err = finish(run(tmp_path, "--checkpoints", "kept", "--restore", "latest", *flags))
        assert code == 0
        assert out == ("" if flags else f"reported FINISHED {SUMS}\n")
        assert "has finished; nothing is run or published again" in err
        assert not (tmp_path / "counts.txt").exists()


def test_sage_flow_stop_stops_a_job_of_this_machine_which_ends_with_exit_code_0(tmp_path):
    process = running(tmp_path)
    await_announced(process)
    code, out, err = command(tmp_path, "stop", "slow")
    assert (code, out) == (0, f"job 'slow' (process {process.pid}) is: STOPPED\n"), err
    assert "stop of job 'slow'" in err
    assert "makes a last checkpoint" in err
    code, out, err = finish(process)
    assert (code, out) == (0, ""), err
    assert err.endswith(CONTINUES)
    finished(tmp_path)


def test_a_job_without_checkpoints_refuses_to_be_stopped_and_goes_on(tmp_path):
    write(tmp_path / "slow.py", JOB)
    process = run(tmp_path)
    assert process.stdout.readline() == "ready\n"
    await_announced(process)
    code, out, err = command(tmp_path, "stop", str(process.pid))
    assert (code, out) == (2, "")
    assert "job 'slow' has no checkpoints, so it cannot stop with one and go on later" in err
    write(tmp_path / "go", "")
    assert finish(process)[0] == 0


def test_an_endless_job_with_checkpoints_says_at_its_start_how_it_stops(tmp_path):
    job = """
    import itertools
    from sage_flow import SplitReader, SplitSource

    class Numbers(SplitSource):
        bounded = False

        def splits(self):
            return ["numbers"]

        def reader(self, split, position):
            return Reader(0 if position is None else position)

    class Reader(SplitReader):
        def __init__(self, n):
            self.n = n

        def next_batch(self):
            self.n += 1
            if self.n == 2:
                print("ready", flush=True)
            return [self.n]

        def position(self):
            return self.n

    def build(env):
        env.from_source(Numbers(), name="numbers").for_each(abs)
    """
    write(tmp_path / "slow.py", job)
    process = run(tmp_path, "--checkpoints", "kept")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 0
    assert "`sage-flow stop slow` from another terminal, stops it with a last checkpoint" in err


PROGRAM = """
import sys
from datetime import timedelta
from sage_flow import LocalEnvironment
from slow import build

if __name__ == "__main__":
    env = LocalEnvironment("slow", executor=sys.argv[1])
    env.enable_checkpointing("kept", interval=timedelta(milliseconds=50), restore="latest")
    build(env)
    try:
        result = env.execute()
    except KeyboardInterrupt:
        print("interrupted")
    else:
        print(result.status, sorted(result.collected["sums"]))
"""


@pytest.mark.parametrize(
    ("executor", "number", "code", "out"),
    [("threads", signal.SIGINT, 0, "interrupted\n"), ("processes", signal.SIGTERM, -signal.SIGTERM, "")],
)
def test_execute_stops_and_then_the_signal_does_what_it_always_does(tmp_path, executor, number, code, out):
    write(tmp_path / "slow.py", JOB)
    write(tmp_path / "program.py", PROGRAM)
    process = started("program.py", executor, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    ended, told, err = finish(process)
    assert (ended, told) == (code, out), err
    assert err.endswith(CONTINUES)
    write(tmp_path / "go", "")
    ended, told, err = finish(started("program.py", executor, cwd=tmp_path))
    assert (ended, told.splitlines()[-1]) == (0, f"FINISHED {SUMS}"), err
    assert sorted((tmp_path / "counts.txt").read_text().splitlines()) == COUNTS


def test_a_job_that_was_stopped_by_another_program_gives_a_result_that_says_so(tmp_path):
    write(tmp_path / "slow.py", JOB)
    write(tmp_path / "program.py", PROGRAM)
    process = started("program.py", "threads", cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    await_announced(process)
    assert command(tmp_path, "stop", "slow")[0] == 0
    code, out, err = finish(process)
    assert (code, out) == (0, "STOPPED []\n"), err


def test_a_job_killed_at_once_goes_on_to_the_same_answer(tmp_path):
    process = running(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    assert "whose end is not recorded" in finished(tmp_path)


def test_a_damaged_last_checkpoint_is_named_and_an_older_one_is_restored_by_its_path(tmp_path):
    process = running(tmp_path)
    while len(list(tmp_path.glob("kept/slow/*/checkpoints/*"))) < 2:
        assert process.poll() is None
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGTERM)
    finish(process)
    (run_folder,) = (tmp_path / "kept" / "slow").iterdir()
    stored = sorted((run_folder / "checkpoints").iterdir(), key=lambda file: int(file.name.partition("-n")[2]))
    stored[-1].write_bytes(stored[-1].read_bytes()[:100])
    write(tmp_path / "go", "")
    code, out, err = finish(run(tmp_path, "--checkpoints", "kept", "--restore", "latest"))
    assert (code, out) == (1, ""), err
    assert f"{stored[-1]}: is cut off" in err
    assert "an older one would publish rows again" in err
    older = str(stored[-2].relative_to(tmp_path))
    code, out, err = finish(run(tmp_path, "--checkpoints", "kept", "--restore", older))
    assert (code, out.splitlines()[-1]) == (0, f"reported FINISHED {SUMS}"), err
    assert sorted((tmp_path / "counts.txt").read_text().splitlines()) == COUNTS


@pytest.mark.parametrize("place", ["/proc/nowhere", "a_file"])
def test_a_storage_that_cannot_be_written_is_told_before_anything_runs(tmp_path, place):
    write(tmp_path / "slow.py", JOB)
    write(tmp_path / "a_file", "")
    code, out, err = finish(run(tmp_path, "--checkpoints", place))
    assert (code, out) == (2, "")
    assert err.startswith("sage-flow: error: ")
    assert place in err
