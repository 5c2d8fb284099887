"""docs/tutorial.md: its files and commands work as written, in their order, up to the part about the cluster."""

from __future__ import annotations

import re

import pytest
from job_folder import ROOT
from page_shell import run_in_shell

PATIENCE_S = 300
FIRST, END = "## 2. A project", "## 9. On a cluster"
"""What comes before installs sage_flow, which is done, and what comes behind starts a Ray on fixed ports."""


def script() -> tuple[str, list[str]]:
    """One script of all files and commands, and the lines that the page promises."""
    page = (ROOT / "docs/tutorial.md").read_text("utf-8")
    walk = FIRST + page.partition(FIRST)[2].partition(END)[0]
    lines, promised = [], []
    for file, content, commands in re.findall(
        r"`([\w/]+\.py)`:\n\n```python\n(.*?)^```|^```console\n(.*?)^```", walk, re.DOTALL | re.MULTILINE
    ):
        if file:
            lines += [f"cat > {file} <<'END_OF_FILE'", content + "END_OF_FILE"]
        for line in commands.splitlines():
            if line.startswith("$ "):
                lines += [line[2:], f'code=$?; [ $code = 0 ] || echo "exit code $code of {line[2:22]}"']
            else:
                promised.append(line)
    return "\n".join(lines), promised


@pytest.mark.slow
def test_the_tutorial_works_as_written(tmp_path):
    commands, promised = script()
    done = run_in_shell(commands, tmp_path, PATIENCE_S)
    told = done.stdout + done.stderr
    assert "exit code" not in done.stdout, told
    assert len(promised) > 10
    left = done.stdout.splitlines()
    for line in promised:
        assert line in left, f"{line!r} is missing, or not in its place:\n{told}"
        left = left[left.index(line) + 1 :]
