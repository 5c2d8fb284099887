"""A new project: its files, its tests and its job, and where it is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sage_flow.cli.scaffold
from sage_flow.cli import main
from sage_flow.cli.scaffold import create_project
from sage_flow.errors import PipelineError

ROOT = Path(__file__).parents[2]


def files_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def run(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_tests_and_the_job_of_a_new_project_run(tmp_path):
    run("-m", "sage_flow.cli", "new", "fresh_project", cwd=tmp_path)
    project = tmp_path / "fresh_project"
    assert " passed" in run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", cwd=project)
    (project / "words.txt").write_text("b a\nb c b a\n")
    options = ("--option", "path=words.txt", "--option", "top=2")
    by_command = run("-m", "sage_flow.cli", "run", "jobs/example.py", *options, cwd=project)
    assert by_command.split() == ["3", "b", "2", "a"]
    assert run("jobs/example.py", *options, cwd=project) == by_command


def test_new_lists_what_it_made_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "folder/named-project"]) == 0
    out = capsys.readouterr().out
    for file in files_in(tmp_path / "folder" / "named-project"):
        assert f"  {file}\n" in out
    assert "cd folder/named-project\n" in out
    assert "# named-project\n" in (tmp_path / "folder" / "named-project" / "README.md").read_text()


def test_every_template_is_used_and_filled_in(tmp_path):
    made = create_project(tmp_path / "fresh")
    assert sorted(made) == files_in(tmp_path / "fresh")
    templates = list(Path(sage_flow.cli.scaffold.__file__).parent.glob("*.tmpl"))
    assert len(templates) == len(made)
    for file in made:
        assert "$" not in (tmp_path / "fresh" / file).read_text()


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    assert create_project(tmp_path / "empty") == create_project(tmp_path / "other")


@pytest.mark.parametrize("name", ["1st", "a b", "ä", "-x", "a.b", "_", "name\n"])
def test_a_bad_name_is_refused(tmp_path, name):
    with pytest.raises(PipelineError, match="cannot be the name of a project"):
        create_project(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_touched(tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for name in ("full", "file"):
        assert main(["new", name]) == 2
        assert capsys.readouterr() == (
            "",
            f"sage-flow: error: {name} exists and is not an empty folder: choose another name\n",
        )
    assert files_in(tmp_path) == ["file", "full/README.md"]
    assert (tmp_path / "full" / "README.md").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="cannot be written: "):
        create_project(tmp_path / "file" / "project")
