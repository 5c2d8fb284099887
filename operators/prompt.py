"""Lines that somebody types, asked for one at a time."""

from __future__ import annotations

import os
import select

from sage_flow import END, IDLE, RuntimeContext, Source
from sage_flow.errors import InputError
from sage_flow.functions import SourceSignal

__all__ = ["Prompt"]

_BLOCK = 4096  # bytes


class Prompt(Source[str]):
    """Gives the lines of stdin, and shows a prompt before each; ends at an empty line or at the end of the file.

    It asks when it is called, and a source is called again when its chain is through with the last line: what is
    chained behind it, in one subtask each, has answered that line before the next prompt appears. It looks
    whether a line is there and never waits for one, so that the job can be cancelled meanwhile. (A source with
    `blocking = True` may wait, but its thread reads, and would ask, ahead.)

    Where stdin is no terminal, each line is printed behind its prompt, so that the output reads the same.

    Args:
        prompt: what to show.
        stdin: the file descriptor to read.
    """

    def __init__(self, prompt: str = "> ", stdin: int = 0) -> None:
        self._prompt = prompt
        self._stdin = stdin

    def open(self, ctx: RuntimeContext) -> None:
        try:
            self._is_terminal = os.isatty(self._stdin)
            os.fstat(self._stdin)
        except OSError as fault:
            raise InputError(f"stdin cannot be read: {fault.strerror}; a dialogue needs one") from fault
        self._read = b""
        self._is_over = False
        self._is_asked = False

    def next_batch(self) -> list[str] | SourceSignal:
        self._ask()
        line = self._line()
        if line is None:
            return IDLE
        text = line.decode("utf-8", errors="replace").strip()
        if not text:
            return END
        if not self._is_terminal:
            print(text, flush=True)
        self._is_asked = False
        return [text]

    def close(self) -> None:
        if self._is_asked:  # and not answered: what comes next begins a line
            print(flush=True)

    def _ask(self) -> None:
        if not self._is_asked:
            print(self._prompt, end="", flush=True)
            self._is_asked = True

    def _line(self) -> bytes | None:
        """Return the next line if it is there, without waiting; at the end of the file what is left."""
        while b"\n" not in self._read and not self._is_over:
            if not select.select([self._stdin], [], [], 0)[0]:
                return None
            block = os.read(self._stdin, _BLOCK)
            self._read += block
            self._is_over = not block
        line, _, self._read = self._read.partition(b"\n")
        return line
