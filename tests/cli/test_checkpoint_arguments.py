"""`--checkpoints`, `--checkpoint-interval`, `--restore`, `--allow-dropped`: what they mean, and what they refuse."""

import argparse
from datetime import timedelta

import pytest
from job_folder import fresh_folder, write  # noqa: F401 - a fixture

from sage_flow import ExponentialDelay, LocalEnvironment
from sage_flow.checkpoint.options import CheckpointOptions
from sage_flow.cli import main
from sage_flow.cli.checkpoint_arguments import apply_checkpoints, duration
from sage_flow.cli.program import _parser
from sage_flow.cli.submit_command import _passed_on

JOB = """
    from datetime import timedelta

    def build(env):
        env.from_collection([1, 2]).collect("rows")
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("500ms", 0.5), ("2m", 120), ("2min", 120), ("1h", 3600), ("0.5s", 0.5), ("1 s", 1)],
)
def test_the_command_line_reads_durations_with_units(text, seconds):
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["10", "", "s", "-1s", "0s", "0.1ms", "1 day", "1s500ms"])
def test_a_duration_without_a_unit_or_a_length_is_refused(text, job_folder, capsys):
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)
    write(job_folder / "timed.py", JOB)
    with pytest.raises(SystemExit) as exit_:
        main(["run", "timed.py", "--checkpoints", "c", f"--checkpoint-interval={text}"])
    assert exit_.value.code == 2
    assert "--checkpoint-interval" in capsys.readouterr().err


def applied(*words, own=None):
    env = LocalEnvironment("job")
    if own is not None:
        env.enable_checkpointing(**own)
    apply_checkpoints(env, _parser().parse_args(["run", "job.py", *words]))
    return env._options


def test_without_options_the_job_stays_as_it_is():
    assert applied().checkpoints is None
    own = {"storage": "/own", "interval": timedelta(seconds=3)}
    assert applied(own=own).checkpoints == CheckpointOptions("/own", 3.0)


def test_checkpoints_are_enabled_by_their_place():
    options = applied("--checkpoints", "memory://here")
    assert options.checkpoints == CheckpointOptions("memory://here")
    assert isinstance(options.restart, ExponentialDelay)


def test_options_take_the_place_of_what_the_job_says_and_of_nothing_else():
    own = {
        "storage": "/own",
        "interval": timedelta(seconds=3),
        "timeout": timedelta(minutes=1),
        "min_pause": timedelta(milliseconds=5),
        "tolerable_failures": 7,
        "keep": 9,
        "restore": "latest",
    }
    mine = CheckpointOptions("/own", 3.0, 60.0, 0.005, 7, 9, "latest", False)
    changed = applied("--checkpoint-interval", "20ms", "--allow-dropped", own=own).checkpoints
    assert changed == CheckpointOptions(**{**fields(mine), "interval_s": 0.02, "allow_dropped": True})
    changed = applied("--checkpoints", "/mine", "--restore", "/x/checkpoints/a1-n1", own=own).checkpoints
    assert changed == CheckpointOptions(**{**fields(mine), "storage": "/mine", "restore": "/x/checkpoints/a1-n1"})


def fields(options):
    return {name: getattr(options, name) for name in CheckpointOptions.__dataclass_fields__}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--restore", "latest"], "--restore is for jobs with checkpoints"),
        (["--checkpoint-interval", "1s"], "--checkpoint-interval is for jobs with checkpoints"),
        (["--allow-dropped"], "--allow-dropped is for jobs with checkpoints"),
        (["--checkpoints", "c", "--allow-dropped"], "it needs --restore latest"),
        (["--checkpoints", "c", "--restore", "c/none"], "names no checkpoint"),
        (["--checkpoints", ""], "must be a path or a URL"),
        (["--checkpoints", "http://host/x"], "http"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(words, told, job_folder, capsys):
    write(job_folder / "refused.py", JOB)
    assert main(["run", "refused.py", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith("sage-flow: error: "), told in err) == ("", True, True), err


def test_submit_passes_the_options_on():
    words = ["--checkpoints", "s3://b/c", "--checkpoint-interval", "1.5s", "--restore", "latest", "--allow-dropped"]
    passed = _passed_on(_parser().parse_args(["submit", "job.py", *words]))
    assert passed == [*words[:3], "1500ms", *words[4:]]
    read = _parser().parse_args(["run", "job.py", *passed])
    assert read.checkpoint_interval == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    "words", [["--checkpoints", "here"], ["--checkpoints", "/x", "--restore", "x/checkpoints/a1-n1"]]
)
def test_submit_refuses_a_path_that_is_another_folder_on_the_cluster(words, job_folder, capsys):
    write(job_folder / "sent.py", JOB)
    assert main(["submit", "sent.py", "--address", "http://127.0.0.1:1", *words]) == 2
    assert "give an absolute path" in capsys.readouterr().err


def test_submit_checks_the_options_before_anything_travels(job_folder, capsys):
    write(job_folder / "unsent.py", JOB)
    assert main(["submit", "unsent.py", "--address", "http://127.0.0.1:1", "--restore", "latest"]) == 2
    assert "--restore is for jobs with checkpoints" in capsys.readouterr().err
