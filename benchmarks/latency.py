"""How long one thing takes: the start of a process with a job in it."""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import sage_flow
from benchmarks.case import Case, Figure

__all__ = ["CASES"]

_JOB = """
import json
from sage_flow import LocalEnvironment
env = LocalEnvironment("start")
env.from_collection(range({size})).map(lambda n: n * n).collect("squares")
print(json.dumps(env.execute().collected["squares"]))
"""


def python(program: str) -> str:
    """Run a program in an interpreter of its own; return what it prints."""
    return subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout


def pass_by_hand(size: int) -> list[int]:
    python("pass")
    return [n * n for n in range(size)]


def start(size: int) -> list[int]:
    squares: list[int] = json.loads(python(_JOB.format(size=size)))
    return squares


def import_only(size: int) -> list[int]:
    python("import sage_flow")
    return [n * n for n in range(size)]


def _size(size: int, folder: Path) -> Any:
    # As pip does when it installs a package: else a process that may not write would compile it each time.
    compileall.compile_dir(Path(sage_flow.__file__).parent, quiet=1)
    return size


CASES = (
    Case(
        "start",
        "a process with a job of 10 records, against `python -c pass`",
        10,
        10,
        _size,
        pass_by_hand,
        start,
        figure=Figure.TIMES,
        bar=15.0,
        clock="wall",
        rounds=11,
    ),
    Case(
        "import",
        "`import sage_flow` in a process, against `python -c pass`",
        10,
        10,
        _size,
        pass_by_hand,
        import_only,
        figure=Figure.TIMES,
        clock="wall",
        rounds=11,
    ),
)
