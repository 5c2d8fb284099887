"""The walk-through of docs/fault-tolerance.md: its commands kill a job and continue it to the same answer."""

from __future__ import annotations

import re

import pytest
from job_folder import ROOT
from page_shell import run_in_shell

PATIENCE_S = 300


def commands() -> list[str]:
    page = (ROOT / "docs/fault-tolerance.md").read_text("utf-8")
    chapter = page.partition("## A job that is killed, and the same answer")[2].partition("\n## ")[0]
    block = re.search(r"```console\n(.*?)```", chapter, re.DOTALL)
    assert block is not None
    return re.findall(r"^\$ (.*)$", block[1], re.MULTILINE)


@pytest.mark.slow
def test_the_walk_through_works_as_written(tmp_path):
    """Each command is run in turn by one shell, in a folder with the jobs of the project."""
    for folder in ("jobs", "operators"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    told = commands()
    assert sum("kill -9" in command for command in told) == 1
    script = "\n".join(line for command in told for line in (command, 'echo "exit code $?"'))
    done = run_in_shell(script, tmp_path, PATIENCE_S)
    assert re.findall(r"exit code (\d+)", done.stdout) == ["0"] * len(told), done.stdout + done.stderr
    reports = [line for line in done.stdout.splitlines() if line.startswith("most visited:")]
    assert len(reports) == 3  # that of the run which was killed is missing
    assert len(set(reports)) == 1
    assert "the same answer" in done.stdout
    assert re.search(r"^job 'visits', run \S+: open$", done.stdout, re.MULTILINE)
    assert "whose end is not recorded" in done.stderr
    assert "has finished; nothing is run or published again" in done.stderr
