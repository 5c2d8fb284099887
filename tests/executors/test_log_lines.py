"""What processes of a job log: one form of line, as the environment says, without records if that is asked for."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import textwrap

import pytest

from sage_flow import LocalEnvironment
from sage_flow.cli.program import main
from sage_flow.errors import PipelineError
from sage_flow.executors.log_lines import apply_settings, check_settings, log_lines

JOB = """
import logging

def parse(text):
    logging.getLogger("jobs.parse").warning("a short one")
    return int(text)

def build(env):
    env.from_collection(["1", "secret-77"]).map(parse, name="parse").collect("rows")
"""


@pytest.fixture(autouse=True)
def as_before():
    """The root logger, and what errors show, are as before."""
    root, ours = logging.getLogger(), logging.getLogger("sage_flow")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SAGE_FLOW_RECORD_CHARS", raising=False)
        apply_settings()


def run_job(tmp_path, **settings):
    """Run the job in a process of its own; what it prints to stderr."""
    (tmp_path / "parsing.py").write_text(textwrap.dedent(JOB))
    words = [sys.executable, "-m", "sage_flow.cli", "run", "--quiet", "parsing.py"]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    return done.stderr


def test_a_line_says_when_how_grave_which_job_and_which_subtask(tmp_path):
    lines = [line for line in run_job(tmp_path, SAGE_FLOW_LOG_LEVEL="info").splitlines() if "a short one" in line]
    assert len(lines) == 2
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING job=parsing subtask=.*parse.*\[1/1\] jobs.parse: a"
    assert re.match(form, lines[0]), lines[0]


def test_as_json_the_operator_is_a_field_of_its_own(tmp_path):
    lines = run_job(tmp_path, SAGE_FLOW_LOG_FORMAT="json").splitlines()
    told = json.loads(next(line for line in lines if "a short one" in line))
    assert told["subtask"] == f"{told['operator']}[1/1]"
    assert "parse" in told["operator"]
    assert (told["job"], told["level"], told["logger"]) == ("parsing", "WARNING", "jobs.parse")
    assert told["message"] == "a short one"


def test_without_settings_python_logs_as_it_does(tmp_path):
    assert "a short one" in run_job(tmp_path).splitlines()


def test_a_level_leaves_out_what_is_less_grave(tmp_path):
    assert "a short one" not in run_job(tmp_path, SAGE_FLOW_LOG_LEVEL="ERROR")


def test_only_what_sage_flow_says_at_info_is_told_without_a_level(capsys):
    log_lines("quiet")
    logging.getLogger("somebody.else").info("a request")
    logging.getLogger("sage_flow.checkpoints").info("a run begins")
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["a run begins"]


def test_sage_flow_logs_no_record(tmp_path):
    job = """
    from datetime import timedelta

    def build(env):
        env.enable_checkpointing("kept", interval=timedelta(milliseconds=20), restore="latest")
        texts = env.from_iterable(["secret-77"] * 50, max_rate=100).key_by(lambda text: text)
        texts.map(int, on_error="skip").collect("rows")
    """
    (tmp_path / "discreet.py").write_text(textwrap.dedent(job))
    words = [sys.executable, "-m", "sage_flow.cli", "run", "discreet.py"]
    told = {**os.environ, "SAGE_FLOW_LOG_LEVEL": "DEBUG"}
    done = subprocess.run(words, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "nothing is stored below" in done.stderr
    assert "secret" not in done.stderr


def notes_of_failure(monkeypatch, chars):
    monkeypatch.setenv("SAGE_FLOW_RECORD_CHARS", chars)
    apply_settings()
    env = LocalEnvironment("hiding")
    env.from_collection(["secret-77"]).map(lambda text: text + 1, name="add").collect()
    with pytest.raises(TypeError) as caught:
        env.execute(progress=False)
    return "\n".join(caught.value.__notes__)


def test_records_can_be_hidden_in_errors(monkeypatch):
    notes = notes_of_failure(monkeypatch, "0")
    assert "secret" not in notes
    assert "record    <str, hidden>" in notes


def test_records_can_be_shortened_in_errors(monkeypatch):
    assert "record    'secr..." in notes_of_failure(monkeypatch, "5")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SAGE_FLOW_LOG_LEVEL", "LOUD", "must be one of DEBUG, INFO, WARNING, ERROR, not 'LOUD'"),
        ("SAGE_FLOW_LOG_FORMAT", "xml", "must be one of text, json, not 'xml'"),
        ("SAGE_FLOW_RECORD_CHARS", "-1", "must be a number of characters, 0 to hide records, not '-1'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, value, told, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match=told):
        check_settings()
    file = f"misset_{name.lower()}.py"
    (tmp_path / file).write_text("def build(env): env.from_collection([1]).collect()")
    monkeypatch.chdir(tmp_path)
    assert main(["run", file]) == 2
    assert told in capsys.readouterr().err


def test_a_process_that_gets_another_job_names_that_one(capsys):
    log_lines("first")
    log_lines("second")
    logging.getLogger("sage_flow").warning("it begins")
    (line,) = capsys.readouterr().err.splitlines()
    assert " WARNING job=second sage_flow: it begins" in line
