"""A command that is run on the cluster, because only its job server can be reached from here.

A short submission runs `python -m sage_flow.cli.relayed COMMAND...` there. Its log has stdout, stderr and what Ray
itself says in one stream, so the command's output travels in lines of its own: a mark, then JSON.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO

from sage_flow.cli.submission import JobServer, metadata_of
from sage_flow.errors import ClusterError

__all__ = ["Unpacker", "run_on_cluster", "run_packed"]

_MARK: Final = "\x1e"
_PIECE: Final = 1500  # characters of a line, which the job server cuts at 20,000; JSON may need 12 for one
_TOLD_LINES: Final = 5


def run_on_cluster(address: str, command: Sequence[str]) -> int:
    """Run `sage-flow COMMAND` there, print what it prints, return its exit code. Raises ClusterError."""
    server = JobServer(address)
    submission = server.submit(
        shlex.join(["python", "-m", "sage_flow.cli.relayed", *command]), metadata_of("sage-flow", command[0])
    )
    unpacker = Unpacker(sys.stdout, sys.stderr)
    try:
        server.follow(submission, unpacker.feed)
    finally:
        server.forget(submission)
    if unpacker.code is None:
        said = "\n".join(unpacker.noise[-_TOLD_LINES:])
        raise ClusterError(f"the cluster at {address} could not run `sage-flow {shlex.join(command)}`:\n{said}")
    return unpacker.code


def run_packed(run: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command of `sage-flow` by `run`, its `main`, and pack what it prints."""
    packed, errors = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Packer(packed, "out"), _Packer(packed, "err")
    try:
        code = run(argv)
    except SystemExit as exit_:  # of argparse
        code = exit_.code if isinstance(exit_.code, int) else 2
    finally:
        sys.stdout, sys.stderr = packed, errors
    _pack(packed, "code", code)
    return code


class _Packer(io.TextIOBase):
    def __init__(self, packed: TextIO, kind: str) -> None:
        self._packed = packed
        self._kind = kind

    def write(self, text: str) -> int:
        for start in range(0, len(text), _PIECE):
            _pack(self._packed, self._kind, text[start : start + _PIECE])
        return len(text)


def _pack(packed: TextIO, kind: str, content: Any) -> None:
    packed.write(f"{_MARK}{json.dumps([kind, content])}\n")
    packed.flush()


class Unpacker:
    """Takes the log of such a command apart.

    >>> unpacker = Unpacker(sys.stdout, sys.stderr)
    >>> unpacker.feed('noise\\n\\x1e["out", "he')
    >>> unpacker.feed('llo"]\\n\\x1e["code", 2]\\n')
    hello
    >>> unpacker.code, unpacker.noise
    (2, ['noise'])

    Attributes:
        code: the command's exit code, once it has come.
        noise: lines that are not the command's.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.code: int | None = None
        self.noise: list[str] = []
        self._streams = {"out": out, "err": err}
        self._rest = ""

    def feed(self, text: str) -> None:
        """The next piece of the log; it may end anywhere."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if not line.startswith(_MARK):
                self.noise.append(line)
                continue
            kind, content = json.loads(line[1:])
            if kind == "code":
                self.code = content
            else:
                print(content, end="", file=self._streams[kind], flush=True)
