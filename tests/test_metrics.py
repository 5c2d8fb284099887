"""Progress on stderr: rates, lines for pipes, the table for terminals, and what it must leave alone."""

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import LocalEnvironment, metrics
from sage_flow.metrics import Row, Snapshot, Speedometer, line_of, watching
from sage_flow.runtime.report import OperatorCounts

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60


class FakeJob:
    """A job whose counts a test sets."""

    name = "fake"
    status = "RUNNING"

    def __init__(self, **operators):
        self.operators = operators or {"parse": OperatorCounts(1234)}
        self.queued = {}

    def metrics(self):
        return {"operators": self.operators, "queued": self.queued}


class Terminal(io.StringIO):
    """A terminal that remembers everything, and a way to wait for what it shows."""

    def __init__(self):
        super().__init__()
        self._changed = threading.Condition()

    def isatty(self):
        return True

    def write(self, text):
        with self._changed:
            length = super().write(text)
            self._changed.notify_all()
        return length

    def await_text(self, text):
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.getvalue(), PATIENCE_S), self.getvalue()


def open_terminal(monkeypatch):  # no fixture: pytest sets sys.stderr between a fixture and its test
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    return terminal


def open_pipe(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    return stderr


def watching_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("progress of")]


# --- rates ------------------------------------------------------------------------------------------------


def test_a_rate_is_that_of_the_last_window():
    speed = Speedometer(start_s=100.0, window_s=1.0)
    assert speed.rates(100.5, {"map": 50}) == {"map": 100.0}  # not a whole window yet
    assert speed.rates(101.0, {"map": 100}) == {"map": 100.0}
    assert speed.rates(102.0, {"map": 100}) == {"map": 0.0}  # nothing for a second
    assert speed.rates(104.0, {"map": 300}) == {"map": 100.0}  # a longer pause: the rate since the last look


def test_a_look_at_the_very_start_has_no_rate():
    assert Speedometer(start_s=5.0).rates(5.0, {"map": 10}) == {"map": 0.0}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_a_steady_stream_has_its_rate_at_every_look(pauses, window_s):
    speed, now_s, count = Speedometer(start_s=0.0, window_s=window_s), 0.0, 0
    for pause in pauses:
        now_s, count = now_s + (pause + 1) / 8, count + (pause + 1) * 4
        assert speed.rates(now_s, {"map": count}) == {"map": 32.0}


def test_what_is_remembered_does_not_grow_with_the_job():
    speed = Speedometer(start_s=0.0, window_s=1.0)
    for tick in range(10_000):
        speed.rates(tick / 4, {"map": tick})
    assert len(speed._seen) <= 6


# --- lines ------------------------------------------------------------------------------------------------


def test_a_line_leaves_out_what_has_not_begun():
    rows = (
        Row("read", OperatorCounts(10), 0.0, 0),
        Row("parse", OperatorCounts(0, skipped=3, dead_letters=1), 0.0, 0),
        Row("count", OperatorCounts(), 0.0, 7),
        Row("write", OperatorCounts(), 0.0, 0),
    )
    line = line_of(Snapshot("job", "RUNNING", 1.0, rows))
    assert line == "job RUNNING 1.0 s: read 10, parse 0 (3 skipped, 1 dead letters), count 0 (7 waiting)"


def test_a_line_of_a_job_without_records_says_so():
    assert line_of(Snapshot("job", "RUNNING", 0.04, ())) == "job RUNNING 0.0 s: no records yet"


@pytest.mark.parametrize("progress", [False, None])
def test_a_pipe_gets_nothing_unless_asked(monkeypatch, progress):
    pipe = open_pipe(monkeypatch)
    with watching(FakeJob(), progress):
        assert watching_threads() == []
    assert pipe.getvalue() == ""


def test_a_pipe_gets_a_last_line_with_the_end(monkeypatch):
    pipe = open_pipe(monkeypatch)
    job = FakeJob()
    with watching(job, True):
        job.status, job.operators = "FINISHED", {"parse": OperatorCounts(5000)}
    assert pipe.getvalue().startswith("fake FINISHED ")
    assert "parse 5,000 (" in pipe.getvalue()
    assert pipe.getvalue().count("\n") == 1


def test_a_pipe_gets_a_line_now_and_then(monkeypatch):
    pipe = open_pipe(monkeypatch)
    monkeypatch.setattr(metrics._LineScreen, "first_s", 0.0)
    monkeypatch.setattr(metrics._LineScreen, "interval_s", 0.0)
    looks = threading.Semaphore(0)

    class Watched(FakeJob):
        def metrics(self):
            looks.release()
            return super().metrics()

    with watching(Watched(), True):
        assert all(looks.acquire(timeout=PATIENCE_S) for _ in range(3))
    assert pipe.getvalue().count("fake RUNNING") >= 3


def test_what_waits_for_a_chain_is_shown_at_its_first_operator(monkeypatch):
    pipe = open_pipe(monkeypatch)
    job = FakeJob(**{"a": OperatorCounts(1), "a -> b": OperatorCounts(2), "c": OperatorCounts(3)})
    job.queued = {"a": 0, "a -> b -> c": 64}
    with watching(job, True):
        pass
    assert "64 waiting" in pipe.getvalue().split("a -> b 2")[1].split("c 3")[0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("progress", [True, None])
def test_an_error_goes_through_and_the_thread_has_ended(monkeypatch, error, progress):
    open_terminal(monkeypatch)
    with pytest.raises(error), watching(FakeJob(), progress):
        raise error if len(watching_threads()) == 1 else AssertionError("it is not watched")
    assert watching_threads() == []


def test_a_closed_stderr_does_not_disturb_the_job(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with watching(FakeJob(), True):
        pass
    assert watching_threads() == []


def test_without_a_stderr_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    with watching(FakeJob(), True):
        assert watching_threads() == []


# --- the table --------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_table_then_a_line(monkeypatch):
    terminal = open_terminal(monkeypatch)
    job = FakeJob(read=OperatorCounts(1_000_000), parse=OperatorCounts(999_998, skipped=2))
    with watching(job, None):
        terminal.await_text("999,998")
        table = terminal.getvalue()
        job.status = "FINISHED"
    assert "records/s" in table
    assert "skipped" in table
    assert "dead letters" not in table
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back
    assert "fake FINISHED" in terminal.getvalue().splitlines()[-1]


def test_a_short_job_leaves_a_terminal_alone(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(metrics, "_SHORT_JOB_S", 3600.0)
    with watching(FakeJob(), None):
        pass
    assert terminal.getvalue() == ""


def test_a_dumb_terminal_gets_lines(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with watching(FakeJob(), True):
        pass
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().startswith("fake RUNNING")


def test_counts_are_whole_on_a_narrow_terminal(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "50")
    with watching(FakeJob(**{"an operator with quite a long name": OperatorCounts(123_456_789)}), True):
        terminal.await_text("123,456,789")
        terminal.await_text("…")


def test_what_a_job_prints_appears_as_it_is_above_the_table(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", terminal)
    with watching(FakeJob(), True):
        terminal.await_text("records/s")
        print("[bold]not markup[/nothing]", "x" * 150)
        print("[/part]", end="", flush=True)
        print("warning", file=sys.stderr)
    assert "[bold]not markup[/nothing] " + "x" * 150 in terminal.getvalue()
    assert "[/part]" in terminal.getvalue()
    assert "warning" in terminal.getvalue()
    assert sys.stdout is sys.stderr is terminal


def test_prints_of_several_threads_are_all_there(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", terminal)

    def speak():
        for _ in range(200):
            print("#", end="")
            print("#")

    with watching(FakeJob(), True):
        terminal.await_text("records/s")
        threads = [threading.Thread(target=speak) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert terminal.getvalue().count("#") == 4 * 200 * 2


def test_a_file_that_was_kept_still_writes_after_the_table(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with watching(FakeJob(), True):
        terminal.await_text("records/s")
        kept = sys.stderr
        assert kept is not terminal
    kept.write("late")
    assert terminal.getvalue().endswith("late")


def test_stdout_that_is_no_terminal_stays_as_it_is(monkeypatch):
    terminal = open_terminal(monkeypatch)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with watching(FakeJob(), True):
        terminal.await_text("records/s")
        print("row", end="")
        assert stdout.getvalue() == "row"


# --- real jobs --------------------------------------------------------------------------------------------


def test_execute_shows_the_counts_of_the_job(monkeypatch):
    pipe = open_pipe(monkeypatch)
    env = LocalEnvironment("squares")
    env.from_collection(range(10)).map(lambda n: n * n, name="square").collect("rows")
    env.execute(progress=True)
    assert pipe.getvalue().startswith("squares FINISHED ")
    assert "square 10 (" in pipe.getvalue()


def python(code, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONWARNINGS": "error"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **options)


def test_a_job_that_shows_nothing_imports_nothing_for_it():
    code = (
        "import sys\n"
        "from sage_flow import LocalEnvironment\n"
        "env = LocalEnvironment()\n"
        "env.from_collection(range(10)).map(lambda n: n).collect('rows')\n"
        "env.execute()\n"
        "print(*{'ray', 'rich', 'numpy'} & set(sys.modules))\n"
    )
    with python(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=PATIENCE_S) == ("\n", "")


WAITING_JOB = """
import sys
from sage_flow import LocalEnvironment
env = LocalEnvironment("patient")
env.from_collection([1]).map(lambda n: sys.stdin.readline(), name="wait").collect("rows")
env.execute({arguments})
"""


@pytest.mark.parametrize("arguments", ["", "progress=True"])
def test_a_real_terminal_shows_the_table_while_the_job_runs(arguments):
    master, slave = pty.openpty()
    job = python(WAITING_JOB.format(arguments=arguments), stdin=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = read_until(master, b"records/s")
    job.communicate(b"go on\n", timeout=PATIENCE_S)
    shown += read_until(master, b"patient FINISHED")
    os.close(master)
    assert job.returncode == 0
    assert b"\x1b[?25h" in shown


def read_until(terminal, text):
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 65536)  # raises when the other end is closed
    return shown


def test_a_real_pipe_gets_lines_while_the_job_runs():
    code = WAITING_JOB.format(arguments="progress=True")
    with python(code, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr.readline().startswith("patient RUNNING")
        _, rest = job.communicate("go on\n", timeout=PATIENCE_S)
    assert rest.splitlines()[-1].startswith("patient FINISHED")
    assert "\x1b" not in rest
