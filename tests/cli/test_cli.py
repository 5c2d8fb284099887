"""The command `sage-flow`: what it prints where."""

import sys

import pytest
from job_folder import fresh_folder, write  # noqa: F401 - a fixture

from sage_flow import LocalEnvironment
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


# --- run --------------------------------------------------------------------------------------------------


def test_run_prints_the_report(job_folder, capsys):
    job = f"{COUNT}\ndef report(result, options):\n    print(result.collected, options.top)\n"
    write(job_folder / "reported.py", job)
    assert main(["run", "reported.py", "--option", "top=2"]) == 0
    assert capsys.readouterr() == ("{'rows': [1, 2]} 2\n", "")


def test_run_without_a_report_prints_the_counts(job_folder, capsys):
    write(job_folder / "counted.py", COUNT)
    assert main(["run", "counted.py", "--option", "top=2"]) == 0
    assert capsys.readouterr().out == (
        "operator              records\n"
        "texts                       2\n"
        "numbers                     2\n"
        "collect-1: rows             2\n"
    )  # fmt: skip


SKIP = COUNT.replace("parse, name", "parse, on_error='skip', name")


def test_the_counts_tell_what_was_skipped(job_folder, capsys):
    write(job_folder / "skipping.py", SKIP)
    assert main(["run", "skipping.py", "--option", "top=4"]) == 0
    assert capsys.readouterr().out == (
        "operator              records       skipped\n"
        "texts                       4             0\n"
        "numbers                     3             1\n"
        "collect-1: rows             3             0\n"
    )


def test_beside_a_report_what_was_skipped_is_told_on_stderr(job_folder, capsys):
    write(job_folder / "skipping2.py", f"{SKIP}\ndef report(result):\n    print(len(result.collected['rows']))\n")
    assert main(["run", "skipping2.py"]) == 0
    assert capsys.readouterr() == ("2\n", "skipped: numbers 1\n")


def test_quiet_prints_nothing(job_folder, capsys):
    write(job_folder / "quiet.py", f"{SKIP}\ndef report(result):\n    print(result.collected)\n")
    assert main(["run", "quiet.py", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_request(job_folder, capsys):
    write(job_folder / "shown.py", COUNT)
    assert main(["run", "shown.py", "--option", "top=2", "--quiet", "--progress"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shown FINISHED ")
    assert main(["run", "shown.py", "--option", "top=2", "--quiet", "--no-progress"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_job_may_say_whether_its_progress_is_shown(job_folder, capsys):
    write(
        job_folder / "showing.py",
        "def build(env):\n    env.progress = True\n    env.from_collection([1]).collect('a')\n",
    )
    assert main(["run", "showing.py"]) == 0
    assert capsys.readouterr().err.startswith("showing FINISHED ")
    for flag in ("--no-progress", "--quiet"):
        assert main(["run", "showing.py", flag]) == 0
        assert capsys.readouterr().err == ""


def test_parallelism_is_that_of_the_environment(job_folder, capsys):
    job = """
    def build(env):
        env.from_collection(range(9)).map(lambda n, ctx: ctx.parallelism).collect("seen")

    def report(result):
        print(set(result.collected["seen"]))
    """
    write(job_folder / "parallel.py", job)
    assert main(["run", "parallel.py", "--parallelism", "3"]) == 0
    assert capsys.readouterr().out == "{3}\n"
    assert main(["run", "parallel.py", "--parallelism", "0"]) == 2
    assert "parallelism of 'parallel' must be a whole number of at least 1, not 0" in capsys.readouterr().err


# --- explain, draw, help ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "draw"])
def test_the_plan_is_that_of_the_environment(job_folder, capsys, command):
    write(job_folder / "planned.py", COUNT)
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
