"""Two sinks that write one file, or a sink that writes a file which the job reads: refused before it runs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sage_flow.errors import PipelineError
from sage_flow.functions import Sink, Source
from sage_flow.plan.graph import Operator

__all__ = ["check_outputs", "file_identity"]


def check_outputs(operators: Iterable[tuple[Operator, int]]) -> None:
    """Raises PipelineError for the first file that two operators cannot share. The numbers are their parallelism.

    Reading one's own output would work once: a second run, or a restart behind the publication, would read what the
    first has written.
    """
    writers: dict[object, tuple[Operator, str]] = {}
    readers: list[tuple[Operator, Source[object]]] = []
    for operator, parallelism in operators:
        for function in operator.functions:
            if isinstance(function, Source):
                readers.append((operator, function))
            elif isinstance(function, Sink):
                _add_writer(writers, operator, function.files_written(parallelism))
    for operator, source in readers if writers else ():
        for path in source.files_read():
            if (found := writers.get(file_identity(path))) is not None:
                writer, written = found
                raise PipelineError(
                    f"{writer.name!r} ({writer.location}) writes {written}, which {operator.name!r}"
                    f" ({operator.location}) reads: write to another name, and rename it when the job has finished"
                )


def _add_writer(writers: dict[object, tuple[Operator, str]], operator: Operator, paths: Iterable[str]) -> None:
    for path in paths:
        other, _ = writers.setdefault(file_identity(path), (operator, path))
        if other is not operator:
            raise PipelineError(
                f"{other.name!r} ({other.location}) and {operator.name!r} ({operator.location}) both write {path}: give"
                " one of them another path, or write the union of both streams"
            )


def file_identity(path: str) -> object:
    """Equal for all names of one file, whether it exists or not."""
    try:
        entry = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return entry.st_dev, entry.st_ino
