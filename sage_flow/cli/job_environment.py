"""What `sage-flow submit` gives the processes of a job on the cluster: packages, and variables of the environment."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from sage_flow.errors import PipelineError

__all__ = ["environment_set", "requirements_of", "variables_of"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHER_FILES: Final = ("-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-f", "--find-links")
_IS_PATH: Final = ("./", "../", "/", "file:")


def variables_of(given: Sequence[str]) -> dict[str, str]:
    """The variables of texts like "REGION=eu"; a value may be empty and may have "=" in it. Raises PipelineError.

    >>> variables_of(["REGION=eu", "QUERY=a=b", "EMPTY="])
    {'REGION': 'eu', 'QUERY': 'a=b', 'EMPTY': ''}
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise PipelineError(f"--env {text}: write --env NAME=VALUE")
        if not _NAME.fullmatch(name):
            raise PipelineError(
                f"--env {text}: {name!r} is no name of a variable: letters, digits and _, and no digit first"
            )
        if name in found:
            raise PipelineError(f"--env {name} is given twice")
        found[name] = value
    return found


def requirements_of(path: str) -> list[str]:
    """The lines of a requirements file, without comments. Raises PipelineError for what cannot travel.

    The file is read on this machine. Only its lines go to the cluster, so none of them may name another file.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise PipelineError(f"--requirements {path}: cannot read it: {why}") from None
    found = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if not line:
            continue
        if line.endswith("\\"):
            raise PipelineError(f"--requirements {path}, line {number}: a line that continues: write it as one line")
        if re.split(r"[\s=]", line)[0] in _OTHER_FILES or line.startswith(_IS_PATH):
            raise PipelineError(
                f"--requirements {path}, line {number}: {line!r} names another file, which does not travel: write the"
                " packages themselves"
            )
        found.append(line)
    if not found:
        raise PipelineError(f"--requirements {path}: it names no package")
    return found


@contextlib.contextmanager
def environment_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these variables in this process while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
