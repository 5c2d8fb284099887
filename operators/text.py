"""Text into words."""

from __future__ import annotations

import re

__all__ = ["words"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters of any script, held together by ' and -.

    >>> words("Don't panic: the well-known Größe, 42 times!")
    ["don't", 'panic', 'the', 'well-known', 'größe', 'times']
    """
    return _WORD.findall(text.lower())
