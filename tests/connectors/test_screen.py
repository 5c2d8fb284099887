"""Records that are printed, and programs whose stdout is closed, full or not read."""

import io
import os
import pty
import subprocess
import sys

import pytest
from job_folder import PATIENCE_S, ROOT, finish, start, write

from sage_flow import LocalEnvironment
from sage_flow.connectors import PrintSink


class Broken(io.StringIO):
    """Raises an error at each write, or at the flush."""

    def __init__(self, number, at_flush=False):
        super().__init__()
        self.error, self.at_flush, self.tried = OSError(number, os.strerror(number)), at_flush, 0

    def write(self, text):
        self.tried += 1
        if not self.at_flush:
            raise self.error
        return len(text)

    def flush(self):
        if self.at_flush:
            raise self.error


def printed_to(stdout, monkeypatch, records=3):
    """Run a job that prints, and keeps its records, too."""
    env = LocalEnvironment("printing")
    stream = env.from_collection(range(records))
    stream.print()
    stream.collect("rows")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        return env.execute(progress=False).collected["rows"]


def test_without_stdout_nothing_is_printed_and_the_job_goes_on(monkeypatch):
    assert printed_to(None, monkeypatch) == [0, 1, 2]
    closed = io.StringIO()
    closed.close()
    assert printed_to(closed, monkeypatch) == [0, 1, 2]


@pytest.mark.parametrize("at_flush", [False, True])
@pytest.mark.parametrize("number", [32, 5, 9])  # EPIPE, EIO, EBADF
def test_when_nobody_reads_the_rest_is_not_printed_and_the_job_goes_on(monkeypatch, number, at_flush):
    stdout = Broken(number, at_flush)
    assert printed_to(stdout, monkeypatch) == [0, 1, 2]
    assert stdout.tried == (3 if at_flush else 1)


@pytest.mark.parametrize("at_flush", [False, True])
def test_a_full_disk_fails_the_job_with_a_clear_error(monkeypatch, at_flush):
    with pytest.raises(OSError, match="cannot print to stdout: No space left on device"):
        printed_to(Broken(28, at_flush), monkeypatch)


def test_text_that_stdout_cannot_encode_is_an_error(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(UnicodeEncodeError):
        PrintSink().write("\u00e9")


# --- whole programs ---------------------------------------------------------------------------------------

JOB = """
def build(env):
    rows = env.from_collection(range(3))
    rows.map(str).write_text("out.txt")
    rows.print()
"""

COMMANDS = {
    "run": ("run", "job.py"),
    "quiet": ("run", "job.py", "--quiet"),
    "explain": ("explain", "job.py"),
    "draw": ("draw", "job.py"),
    "version": ("--version",),
    "help": ("--help",),
    "new": ("new", "project"),
}


def command(tmp_path, arguments, redirection):
    """Run the command by a shell, with its stdout where this says."""
    write(tmp_path / "job.py", JOB)
    script = f'exec "$0" -m sage_flow.cli "$@" {redirection}'
    # Whatever runs the tests may have set this; where it is not set, stdout has a buffer.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, *arguments],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_stdout_does_its_work(tmp_path, name):
    code, err = command(tmp_path, COMMANDS[name], ">&-")
    assert code == 0, err
    assert "Traceback" not in err
    if name in ("run", "quiet"):
        assert err == ""
        assert (tmp_path / "out.txt").read_text() == "0\n1\n2\n"


def test_without_stdin_stdout_and_stderr_an_output_file_gets_none_of_their_numbers(tmp_path):
    job = JOB + "    import os\n    os.write(1, b'not for the file')\n    os.write(2, b'nor this')\n"
    write(tmp_path / "other" / "writing.py", job)
    code, _ = command(tmp_path, ("run", "other/writing.py"), "<&- >&- 2>&-")
    assert code == 0
    assert (tmp_path / "out.txt").read_text() == "0\n1\n2\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "quiet"])
def test_a_full_stdout_is_told_in_a_line(tmp_path, name):
    code, err = command(tmp_path, COMMANDS[name], "> /dev/full")
    assert code == 1
    assert "stdout: No space left on device" in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert not (tmp_path / "out.txt").exists()  # the printed rows could not be printed: the job has failed


def test_a_reader_that_has_had_enough_ends_an_endless_job_which_publishes(tmp_path):
    job = """
    import itertools

    def build(env):
        rows = env.from_iterable(itertools.count)
        rows.map(str).write_text("out.txt")
        rows.print()
    """
    write(tmp_path / "job.py", job)
    read, written = os.pipe()
    process = start("-m", "sage_flow.cli", "run", "job.py", cwd=tmp_path, stdout=written)
    os.close(written)
    assert os.read(read, 1)
    os.close(read)
    code, _, err = finish(process)
    assert code == 1
    assert "nobody reads its output any more: draining job 'job'" in err
    assert err.endswith("sage-flow: job 'job' is FINISHED; published: out.txt\n")
    rows = (tmp_path / "out.txt").read_text().split()
    assert rows == list(map(str, range(len(rows))))


def test_a_terminal_that_is_closed_ends_the_job_which_publishes(tmp_path):
    job = """
    import itertools

    def build(env):
        rows = env.from_iterable(itertools.count)
        rows.map(str).write_text("out.txt")
        rows.filter(lambda n: n % 1000 == 0).print()
    """
    write(tmp_path / "job.py", job)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "sage_flow.cli", "run", "job.py"])
    seen = b""
    while b"3000" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    os.waitpid(pid, 0)
    rows = (tmp_path / "out.txt").read_text().split()
    assert rows == list(map(str, range(len(rows))))
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []
