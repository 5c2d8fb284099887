"""The pages in docs/ and the README say what the code does."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sage_flow import ConnectedStreams, DataStream, KeyedStream, LocalEnvironment, RemoteEnvironment, errors
from sage_flow.cli.program import _parser
from sage_flow.executors.threads import ThreadExecutor
from sage_flow.streams import WindowedStream

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
WALKED = ("tutorial.md",)
"""Pages whose blocks build on each other: `test_tutorial.py` runs them in their order."""


def texts_in(folder: str) -> list[Path]:
    return sorted(file for file in (ROOT / folder).rglob("*") if file.suffix in (".md", ".py", ".tmpl", ".yaml"))


def public_methods(kind: type) -> dict[str, Any]:
    """The methods that a class or its own base defines."""
    found = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.startswith("sage_flow"):
            found.update({n: m for n, m in vars(owner).items() if not n.startswith("_") and inspect.isfunction(m)})
    return found


@pytest.mark.parametrize("kind", [LocalEnvironment, DataStream, KeyedStream, WindowedStream, ConnectedStreams])
def test_operators_page_has_the_first_paragraph_of_every_docstring(kind):
    page = (ROOT / "docs/operators.md").read_text()
    for name, method in public_methods(kind).items():
        paragraph = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split())
        assert f"| `{name}` | {paragraph} |" in page


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    text: str

    @property
    def promised(self) -> list[str]:
        """What the comments behind its prints say."""
        return re.findall(r"^print\(.*\)\s+# (.*)$", self.text, re.MULTILINE)

    @property
    def needs_ray(self) -> bool:
        return "import ray\n" in self.text

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def python_blocks() -> list[Block]:
    found = []
    for page in (page for page in PAGES if page.name not in WALKED):
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            found.append(Block(page, text[: match.start()].count("\n") + 1, match[1]))
    return found


def run_block(block: Block) -> list[str]:
    """Run it with nothing before it; return the lines that it prints."""
    printed = io.StringIO()
    code = compile("\n" * block.line + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": f"block_{block.page.stem.replace('-', '_')}"})
    return printed.getvalue().splitlines()


def test_readme_example_prints_what_it_says_and_draws_its_picture():
    source = readme_blocks("python")[0]
    printed = io.StringIO()
    names: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(printed):
        exec(source, names)
    promised = re.findall(r"^print\(.*\)\s+# (.*)$", source, re.MULTILINE)
    assert printed.getvalue().splitlines() == promised
    assert readme_blocks("mermaid")[0] == names["env"].draw()


@pytest.mark.parametrize("block", [block for block in python_blocks() if not block.needs_ray], ids=str)
def test_every_block_of_a_page_runs_alone_and_prints_what_it_says(block, tmp_path, monkeypatch):
    """A page about clusters runs here, too: its jobs run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RemoteEnvironment, "_make_executor", lambda self: ThreadExecutor())
    assert run_block(block) == block.promised


@pytest.mark.parametrize("block", [block for block in python_blocks() if block.needs_ray], ids=str)
def test_every_block_that_needs_ray_prints_what_it_says(block, ray_cluster):
    assert run_block(block) == block.promised


def test_no_block_of_a_page_is_of_a_kind_that_is_not_tested():
    for page in PAGES:
        opened = re.findall(r"^```(.*)\n(?:.*\n)*?```$", page.read_text("utf-8"), re.MULTILINE)
        assert set(opened) <= {"", "python", "console", "mermaid"}, page


def test_every_command_of_a_page_is_one_of_ours():
    pages = [*PAGES, ROOT / "README.md", ROOT / "docker" / "README.md"]
    blocks = [block for page in pages for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)]
    commands = re.findall(r"^\$ sage-flow (.*)$", "".join(blocks), re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        _parser().parse_args(shlex.split(command.removesuffix(" &"), comments=True))


def test_the_failure_table_names_every_error_that_a_caller_can_get():
    page = (ROOT / "docs/services.md").read_text()
    for name in errors.__all__:
        if issubclass(getattr(errors, name), errors.ServiceError):
            assert f"`{name}`" in page, name


def test_every_page_that_the_readme_links_exists():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_nobody_is_told_to_install_sage_flow_from_an_index_that_has_it_not():
    folders = ("docs", "docker", "benchmarks", "jobs", "operators", "sage_flow")
    files = [ROOT / "README.md", ROOT / "Makefile", *(file for folder in folders for file in texts_in(folder))]
    told = {str(file): re.findall(r"pip install [^\n]*\bsage-flow\b.*", file.read_text("utf-8")) for file in files}
    assert {file: lines for file, lines in told.items() if lines} == {}
