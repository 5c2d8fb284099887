"""Progress on a terminal: the table, and what the job prints meanwhile; real jobs on a terminal and a pipe."""

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_job import PATIENCE_S, FakeJob, open_pipe, open_terminal

from sage_flow import LocalEnvironment
from sage_flow.cli import metrics
from sage_flow.cli.metrics import watching
from sage_flow.runtime.report import OperatorCounts

ROOT = Path(__file__).parents[2]


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


def test_an_environment_says_what_is_shown_unless_execute_does(monkeypatch):
    pipe = open_pipe(monkeypatch)
    env = LocalEnvironment("squares")
    env.progress = True
    env.from_collection(range(10)).map(lambda n: n * n, name="square").collect("rows")
    env.execute(progress=False)
    assert pipe.getvalue() == ""
    env.execute()
    assert pipe.getvalue().startswith("squares FINISHED ")


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
