"""Errors at the command `sage-flow`: what they say, and the exit codes."""

import pytest
from job_folder import fresh_folder, write  # noqa: F401 - a fixture

from sage_flow.cli import main

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


SKIP = COUNT.replace("parse, name", "parse, on_error='skip', name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py"], "sage-flow: error: missing.py: no such file"),
        (["."], "sage-flow: error: . is a directory"),
        (["torn.py"], "sage-flow: error: torn.py:1 is not valid Python"),
        (["empty.py"], "sage-flow: error: empty.py has no function build"),
        (["counting.py", "--option", "tpo=1"], "has no option 'tpo'; did you mean 'top'?\noptions of counting.py:\n"),
        (["counting.py", "--option", "top=x"], "sage-flow: error: option 'top' must be int, not 'x'\n"),
        (["unkeyed.py"], "PipelineError: .count() works per key"),
        (["unread.py"], "InputError: no/such/file: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["run", "explain", "draw"])
def test_a_wrong_use_is_told_with_exit_code_2(job_folder, capsys, command, arguments, message):
    write(job_folder / "torn.py", "def build(:")
    write(job_folder / "empty.py", "")
    write(job_folder / "counting.py", COUNT)
    write(job_folder / "sinkless.py", "def build(env):\n    env.from_collection([1]).map(str)\n")
    write(job_folder / "unkeyed.py", "def build(env):\n    env.from_collection([1]).count()\n")
    write(job_folder / "unread.py", "def build(env):\n    env.read_text('no/such/file').print()\n")
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.replace("PipelineError: ", "") in err
    assert "Traceback" not in err


def test_half_a_pipeline_is_shown_with_what_it_lacks_and_does_not_run(job_folder, capsys):
    write(job_folder / "sinkless.py", "def build(env):\n    env.from_collection([1]).map(str)\n")
    for command in ("explain", "draw"):
        assert main([command, "sinkless.py"]) == 0
        assert "missing: the pipeline has no sink" in capsys.readouterr().out
    assert main(["run", "sinkless.py"]) == 2
    assert "the pipeline has no sink" in capsys.readouterr().err


def test_an_error_of_a_function_names_it_and_its_record(job_folder, capsys):
    write(job_folder / "jobs" / "failing.py", COUNT)
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
def test_an_error_before_the_job_runs_names_the_line(job_folder, capsys, text, first_line, where):
    write(job_folder / "torn.py", "def f(:")
    write(job_folder / "failing.py", text)
    assert main(["run", "failing.py"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(first_line)
    assert where in err
    assert len(err.splitlines()) < 15


def test_an_error_of_the_report_is_one_of_the_job(job_folder, capsys):
    write(job_folder / "misreported.py", f"{SKIP}\ndef report(result):\n    print(result.rows)\n")
    assert main(["run", "misreported.py"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("AttributeError: ")
    assert "misreported.py:17 in report" in err


def test_a_function_that_exits_does_not_end_the_program_as_if_all_were_well(job_folder, capsys):
    job = "import sys\ndef build(env):\n    env.from_collection([0]).for_each(lambda code: sys.exit(code))\n"
    write(job_folder / "exiting.py", job)
    assert main(["run", "exiting.py"]) == 1
    assert capsys.readouterr().err.startswith("SystemExit: 0\n")


def test_an_interrupt_that_code_of_the_job_raises_is_an_error_of_the_job(job_folder, capsys):
    function = "def stop(n):\n    raise KeyboardInterrupt('mine')\n"
    write(job_folder / "stopping.py", f"{function}def build(env):\n    env.from_collection([7]).for_each(stop)\n")
    assert main(["run", "stopping.py"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("KeyboardInterrupt: mine\n")
    assert "record    7" in err
    assert "interrupted" not in err


def test_all_that_led_to_an_error_is_told(job_folder, capsys):
    write(
        job_folder / "chained.py",
        """
        def start(n):
            try:
                raise ConnectionRefusedError("no answer")
            except ConnectionRefusedError as error:
                raise RuntimeError("cannot start") from error

        def build(env):
            env.from_collection([7]).for_each(start)
        """,
    )
    assert main(["run", "chained.py"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "RuntimeError: cannot start"
    assert "caused by ConnectionRefusedError: no answer" in lines
    assert "chained.py:4 in start" in lines[-1]
