"""A new project, written from the templates in this folder."""

from __future__ import annotations

import importlib.resources
import os
import re
from pathlib import Path
from string import Template

from sage_flow._version import __version__
from sage_flow.errors import PipelineError

__all__ = ["create_project"]

_TEMPLATE_OF = {
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "pyproject.toml": "pyproject.toml",
    "operators/__init__.py": "operators.py",
    "operators/text.py": "text.py",
    "jobs/example.py": "job.py",
    "tests/conftest.py": "conftest.py",
    "tests/test_example.py": "test.py",
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


def create_project(path: str | os.PathLike[str]) -> list[str]:
    """Make the folder `path`, unless it is there and empty, and write a project into it; return its files.

    Raises PipelineError if the name of the folder is none for a project, if there is something in it, or if it
    cannot be written.
    """
    folder = Path(path).absolute()
    if not _NAME.fullmatch(folder.name):
        raise PipelineError(
            f"{folder.name!r} cannot be the name of a project: letters, digits, - and _ can, a letter first"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PipelineError(f"{path} exists and is not an empty folder: choose another name")
    templates = importlib.resources.files(__name__)
    try:
        for file, template in _TEMPLATE_OF.items():
            text = templates.joinpath(f"{template}.tmpl").read_text("utf-8")
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(text).substitute(project=folder.name, version=__version__), "utf-8")
    except OSError as error:
        raise PipelineError(f"{path} cannot be written: {error}") from None
    return list(_TEMPLATE_OF)
