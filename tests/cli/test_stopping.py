"""Ctrl-C, SIGTERM, SIGHUP: the first drains the job, the second cancels it; by the command and by `execute()`."""

import os
import signal
from types import SimpleNamespace

import pytest
from job_folder import finish, write
from job_folder import start as start_program

from sage_flow import JobStatus, LocalEnvironment, Sink, Source
from sage_flow.cli.stopping import endless_sources, sinks_at_a_stop, stoppable
from sage_flow.connectors.files import TextSource

ENDLESS = """
import itertools

def build(env):
    numbers = env.from_iterable(lambda: itertools.count(), name="numbers")
    numbers.for_each(lambda n: print("ready", flush=True) if n == 1 else None, name="told")
    numbers.map(str).write_text("numbers.txt")
    numbers.filter(lambda n: n < 3).collect("few")

def report(result):
    print("reported", result.status, result.collected["few"])
"""

BLOCKED = """
import threading

def wait(n):
    print("ready", flush=True)
    threading.Event().wait()

def build(env):
    env.from_collection([1]).map(wait, name="waits").write_jsonl("rows.jsonl")
"""


STARTED = []


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def start(*arguments, **options):
    process = start_program(*arguments, **options)
    STARTED.append(process)
    return process


def running(tmp_path, text, *arguments):
    file = write(tmp_path / "endless.py", text)
    process = start("-m", "sage_flow.cli", "run", file.name, *arguments, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    return process


def lines_until(process, text):
    """What is told on stderr up to a line with this text."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(lines)


def published(tmp_path):
    """The numbers in the file of the job, which is the only one that is left."""
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".tmp")] == []
    return [int(line) for line in (tmp_path / "numbers.txt").read_text().split()]


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 0), (signal.SIGHUP, "SIGHUP", 0)],
)
def test_the_first_signal_drains_an_endless_job_and_publishes(tmp_path, number, name, code):
    process = running(tmp_path, ENDLESS)
    process.send_signal(number)
    ended, out, err = finish(process)
    assert ended == code, err
    assert out == "reported FINISHED [0, 1, 2]\n"
    rows = published(tmp_path)
    assert rows == list(range(len(rows)))
    assert len(rows) > 1
    assert f"sage-flow: {name}: draining job 'endless': its sources end, and their records are processed" in err
    assert err.endswith("sage-flow: job 'endless' is FINISHED; published: numbers.txt\n")


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGINT, signal.SIGTERM, 143),
        (signal.SIGHUP, signal.SIGINT, 130),
    ],
)
def test_the_second_signal_cancels_and_names_the_code_that_does_not_come_back(tmp_path, first, second, code):
    process = running(tmp_path, BLOCKED)
    process.send_signal(first)
    drained = lines_until(process, "rows.jsonl at the end")
    assert "cancels it" in drained[0]
    process.send_signal(second)
    ended, out, err = finish(process)
    assert (ended, out) == (code, "")
    lines = err.splitlines()
    assert lines[0].endswith(": cancelling job 'endless'")
    assert lines[1] == "sage-flow: job 'endless' is CANCELLED, nothing is published"
    assert lines[2] == "user code that is still running:"
    assert "waits" in lines[3]
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_terminal_that_says_twice_that_it_is_closed_cancels_nothing(tmp_path):
    gate = """
    import pathlib
    import time

    def wait(n):
        print("ready", flush=True)
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
        return n

    def build(env):
        env.from_collection([1]).map(wait).map(str).write_text("numbers.txt")
    """
    process = running(tmp_path, gate)
    process.send_signal(signal.SIGHUP)
    lines_until(process, "draining job")
    process.send_signal(signal.SIGHUP)
    write(tmp_path / "go", "")
    assert finish(process)[0] == 0
    assert published(tmp_path) == [1]


class Recorder:
    """A job that notes what it is asked for."""

    name, status, is_owner = "recorder", JobStatus.RUNNING, True
    _execution = SimpleNamespace(plan=None, stores_checkpoints=False)

    def __init__(self):
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def drain(self, wait):
        self.asked.append("drain")

    def cancel(self, reason, wait):
        self.asked.append("cancel")


@pytest.mark.parametrize(
    ("reasons", "asked"),
    [
        (["nobody reads its output any more", "SIGHUP"], ["drain"]),
        (["SIGHUP", "nobody reads its output any more", "SIGHUP"], ["drain"]),
        (["Ctrl-C", "nobody reads its output any more", "SIGHUP"], ["drain"]),
        (["SIGHUP", "SIGTERM"], ["drain", "cancel"]),
        (["nobody reads its output any more", "Ctrl-C"], ["drain", "cancel"]),
    ],
)
def test_a_terminal_that_has_gone_is_a_first_reason_to_stop_and_never_a_second(reasons, asked):
    with stoppable(Recorder, announces=False) as (job, signals):
        for reason in reasons:
            signals.ask(reason)
    assert job.asked == asked


def test_a_third_signal_ends_the_program_at_once(tmp_path):
    process = running(tmp_path, BLOCKED)
    for told in ("draining job", "cancelling job"):
        process.send_signal(signal.SIGTERM)
        lines_until(process, told)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == -signal.SIGTERM


def test_what_nohup_ignores_stays_ignored(tmp_path):
    file = write(tmp_path / "endless.py", ENDLESS)
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom sage_flow.cli import main\n"
    process = start("-c", f"{code}sys.exit(main())", "run", str(file), cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    ended, _, err = finish(process)
    assert ended == 0
    assert "SIGHUP" not in err


def test_ctrl_c_while_a_job_file_loads(tmp_path):
    process = running(tmp_path, "import time\nprint('ready', flush=True)\ntime.sleep(3600)\n")
    process.send_signal(signal.SIGINT)
    assert finish(process) == (130, "", "sage-flow: interrupted\n")


def test_a_drain_that_fails_tells_the_error_and_publishes_nothing(tmp_path):
    job = """
    import itertools
    from sage_flow import Function

    class Careless(Function):
        def __call__(self, n):
            if n == 1:
                print("ready", flush=True)

        def close(self):
            raise OSError("cannot close")

    def build(env):
        numbers = env.from_iterable(lambda: itertools.count())
        numbers.for_each(Careless())
        numbers.map(str).write_text("numbers.txt")
    """
    process = running(tmp_path, job)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 1
    assert "OSError: cannot close" in err
    assert "published:" not in err
    assert not (tmp_path / "numbers.txt").exists()


SLOW_TO_COMMIT = """
    import pathlib
    import time
    from sage_flow import Sink

    class Slow(Sink):
        def write(self, value):
            pass

        def prepare(self, checkpoint):
            return "prepared"

        def commit(self, handle):
            print("ready", flush=True)
            while not pathlib.Path("go").exists():
                time.sleep(0.01)

    def build(env):
        env.from_collection([1]).for_each(Slow())
        env.from_collection([1]).map(str).write_text("numbers.txt")
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_while_the_job_publishes_tells_that_all_is_published(tmp_path, presses):
    process = running(tmp_path, SLOW_TO_COMMIT)
    for told in ("draining job", "cancelling job")[:presses]:
        process.send_signal(signal.SIGINT)
        lines_until(process, told)
    write(tmp_path / "go", "")
    code, _, err = finish(process)
    assert code == 130
    assert err.endswith("sage-flow: job 'endless' is FINISHED; published: numbers.txt\n")
    assert published(tmp_path) == [1]


# --- in a program -----------------------------------------------------------------------------------------

PROGRAM = """
import itertools, sys
from sage_flow import LocalEnvironment

def tell(n):
    if n == 1:
        print("ready", flush=True)

if __name__ == "__main__":
    env = LocalEnvironment("program", executor=sys.argv[1])
    numbers = env.from_iterable(itertools.count)
    numbers.for_each(tell)
    numbers.map(str).write_text("numbers.txt")
    try:
        env.execute()
    except KeyboardInterrupt:
        print("interrupted")
    else:
        print("never")
"""


@pytest.mark.parametrize("executor", ["threads", "processes"])
@pytest.mark.parametrize(
    ("number", "code", "out"), [(signal.SIGINT, 0, "interrupted\n"), (signal.SIGTERM, -signal.SIGTERM, "")]
)
def test_execute_drains_and_then_the_signal_does_what_it_always_does(tmp_path, executor, number, code, out):
    file = write(tmp_path / "program.py", PROGRAM)
    process = start(str(file), executor, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert finish(process)[:2] == (code, out)
    rows = published(tmp_path)
    assert rows == list(range(len(rows)))


def test_signals_to_all_processes_of_a_job_end_it_in_order(tmp_path):
    file = write(tmp_path / "program.py", PROGRAM)
    process = start(str(file), "processes", cwd=tmp_path, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)  # as a service manager does
    assert finish(process)[0] == -signal.SIGTERM
    assert len(published(tmp_path)) > 1


def test_a_programs_own_handler_of_a_signal_stays_its_own(tmp_path):
    own = PROGRAM.replace(
        'if __name__ == "__main__":',
        'if __name__ == "__main__":\n    import signal\n    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))',
    )
    process = start(str(write(tmp_path / "program.py", own)), "threads", cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 7
    assert not (tmp_path / "numbers.txt").exists()


# --- what is told at the start ----------------------------------------------------------------------------


class Own(Source):
    pass


class Publishing(Sink):
    def commit(self):
        pass


def test_a_source_is_endless_if_it_is_not_known_to_end(tmp_path):
    write(tmp_path / "a.txt", "a")
    env = LocalEnvironment()
    for name, stream in {
        "list": env.from_collection([1], name="list"),
        "sized": env.from_iterable({1: 2}, name="sized"),
        "file": env.from_source(TextSource(str(tmp_path / "a.txt")), name="file"),
        "generator": env.from_iterable(iter([1]), name="generator"),
        "factory": env.from_iterable(list, name="factory"),
        "own": env.from_source(Own(), name="own"),
    }.items():
        stream.collect(f"rows of {name}")
    assert endless_sources(env._graph.plan()) == ["generator", "factory", "own"]


def test_each_sink_says_what_becomes_of_its_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = LocalEnvironment()
    stream = env.from_collection([1])
    stream.write_jsonl("out.jsonl")
    stream.collect("rows")
    stream.print()
    stream.for_each(abs)
    stream.for_each(Publishing())
    assert sorted(sinks_at_a_stop(env._graph.plan())) == [
        "'for_each-1' writes each record at once; a cancel does not undo that",
        "'for_each-2' publishes at the end, by Publishing.commit(); after a cancel abort() is called",
        "'print-1' prints each record at once",
        "'rows' keeps its rows in memory: they are in the result, even after a cancel",
        "'write_jsonl-1' publishes out.jsonl at the end; a cancel removes what it wrote",
    ]


def test_an_endless_job_says_at_its_start_how_it_ends(tmp_path):
    process = running(tmp_path, ENDLESS)
    process.send_signal(signal.SIGTERM)
    lines = finish(process)[2].splitlines()
    assert lines[0] == (
        "sage-flow: job 'endless' runs until it is stopped (its source 'numbers' may have no end); Ctrl-C, SIGTERM, or"
        " `sage-flow drain endless` from another terminal, drains it:"
    )
    assert "  'write_text-1' publishes numbers.txt at the end; a cancel removes what it wrote" in lines[1:4]


@pytest.mark.parametrize("flag", ["--quiet", "--no-progress"])
def test_a_job_that_is_to_be_silent_says_nothing_at_its_start(tmp_path, flag):
    process = running(tmp_path, ENDLESS, flag)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[2].startswith("sage-flow: SIGTERM: draining job")


def test_a_job_that_ends_by_itself_says_nothing(tmp_path):
    write(tmp_path / "short.py", "def build(env):\n    env.from_collection([1]).collect('rows')\n")
    process = start("-m", "sage_flow.cli", "run", "short.py", "--quiet", cwd=tmp_path)
    assert finish(process) == (0, "", "")
