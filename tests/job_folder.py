"""For tests of job files: a folder to write them in, and programs started in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120


@pytest.fixture(name="job_folder")
def fresh_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder, which is the working directory; what a job imports is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    """Write a file, its folders too; the text may be indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def start(
    *arguments: str,
    cwd: Path | str,
    stdout: Any = subprocess.PIPE,
    here: bool = True,
    warnings: str = "error",
    **options: Any,
) -> subprocess.Popen[str]:
    """Start Python with these arguments. `here`: `-c` and `-m` import from `cwd`, too."""
    if not here:
        command = f"import sys; sys.path.remove(''); {arguments[1]}"
        arguments = (arguments[0], command, *arguments[2:])
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": warnings},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait; return the exit code, the output and the errors."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def await_announced(process: subprocess.Popen[str]) -> None:
    """Wait until other processes can find the job of this program."""
    from sage_flow.executors.running_jobs import running_jobs

    for _ in range(100 * PATIENCE_S):
        if any(job.pid == process.pid for job in running_jobs()):
            return
        assert process.poll() is None
        threading.Event().wait(0.01)
    raise AssertionError("the job was not announced")
