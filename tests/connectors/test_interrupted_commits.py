"""A commit of prepared files that is interrupted at each of its steps, by its death or by others who commit."""

import os
import pickle
import stat
import subprocess
import sys
import textwrap
import threading
from datetime import timedelta
from itertools import count

import pytest

from sage_flow.connectors import TextSink
from sage_flow.functions import RuntimeContext

STEPS = (
    "lstat",
    "stat",
    "open",
    "listdir",
    "fchown",
    "fstat",
    "setxattr",
    "fchmod",
    "rename",
    "remove",
    "replace",
    "fsync",
)


def prepared_parts(path, text, parallelism, job_id):
    sinks = [TextSink(path) for _ in range(parallelism)]
    for index, sink in enumerate(sinks):
        sink.open(RuntimeContext("test", "sink", index, parallelism, job_id=job_id))
        sink.write(text)
    handles = [sink.prepare(0) for sink in sinks]
    for sink in sinks:
        sink.close()
    return handles


def prepared_over(folder, parallelism):
    """The handles of a run that replaces an earlier one."""
    folder.mkdir()
    out = folder / "out.txt"
    for handle in prepared_parts(out, "old", parallelism, "test-0"):
        commit(handle)
        os.chmod(handle.path, 0o640)
    return prepared_parts(out, "new", parallelism, "test-1")


def commit(handle):
    TextSink(handle.path).commit(handle)


def check_published(folder, handles):
    names = {os.path.basename(handle.path): "new\n" for handle in handles}
    assert {path.name: path.read_text() for path in folder.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def check_not_mixed(folder):
    """A reader never sees parts of two runs."""
    assert len({path.read_text() for path in folder.glob("out*")}) <= 1


KILLED = """
    import os, pickle, signal, sys
    from sage_flow.connectors import TextSink

    handles, steps = pickle.load(sys.stdin.buffer)
    for last, handle in enumerate(handles, 1):
        sink = TextSink(handle.path)
        if not (child := os.fork()):
            left = last

            def dying(real):
                def call(*args, **kwargs):
                    global left
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **kwargs)
                return call

            for name in steps:
                setattr(os, name, dying(getattr(os, name)))
            sink.commit(handle)
            os._exit(0)
        print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_commit_whose_process_is_killed_at_any_step_is_completed_by_the_next(parallelism, tmp_path):
    runs = [prepared_over(tmp_path / str(number), parallelism) for number in range(60)]
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        input=pickle.dumps(([handles[0] for handles in runs], STEPS)),
        capture_output=True,
        check=True,
    )
    signals = [int(line) for line in told.stdout.split()]
    killed = signals.count(9)
    assert 8 < killed < 60
    assert signals == [9] * killed + [0] * (60 - killed)
    for number, handles in enumerate(runs):
        for handle in handles[:: 1 if number % 2 else -1]:
            commit(handle)
        check_published(tmp_path / str(number), handles)


class Killed(BaseException):
    """A process dies here: it does nothing any more."""


class Committing:
    """A process that commits, and waits before each of its steps until the test lets it go on."""

    current = threading.local()

    def __init__(self, handle):
        self._sink, self._handle = TextSink(handle.path), handle
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._is_dead, self._fault = False, None
        self.next = "begin"
        threading.Thread(target=self._run, daemon=True).start()
        self.steps(1)

    def _run(self):
        self._go.acquire()
        self.current.process = self
        try:
            self._sink.commit(self._handle)
        except Killed:
            pass
        except BaseException as fault:
            self._fault = fault
        self.next = None
        self._waits.release()

    def before(self, step):
        if not self._is_dead:
            self.next = step
            self._waits.release()
            self._go.acquire()
        if self._is_dead:
            raise Killed

    def steps(self, number):
        """Do so many steps; return whether more are to be done."""
        for _ in range(number):
            if self.next is None:
                break
            self._go.release()
            assert self._waits.acquire(timeout=60)
        return self.next is not None

    def up_to(self, step):
        while self.next not in (step, None):
            self.steps(1)

    def kill(self):
        self._is_dead = True
        self.steps(1)

    def finish(self):
        self.up_to(None)
        if self._fault is not None:
            raise self._fault


@pytest.fixture(autouse=True)
def _each_step_can_wait(monkeypatch):
    def waiting(name, real):
        def call(*args, **kwargs):
            if (process := getattr(Committing.current, "process", None)) is not None:
                process.before(name)
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, waiting(name, getattr(os, name)))


@pytest.mark.parametrize("other", [0, 1], ids=["of the same file", "of another part"])
def test_two_commit_at_the_same_time_and_a_reader_never_sees_parts_of_two_runs(other, tmp_path):
    for moment in count(1):
        folder = tmp_path / str(moment)
        handles = prepared_over(folder, 3)
        process = Committing(handles[0])
        goes_on = process.steps(moment)
        check_not_mixed(folder)
        commit(handles[other])
        check_not_mixed(folder)
        while process.steps(1):
            check_not_mixed(folder)
        process.finish()
        for handle in handles[1:]:
            commit(handle)
        check_published(folder, handles)
        if not goes_on:
            break
    assert moment > 8


@pytest.mark.parametrize("first", [0, 1])
def test_a_commit_is_killed_at_any_step_after_another_part_was_published(first, tmp_path):
    """It may have put that part aside: who misses a file and who put it aside find it, whoever comes first."""
    put_aside = 0
    for moment in count(1):
        for further in count():
            folder = tmp_path / f"{moment}-{further}"
            handles = prepared_over(folder, 2)
            process = Committing(handles[0])
            is_moment = process.steps(moment)
            commit(handles[1])
            goes_on = process.steps(further)
            process.kill()
            put_aside += not os.path.exists(handles[1].target)
            for handle in handles[first:] + handles[:first]:
                commit(handle)
            check_published(folder, handles)
            if not goes_on:
                break
        if not is_moment:
            break
    assert moment > 8
    assert put_aside  # the case was among them


def test_two_attempts_stop_at_any_steps_while_another_part_is_published(tmp_path):
    for moment in count(1):
        for later in count(1):
            folder = tmp_path / f"{moment}-{later}"
            handles = prepared_over(folder, 2)
            first, second = Committing(handles[0]), Committing(handles[0])
            goes_on = first.steps(moment), second.steps(later)
            commit(handles[1])
            first.steps(1)
            second.finish()
            first.finish()
            commit(handles[1])
            check_published(folder, handles)
            if not goes_on[1]:
                break
        if not goes_on[0]:
            break
    assert moment > 8


@pytest.mark.parametrize("again", [0, 1], ids=["who put it aside", "who misses it"])
def test_a_part_that_was_put_aside_is_put_back_by_two_at_the_same_time(again, tmp_path):
    for moment in count(1):
        folder = tmp_path / str(moment)
        handles = prepared_over(folder, 2)
        first = Committing(handles[0])
        first.up_to("rename")
        commit(handles[1])
        first.steps(1)
        assert not os.path.exists(handles[1].target)
        second = Committing(handles[again])
        goes_on = second.steps(moment)
        first.finish()
        second.finish()
        for handle in handles:
            commit(handle)
        check_published(folder, handles)
        if not goes_on:
            break
    assert moment > 8


COMMIT = """
    import pickle, sys
    from sage_flow.connectors import TextSink
    handles = pickle.load(sys.stdin.buffer)
    print("ready", flush=True)
    sys.stdin.readline()
    for handle in handles:
        TextSink(handle.path).commit(handle)
"""


def test_two_processes_commit_the_same_files_at_the_same_time(tmp_path):
    runs = [prepared_over(tmp_path / str(number), 2) for number in range(50)]
    command = [sys.executable, "-c", textwrap.dedent(COMMIT)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in processes:
            process.stdin.write(pickle.dumps([handle for handles in runs for handle in handles]))
            process.stdin.flush()
        for process in processes:
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    for number, handles in enumerate(runs):
        check_published(tmp_path / str(number), handles)


@pytest.mark.parametrize("roll", [None, timedelta(0)], ids=["at the end", "a part"])
def test_a_commit_of_a_joined_output_is_killed_at_any_step_and_completed_by_the_next(roll, tmp_path):
    for moment in count(1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        handle = joined_output(folder, roll)
        process = Committing(handle)
        goes_on = process.steps(moment)
        process.kill()
        for _ in range(2):
            commit(handle)
        assert [path.read_text() for path in folder.iterdir()] == ["a\nb\n"]
        if not goes_on:
            break
    assert moment > 5


def joined_output(folder, roll):
    """The handle of an attempt that has taken over a piece from the one before it."""
    first, second = (TextSink(folder / "out.txt", roll=roll) for _ in range(2))
    first.open(RuntimeContext("test", "sink", 0, 1, job_id="test-1", attempt=1))
    first.write("a")
    snapshot = first.snapshot()
    second.open(RuntimeContext("test", "sink", 0, 1, job_id="test-1", attempt=2))
    second.restore([snapshot])
    second.write("b")
    handle = second.prepare(0)
    second.close()
    return handle
