"""What a user gets who installs sage_flow: from a checkout that is edited, or as a wheel. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE_S = 300

USER_CODE = """\
from sage_flow import LocalEnvironment

texts = LocalEnvironment("typed").from_collection([1, 2]).map(str)
reveal_type(texts)
texts.map(len, paralelism=2)
texts.key_by(len).count(on_error="skip")
texts.write_text("texts", parallelism=2, name="texts")
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "MYPY"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a build reads, where it may write."""
    folder = tmp_path_factory.mktemp("checkout")
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    shutil.copytree(ROOT / "sage_flow", folder / "sage_flow", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder, checkout, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


class EmptyEnvironment:
    """A virtual environment, into which `what` is installed; it finds our packages, but not our sage_flow."""

    def __init__(self, folder: Path, *what: str | Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self._ours = self.packages / "ours.pth"
        self._ours.write_text(sysconfig.get_path("purelib") + "\n")
        pip = [self.python, "-m", "pip", "install", "--quiet", "--ignore-installed"]
        run(*pip, "--no-deps", "--no-index", "--no-build-isolation", *what, cwd=folder)

    @contextlib.contextmanager
    def without_our_packages(self) -> Iterator[None]:
        """As long as the block runs there is sage_flow and nothing else."""
        hidden = self._ours.rename(self.folder / "ours.pth")
        try:
            yield
        finally:
            hidden.rename(self._ours)


@pytest.fixture(scope="module", params=["editable", "wheel"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    folder = tmp_path_factory.mktemp("installed") / "python"
    if request.param == "editable":
        return EmptyEnvironment(folder, "--editable", request.getfixturevalue("checkout"))
    return EmptyEnvironment(folder, request.getfixturevalue("wheel"))


def test_the_wheel_has_types_and_templates(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {f"sage_flow/{file.relative_to(ROOT / 'sage_flow')}" for file in (ROOT / "sage_flow").rglob("*")}
    wanted = {name for name in packaged if name.endswith((".py", ".tmpl", "py.typed"))}
    assert {"sage_flow/py.typed", "sage_flow/cli/scaffold/README.md.tmpl", "sage_flow/streams/plain.py"} <= wanted
    assert {name for name in names if ".dist-info/" not in name} == wanted


def test_a_new_project_runs_where_sage_flow_was_installed(installed, tmp_path):
    command = installed.folder / "bin" / "sage-flow"
    run(command, "new", "fresh", cwd=tmp_path)
    (tmp_path / "fresh" / "words.txt").write_text("b a\nb c b a\n")
    options = ("--option", "path=words.txt", "--option", "top=2")
    assert run(command, "run", "jobs/example.py", *options, cwd=tmp_path / "fresh").split() == ["3", "b", "2", "a"]


def test_types_reach_the_code_of_a_user(installed, tmp_path):
    (tmp_path / "user.py").write_text(USER_CODE)
    mypy = [sys.executable, "-m", "mypy", "--python-executable", installed.python, "--cache-dir", os.devnull]
    with installed.without_our_packages():  # Ray's would take mypy a minute
        told = run(*mypy, "user.py", cwd=tmp_path, code=1)
    assert 'user.py:4: note: Revealed type is "sage_flow.streams.plain.DataStream[' in told
    assert "DataStream[Any]" not in told
    assert 'user.py:5: error: Unexpected keyword argument "paralelism"' in told
    assert 'user.py:6: error: Unexpected keyword argument "on_error" for "count"' in told
    assert "user.py:7" not in told
