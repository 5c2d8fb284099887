"""Takes pages into the site that are not in docs/, and lets links between them and docs/ lead there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
TAKEN = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "docker/README.md": "docker.md",
    "SECURITY.md": "security.md",
}
"""Pages of the repository, and what they are in the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are taken."""
    for source, name in TAKEN.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site; what is only in the repository is named without a link."""
    sources = {name: source for source, name in TAKEN.items()}
    folder = (ROOT / sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (folder / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]  # the strict build says that it is wrong
        inside = path.relative_to(ROOT).as_posix()
        if path.is_dir() and f"{inside}/README.md" in TAKEN:
            inside += "/README.md"
        if inside in TAKEN:
            return f"[{text}]({TAKEN[inside]}{anchor})"
        return f"[{text}]({inside.removeprefix('docs/')}{anchor})" if inside.startswith("docs/") else text

    def outside_of_blocks(part: str) -> str:
        return re.sub(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", link, part)

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else outside_of_blocks(part) for part in parts)
