"""`sage-flow submit --requirements FILE --env NAME=VALUE`: what travels, and what is refused before anything does."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from job_folder import write

from sage_flow.cli.job_environment import requirements_of, variables_of
from sage_flow.cli.program import main
from sage_flow.errors import PipelineError

JOB = """
import os
from typing import ClassVar

def build(env, options):
    env.from_collection([os.environ["SAGE_FLOW_TEST_REGION"]]).collect("region")
"""


class Server:
    """A job server that keeps what is submitted."""

    address = "http://head:8265"
    submitted: ClassVar[list] = []

    def __init__(self, address):
        pass

    def submit(self, command, metadata, runtime_env):
        self.submitted.append(runtime_env)
        return "raysubmit_1"


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sage_flow.cli.submission.JobServer", Server)
    monkeypatch.setattr(Server, "submitted", [])
    return Server.submitted


def submit(*flags, file="regional.py"):
    return main(["submit", file, "--detach", "--address", "http://head:8265", *flags])


def test_variables_and_packages_travel_and_the_check_of_the_job_has_the_variables(submitted, tmp_path, capsys):
    write(tmp_path / "regional.py", JOB)
    write(tmp_path / "requirements.txt", "# models\nsnowballstemmer>=2.2  # stems\n\nhttpx==0.27\n")
    assert submit("--env", "SAGE_FLOW_TEST_REGION=eu=1", "--requirements", "requirements.txt") == 0, capsys.readouterr()
    (runtime_env,) = submitted
    assert runtime_env["env_vars"] == {"SAGE_FLOW_TEST_REGION": "eu=1"}
    assert runtime_env["pip"] == ["snowballstemmer>=2.2", "httpx==0.27"]
    assert "SAGE_FLOW_TEST_REGION" not in os.environ


def test_without_them_the_environment_of_a_submission_is_as_before(submitted, tmp_path):
    write(tmp_path / "anywhere.py", "def build(env, options): env.from_collection([1]).collect()")
    assert submit(file="anywhere.py") == 0
    assert set(submitted[0]) == {"working_dir", "excludes"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["REGION"], "--env REGION: write --env NAME=VALUE"),
        (["=eu"], "'' is no name of a variable"),
        (["MY-REGION=eu"], "'MY-REGION' is no name of a variable"),
        (["1ST=eu"], "'1ST' is no name of a variable"),
        (["A=1", "A=2"], "--env A is given twice"),
    ],
)
def test_what_is_no_variable_is_refused(given, told):
    with pytest.raises(PipelineError, match=told):
        variables_of(given)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("httpx\n-r more.txt\n", "line 2: '-r more.txt' names another file"),
        ("--constraint=pins.txt\n", "line 1: '--constraint=pins.txt' names another file"),
        ("./wheels/mine.whl\n", "names another file, which does not travel"),
        ("-e .\n", "names another file"),
        ("httpx \\\n  >=0.27\n", "line 1: a line that continues"),
        ("# nothing\n\n", "it names no package"),
    ],
)
def test_requirements_that_cannot_travel_are_refused(text, told, tmp_path):
    with pytest.raises(PipelineError, match=told):
        requirements_of(str(write(tmp_path / "requirements.txt", text)))


@pytest.mark.parametrize("flags", [["--env", "REGION"], ["--requirements", "none.txt"], ["--requirements", "."]])
def test_bad_input_ends_the_command_before_anything_is_sent(flags, submitted, tmp_path, capsys):
    write(tmp_path / "regional.py", JOB)
    assert submit(*flags) == 2
    assert capsys.readouterr().err.startswith(f"sage-flow: error: {flags[0]} {flags[1]}: ")
    assert submitted == []


def test_a_requirements_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match="it is no text in UTF-8"):
        requirements_of(str(path))
