"""Text files as passages short enough to quote, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sage_flow.errors import InputError

__all__ = ["Passage", "documents_in", "pages_of", "passages", "read_document"]

_ENDINGS = (".md", ".rst", ".txt")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*")
_FENCES = ("```", "~~~")

_Block = list[tuple[int, str]]  # numbered lines that belong together: a paragraph, a list, a table, code


class Passage(NamedTuple):
    """A piece of a document, under one heading.

    Attributes:
        text: its lines, as they are in the file.
        file, line: where it begins; lines count from 1.
        heading: the headings above it, "Services > Deadlines"; empty where there is none.
    """

    text: str
    file: str
    line: int
    heading: str = ""

    @property
    def place(self) -> str:
        """The place as `file:line`."""
        return f"{self.file}:{self.line}"


def documents_in(folder: Path) -> list[str]:
    """The .md, .rst and .txt files below a folder, hidden ones left out, as sorted paths relative to it.

    Raises InputError if there is no such folder, or no document in it.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else f"no such folder; a relative path starts at {Path.cwd()}"
        raise InputError(f"{folder}: {what}; name a folder of documents")
    below = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS)
    found = [path for path in below if not any(part.startswith(".") for part in path.parts)]
    documents = sorted(path.as_posix() for path in found if (folder / path).is_file())
    if not documents:
        raise InputError(f"{folder}: there is no document in this folder ({', '.join(_ENDINGS)})")
    return documents


def pages_of(project: Path) -> list[str]:
    """README.md and the pages in docs/ of a project, as paths relative to it; none if it has none."""
    pages = (project / "README.md", *sorted(project.glob("docs/**/*.md")))
    return [page.relative_to(project).as_posix() for page in pages if page.is_file()]


def read_document(folder: Path, file: str) -> str:
    """The text of a file in a folder. Raises InputError."""
    path = folder / file
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}") from fault
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise InputError(f"{path}:{line}: is not utf-8; convert the file, or leave it out of the folder") from fault


def passages(text: str, file: str, length: int = 600) -> Iterator[Passage]:
    """Cut a document into passages of at most `length` characters.

    A passage is never under two headings (Markdown's, with #). Paragraphs, tables and code stay whole if they
    are short enough; short ones that follow each other share a passage.

    >>> text = "# Tea\\n\\nBoil water.\\n\\nWait.\\n\\n## Milk\\nFirst or last?"
    >>> [(passage.place, passage.heading, passage.text) for passage in passages(text, "tea.md", length=15)]
    [('tea.md:3', 'Tea', 'Boil water.'), ('tea.md:5', 'Tea', 'Wait.'), ('tea.md:8', 'Tea > Milk', 'First or last?')]
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 character, not {length}")
    for heading, blocks in _sections(text):
        for lines in _packed(blocks, length):
            yield Passage("\n".join(line for _, line in lines), file, lines[0][0], heading)


def _sections(text: str) -> Iterator[tuple[str, list[_Block]]]:
    """The headings above, and the blocks below them."""
    above: list[tuple[int, str]] = []  # level and title, from the outermost
    blocks: list[_Block] = [[]]
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip()
        heading = None if fence else _HEADING.fullmatch(line)
        if heading is not None:
            yield _path(above), [block for block in blocks if block]
            level = len(heading[1])
            above = [(outer, title) for outer, title in above if outer < level] + [(level, heading[2])]
            blocks = [[]]
        elif line or fence:
            blocks[-1].append((number, line))
            fence = _fence_after(line, fence)
        elif blocks[-1]:
            blocks.append([])
    yield _path(above), [block for block in blocks if block]


def _path(above: list[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in above if title)


def _fence_after(line: str, fence: str) -> str:
    """The fence that is open behind a line; headings and empty lines mean nothing inside."""
    start = line.strip()[:3]
    if fence:
        return "" if start == fence else fence
    return start if start in _FENCES else ""


def _packed(blocks: list[_Block], length: int) -> Iterator[_Block]:
    """Lines of one or more blocks, at most `length` characters; a longer block, or line, is cut."""
    packed: _Block = []
    size = 0  # characters, a line end for each line included
    for block in blocks:
        block_size = sum(len(line) + 1 for _, line in block)
        if packed and size + block_size > length:  # the line ends are one more, the empty line is one less
            yield packed
            packed, size = [], 0
        elif packed:
            packed.append((block[0][0] - 1, ""))
            size += 1
        for number, whole in block:
            for line in _cut(whole, length):
                if packed and size + len(line) > length:
                    yield packed
                    packed, size = [], 0
                if packed or line:  # code may have empty lines, but a passage does not begin with one
                    packed.append((number, line))
                    size += len(line) + 1
    if packed:
        yield packed


def _cut(line: str, length: int) -> Iterator[str]:
    if len(line) > length:
        line = line.lstrip()  # indentation is no piece of its own
    while len(line) > length:
        space = line.rfind(" ", 1, length + 1)
        end = space if space > 0 else length
        yield line[:end]
        line = line[end:].lstrip()
    yield line
