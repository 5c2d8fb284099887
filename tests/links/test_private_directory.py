"""Directories that go with the processes which use them."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap

import pytest

from sage_flow.links import private_directory
from sage_flow.links.private_directory import hold, let_go, make_private, private_name, remove_private

HOLDER = """
    import os, sys, time
    from sage_flow.links.private_directory import hold, make_private
    if sys.argv[1] == "make":
        print(make_private(), flush=True)
    elif sys.argv[1] == "hold":
        hold(sys.argv[2])
        print(sys.argv[2], flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def tmp(tmp_path, monkeypatch):
    """/tmp of this process and of those it starts, for a process that has not swept yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(private_directory, "_has_swept", False)
    return tmp_path


@pytest.fixture
def holder():
    started = []

    def start(*args):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def others(tmp, own):
    return sorted(path.name for path in tmp.iterdir() if str(path) != own)


def test_a_directory_is_ours_alone_and_goes_when_it_is_removed(tmp):
    directory = make_private()
    assert os.path.dirname(directory) == str(tmp)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    remove_private(directory)
    assert not list(tmp.iterdir())


def test_directories_of_a_killed_process_go_with_the_next_one_and_those_of_living_ones_stay(holder, tmp):
    killed, gone = holder("make")
    _, living = holder("make")
    assert os.path.isdir(gone)
    kill(killed)
    own = make_private()
    assert others(tmp, own) == [os.path.basename(living)]
    remove_private(own)


def test_a_directory_stays_while_any_process_holds_it(holder, tmp, monkeypatch):
    maker, directory = holder("make")
    user, _ = holder("hold", directory)
    kill(maker)
    remove_private(make_private())
    assert os.path.isdir(directory)
    kill(user)
    monkeypatch.setattr(private_directory, "_has_swept", False)
    remove_private(make_private())
    assert not os.path.exists(directory)


def test_a_process_that_ends_takes_its_directory_along(tmp):
    code = "from sage_flow.links.private_directory import make_private; print(make_private())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith(str(tmp))
    assert not list(tmp.iterdir())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_holds_nor_removes_what_its_parent_made(tmp):
    directory = make_private()
    child = os.fork()
    if not child:
        held = bool(private_directory._held or private_directory._made)
        private_directory._remove_at_exit()
        os._exit(held)
    assert os.waitpid(child, 0)[1] == 0
    assert os.path.isdir(directory)
    remove_private(directory)


def test_what_looks_like_one_of_ours_and_is_none_stays(tmp):
    (tmp / "sage-flow-notes").mkdir()
    (tmp / "sage-flow-file").write_text("mine")
    own = make_private()
    assert others(tmp, own) == ["sage-flow-file", "sage-flow-notes"]
    remove_private(own)


def test_a_name_that_is_taken_is_refused(tmp):
    directory = make_private(private_name())
    with pytest.raises(FileExistsError):
        make_private(directory)
    assert os.listdir(tmp) == [os.path.basename(directory)]
    remove_private(directory)


def test_a_directory_that_is_gone_cannot_be_held(tmp):
    directory = make_private()
    remove_private(directory)
    with pytest.raises(FileNotFoundError):
        hold(directory)


def test_holding_twice_and_letting_go_leave_nothing_open(tmp):
    directory = make_private()
    before = len(os.listdir("/proc/self/fd"))
    hold(directory)
    assert len(os.listdir("/proc/self/fd")) == before
    let_go(directory)
    let_go(directory)
    assert len(os.listdir("/proc/self/fd")) == before - 1
    remove_private(directory)


def test_a_killed_driver_of_worker_processes_leaves_no_directory_for_long(tmp):
    script = """
        import itertools, os, signal
        from sage_flow import LocalEnvironment
        from sage_flow.executors.processes import ProcessExecutor
        env = LocalEnvironment("test", executor=ProcessExecutor())
        env.queue("orders").put(1)
        def kill_driver(n, driver=os.getpid()):
            os.kill(driver, signal.SIGKILL)
        env.from_collection([1]).for_each(kill_driver)
        env.execute()
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=120)
    assert ran.returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp) if name.startswith("sage-flow-")]
    own = make_private()
    assert [name for name in others(tmp, own) if name.startswith("sage-flow-")] == []
    remove_private(own)
