"""The command `sage-flow`: what it prints where, and its exit codes."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment, __version__
from sage_flow.cli import main

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120


@pytest.fixture
def project(monkeypatch, tmp_path):
    """An empty folder, which is the working directory; what a job imports is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def start(*arguments, cwd, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


COUNT = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    top: int = 3

def parse(text):
    return int(text)

def build(env, options: Options):
    numbers = env.from_collection(["1", "2", "x", "3"][:options.top], name="texts").map(parse, name="numbers")
    numbers.collect("rows")
"""


# --- run --------------------------------------------------------------------------------------------------


def test_run_prints_the_report(project, capsys):
    job = f"{COUNT}\ndef report(result, options):\n    print(result.collected, options.top)\n"
    write(project / "reported.py", job)
    assert main(["run", "reported.py", "--option", "top=2"]) == 0
    assert capsys.readouterr() == ("{'rows': [1, 2]} 2\n", "")


def test_run_without_a_report_prints_the_counts(project, capsys):
    write(project / "counted.py", COUNT)
    assert main(["run", "counted.py", "--option", "top=2"]) == 0
    assert capsys.readouterr().out == (
        "operator       records\n"
        "texts                2\n"
        "numbers              2\n"
        "rows                 2\n"
    )  # fmt: skip


SKIP = COUNT.replace("parse, name", "parse, on_error='skip', name")


def test_the_counts_tell_what_was_skipped(project, capsys):
    write(project / "skipping.py", SKIP)
    assert main(["run", "skipping.py", "--option", "top=4"]) == 0
    assert capsys.readouterr().out == (
        "operator       records       skipped\n"
        "texts                4             0\n"
        "numbers              3             1\n"
        "rows                 3             0\n"
    )


def test_beside_a_report_what_was_skipped_is_told_on_stderr(project, capsys):
    write(project / "skipping2.py", f"{SKIP}\ndef report(result):\n    print(len(result.collected['rows']))\n")
    assert main(["run", "skipping2.py"]) == 0
    assert capsys.readouterr() == ("2\n", "skipped: numbers 1\n")


def test_quiet_prints_nothing(project, capsys):
    write(project / "quiet.py", f"{SKIP}\ndef report(result):\n    print(result.collected)\n")
    assert main(["run", "quiet.py", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_request(project, capsys):
    write(project / "shown.py", COUNT)
    assert main(["run", "shown.py", "--option", "top=2", "--quiet", "--progress"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shown FINISHED ")
    assert main(["run", "shown.py", "--option", "top=2", "--quiet", "--no-progress"]) == 0
    assert capsys.readouterr() == ("", "")


def test_parallelism_is_that_of_the_environment(project, capsys):
    job = """
    def build(env):
        env.from_collection(range(9)).map(lambda n, ctx: ctx.parallelism).collect("seen")

    def report(result):
        print(set(result.collected["seen"]))
    """
    write(project / "parallel.py", job)
    assert main(["run", "parallel.py", "--parallelism", "3"]) == 0
    assert capsys.readouterr().out == "{3}\n"
    assert main(["run", "parallel.py", "--parallelism", "0"]) == 2
    assert "parallelism of 'parallel' must be a whole number of at least 1, not 0" in capsys.readouterr().err


# --- explain, draw, help ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "draw"])
def test_the_plan_is_that_of_the_environment(project, capsys, command):
    write(project / "planned.py", COUNT)
    assert main([command, "planned.py", "--option", "top=1", "--parallelism", "2"]) == 0
    printed = capsys.readouterr().out
    env = LocalEnvironment("planned", 2)
    planned = sys.modules["planned"]
    planned.build(env, planned.Options())
    assert printed.strip() == getattr(env, command)().strip()
    assert "numbers" in printed


@pytest.mark.parametrize("command", ["run", "explain", "draw"])
def test_help_gives_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"sage-flow {command} jobs/flights.py --option top=5" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "x.py", "--parallelism", "two"]])
def test_wrong_arguments_are_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sage-flow" in capsys.readouterr().err


def test_the_version_is_told_without_loading_what_runs_jobs(tmp_path):
    code = (
        "import sys\n"
        "from sage_flow.cli import main\n"
        "try:\n"
        "    main(['--version'])\n"
        "except SystemExit:\n"
        "    print(*{'rich', 'ray', 'numpy', 'sage_flow.jobfile', 'sage_flow.metrics'} & set(sys.modules))\n"
    )
    assert finish(start("-c", code, cwd=tmp_path)) == (0, f"sage-flow {__version__}\n\n", "")


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py"], "sage-flow: error: missing.py: no such file"),
        (["."], "sage-flow: error: . is a directory"),
        (["torn.py"], "sage-flow: error: torn.py:1 is not valid Python"),
        (["empty.py"], "sage-flow: error: empty.py has no function build"),
        (["counting.py", "--option", "tpo=1"], "has no option 'tpo'; did you mean 'top'?\noptions of counting.py:\n"),
        (["counting.py", "--option", "top=x"], "sage-flow: error: option 'top' must be int, not 'x'\n"),
        (["sinkless.py"], "PipelineError: "),
        (["unkeyed.py"], "PipelineError: .count() works per key"),
        (["unread.py"], "InputError: no/such/file: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["run", "explain", "draw"])
def test_a_wrong_use_is_told_with_exit_code_2(project, capsys, command, arguments, message):
    write(project / "torn.py", "def build(:")
    write(project / "empty.py", "")
    write(project / "counting.py", COUNT)
    write(project / "sinkless.py", "def build(env):\n    env.from_collection([1]).map(str)\n")
    write(project / "unkeyed.py", "def build(env):\n    env.from_collection([1]).count()\n")
    write(project / "unread.py", "def build(env):\n    env.read_text('no/such/file').print()\n")
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.replace("PipelineError: ", "") in err
    assert "Traceback" not in err


def test_an_error_of_a_function_names_it_and_its_record(project, capsys):
    write(project / "jobs" / "failing.py", COUNT)
    assert main(["run", "jobs/failing.py"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "ValueError: invalid literal for int() with base 10: 'x'"
    assert lines[1].split() == ["jobs/failing.py:10", "in", "parse", "return", "int(text)"]
    assert lines[2].startswith("operator  'numbers' (map), subtask 1 of 1, job 'failing'")
    assert lines[3] == "record    'x'"
    assert len(lines) < 15


@pytest.mark.parametrize(
    ("text", "first_line", "where"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero", "failing.py:1 in <module>"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named", "failing.py:1 in <module>"),
        ("import torn\n", "SyntaxError: ", "failing.py:1 in <module>"),
        ("def build(env):\n    raise LookupError('here')\n", "LookupError: here", "failing.py:2 in build"),
        ("def build(env):\n    env.from_nowhere()\n", "AttributeError: ", "failing.py:2 in build"),
    ],
)
def test_an_error_before_the_job_runs_names_the_line(project, capsys, text, first_line, where):
    write(project / "torn.py", "def f(:")
    write(project / "failing.py", text)
    assert main(["run", "failing.py"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(first_line)
    assert where in err
    assert len(err.splitlines()) < 15


def test_an_error_of_the_report_is_one_of_the_job(project, capsys):
    write(project / "misreported.py", f"{SKIP}\ndef report(result):\n    print(result.rows)\n")
    assert main(["run", "misreported.py"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("AttributeError: ")
    assert "misreported.py:17 in report" in err


def test_a_function_that_exits_does_not_end_the_program_as_if_all_were_well(project, capsys):
    job = "import sys\ndef build(env):\n    env.from_collection([0]).for_each(lambda code: sys.exit(code))\n"
    write(project / "exiting.py", job)
    assert main(["run", "exiting.py"]) == 1
    assert capsys.readouterr().err.startswith("SystemExit: 0\n")


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    write(tmp_path / "counted.py", COUNT)
    read, written = os.pipe()
    os.close(read)
    process = start("-m", "sage_flow.cli", "explain", "counted.py", cwd=tmp_path, stdout=written)
    os.close(written)
    assert finish(process) == (1, None, "")


# --- as a program -----------------------------------------------------------------------------------------


def test_operators_beside_the_jobs_are_found_from_anywhere(tmp_path):
    write(tmp_path / "operators" / "__init__.py", "")
    write(tmp_path / "operators" / "text.py", "def shout(text):\n    return text.upper()\n")
    job = """
    from operators.text import shout

    def build(env):
        env.from_collection(["a"]).map(shout).print()

    def report(result):
        pass
    """
    write(tmp_path / "jobs" / "shouting.py", job)
    command = ("-m", "sage_flow.cli", "run")
    assert finish(start(*command, "jobs/shouting.py", cwd=tmp_path)) == (0, "A\n", "")
    assert finish(start(*command, "shouting.py", cwd=tmp_path / "jobs")) == (0, "A\n", "")


PROGRAM = """
if __name__ == "__main__":
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

print("loaded")

from dataclasses import dataclass
from operators.text import shout

@dataclass(frozen=True)
class Options:
    text: str

def build(env, options: Options):
    env.from_collection([options.text]).map(shout).collect("rows")

def report(result):
    print(*result.collected["rows"])
"""


def test_a_job_file_is_a_program_that_is_loaded_once(tmp_path):
    write(tmp_path / "operators" / "__init__.py", "")
    write(tmp_path / "operators" / "text.py", "def shout(text):\n    return text.upper()\n")
    job = str(write(tmp_path / "jobs" / "program.py", PROGRAM))
    assert finish(start(job, "--option", "text=a", cwd="/")) == (0, "loaded\nA\n", "")
    code, _, err = finish(start(job, cwd=tmp_path))
    assert code == 2
    assert err.startswith("sage-flow: error: jobs/program.py needs --option text=...\n")


# --- Ctrl-C -----------------------------------------------------------------------------------------------


def interrupt_when_ready(job):
    process = start("-m", "sage_flow.cli", "run", job.name, cwd=job.parent)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    return finish(process)


def test_ctrl_c_cancels_an_endless_job(tmp_path):
    job = """
    import itertools

    def build(env):
        numbers = env.from_iterable(lambda: itertools.count(), name="numbers")
        numbers.for_each(lambda n: print("ready", flush=True) if n == 1 else None)

    def report(result):
        print("not reached")
    """
    code, out, err = interrupt_when_ready(write(tmp_path / "endless.py", job))
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        "sage-flow: interrupted, cancelling the job",
        "sage-flow: job 'endless' is CANCELLED",
    ]


def test_ctrl_c_names_the_line_that_does_not_come_back(tmp_path):
    job = """
    import time

    def nap(n):
        print("ready", flush=True)
        time.sleep(3600)

    def build(env):
        env.from_collection([1]).map(nap, name="naps").collect("rows")
    """
    code, out, err = interrupt_when_ready(write(tmp_path / "sleeping.py", job))
    assert (code, out) == (130, "")
    lines = err.splitlines()
    assert lines[-2] == "code that did not come back:"
    assert "naps" in lines[-1]
    assert lines[-1].endswith("stuck at sleeping.py:6 in nap")


def test_ctrl_c_while_a_job_file_loads(tmp_path):
    job = "import time\nprint('ready', flush=True)\ntime.sleep(3600)\n"
    assert interrupt_when_ready(write(tmp_path / "slow.py", job)) == (130, "", "sage-flow: interrupted\n")


def test_ctrl_c_tells_an_error_of_closing(tmp_path):
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
        env.from_iterable(lambda: itertools.count()).for_each(Careless())
    """
    code, _, err = interrupt_when_ready(write(tmp_path / "careless.py", job))
    assert code == 130
    assert "OSError: cannot close" in err
