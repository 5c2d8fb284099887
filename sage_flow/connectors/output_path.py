"""Where a file sink writes: what is refused as its path, and the names of its parts."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from sage_flow.connectors.compression import check_can_write, without_ending
from sage_flow.connectors.input_paths import Path
from sage_flow.connectors.remote_files import is_url
from sage_flow.errors import InputError

__all__ = [
    "Part",
    "check_alone",
    "check_output",
    "is_device",
    "part_path",
    "parts_of",
    "rolled_numbers",
    "rolled_path",
    "rolled_pattern",
]

_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")


class Part(NamedTuple):
    """A file of one of `parallelism` subtasks."""

    path: str
    parallelism: int


def check_output(given: Path) -> str:
    """Return the absolute path of an output. Raises InputError if no file sink can write there."""
    shown = os.fspath(given)
    path = os.path.abspath(os.path.expanduser(shown))
    if is_url(shown):
        raise InputError(f"{shown}: is a URL, and sinks write only files; write a file and copy it, or write a Sink")
    if os.path.isdir(path) or shown.endswith(os.sep):
        raise InputError(f"{shown}: is a directory; name a file in it")
    if path.startswith(_STREAMS):
        raise InputError(f"{shown}: is a stream of this process; use .print(), which also works where subtasks run")
    target = os.path.realpath(path)
    linked = f"links to {target}, and " if os.path.islink(path) else ""
    if not os.path.isdir(folder := os.path.dirname(target)):
        raise InputError(f"{shown}: {linked}there is no directory {folder}; make it first")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as fault:  # a circle of links, a name that is too long
        raise InputError(f"{shown}: {fault.strerror}") from fault
    kinds = ((stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"), (stat.S_ISBLK, "block device"))
    if kind := next((name for test, name in kinds if test(mode)), None):
        raise InputError(
            f"{shown}: is a {kind}, and a file sink publishes whole files; write a file, or write to it in for_each"
        )
    check_can_write(path)
    return path


def is_device(path: str) -> bool:
    """Whether `path` is a character device, such as /dev/null: it is written through, there is nothing to publish."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def part_path(path: str, index: int, count: int) -> str:
    """Return the file of subtask `index` of `count`: `path` itself if there is one."""
    if count == 1:
        return path
    stem, suffix = _split(path)
    return f"{stem}-{index:05d}-of-{count:05d}{suffix}"


def rolled_path(path: str, index: int, count: int, number: int) -> str:
    """Return the part `number` of subtask `index` of `count`; by name they are in the order of their numbers."""
    stem, suffix = _split(path)
    return f"{stem}-{index:05d}-of-{count:05d}-{number:013d}{suffix}"


def rolled_pattern(path: str) -> str:
    """Return the glob of all parts of an output that rolls."""
    stem, suffix = _split(path)
    return f"{stem}-*-of-*-*{suffix}"


def rolled_numbers(path: str) -> dict[str, int]:
    """The parts of an output of this path that rolls, of whatever run, and their numbers."""
    folder, name = os.path.split(path)
    stem, suffix = _split(name)
    named = re.compile(rf"{re.escape(stem)}-\d{{5,}}-of-\d{{5,}}-(\d{{13,}}){re.escape(suffix)}")
    matches = (named.fullmatch(entry) for entry in os.listdir(folder))
    return {os.path.join(folder, match[0]): int(match[1]) for match in matches if match}


def parts_of(path: str) -> Iterator[Part]:
    """The parts of outputs of this path that are there, of whatever run."""
    folder, name = os.path.split(path)
    stem, suffix = _split(name)
    named = re.compile(rf"{re.escape(stem)}-\d{{5,}}-of-(\d{{5,}}){re.escape(suffix)}")
    for entry in os.listdir(folder):
        if match := named.fullmatch(entry):
            yield Part(os.path.join(folder, entry), int(match[1]))


def check_alone(path: str, parallelism: int, *, rolls: bool = False) -> None:
    """Raises InputError if a reader would take what another run left for a part of this output.

    An output that rolls adds to the parts that are there, of any parallelism.
    """
    cure = "a reader would take both for one output: remove the old parts, or write to another name"
    foreign = sorted(part.path for part in parts_of(path) if rolls or part.parallelism != parallelism)
    if (rolls or parallelism > 1) and os.path.lexists(path):
        foreign.insert(0, path)
    if foreign:
        here = "this output rolls" if rolls else f"the parallelism is {parallelism}"
        there = "without roll=" if rolls else "with another parallelism"
        raise InputError(f"{path}: {here}, and {_exist(foreign)}, from a run {there}; {cure}")
    if not rolls and (rolled := sorted(rolled_numbers(path))):
        raise InputError(f"{path}: this output does not roll, and {_exist(rolled)}, from a run with roll=; {cure}")


def _exist(paths: list[str]) -> str:
    others = f" and {len(paths) - 1} more exist" if len(paths) > 1 else " exists"
    return os.path.basename(paths[0]) + others


def _split(path: str) -> tuple[str, str]:
    """`a/out` and `.csv.gz` of `a/out.csv.gz`."""
    plain = without_ending(path)
    stem, suffix = os.path.splitext(plain)
    return stem, suffix + path[len(plain) :]
