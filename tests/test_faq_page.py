"""docs/faq.md quotes messages as the code writes them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OTHERS = ("No module named", "parallelism=4", "needs --option path=", "drain")
"""Messages of Python, and what is no message, or has a name of the reader in it."""


def quoted() -> list[str]:
    """The fixed parts of the messages in the first column."""
    page = (ROOT / "docs/faq.md").read_text("utf-8")
    cells = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    texts = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    return [part.strip() for text in texts for part in text.split("...") if part.strip()]


def test_every_quoted_message_is_one_of_the_code():
    code = " ".join(re.sub(r'"\s*f?"', "", file.read_text("utf-8")) for file in (ROOT / "sage_flow").rglob("*.py"))
    assert len(quoted()) > 10
    for part in quoted():
        assert part in code or part.startswith(OTHERS), part
