"""A notebook's kernel for tests: cells run in it one after another, as a user runs them."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

_PATIENCE_S = 120
_ROOT = Path(__file__).parents[1]


class Kernel:
    """A running kernel; its user is not told which cells are edited ones and which are new."""

    def __init__(self, client: NotebookClient) -> None:
        self._client = client

    def run(self, source: str) -> Any:
        """Run a cell; return what its last expression shows: texts by MIME type. Raises what the cell raises."""
        notebook = self._client.nb
        notebook.cells.append(nbformat.v4.new_code_cell(source))
        self._client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
        shown = [output["data"] for output in notebook.cells[-1].outputs if output.output_type == "execute_result"]
        return shown[0] if shown else None

    def text(self, source: str) -> str:
        """Run a cell; return what its last expression shows as plain text."""
        return str(self.run(source)["text/plain"])

    def error(self, source: str) -> str:
        """Run a cell, which raises; return the text of that."""
        try:
            self.run(source)
        except CellExecutionError as error:
            return f"{error.ename}: {error.evalue}"
        raise AssertionError("the cell raises nothing")


@contextlib.contextmanager
def started_kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel whose working directory is `folder`, and that imports this sage_flow."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "IPYTHONDIR": str(folder), "JUPYTER_PLATFORM_DIRS": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter, about itself
        client = NotebookClient(
            nbformat.v4.new_notebook(), timeout=_PATIENCE_S, startup_timeout=_PATIENCE_S, kernel_name="python3"
        )
        client.create_kernel_manager()
        with client.setup_kernel(cwd=str(folder), env=environment):
            yield Kernel(client)
