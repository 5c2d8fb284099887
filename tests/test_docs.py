"""The pages in docs/ and the README say what the code does."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

from sage_flow import ConnectedStreams, DataStream, KeyedStream, LocalEnvironment, errors

ROOT = Path(__file__).parent.parent


def texts_in(folder: str) -> list[Path]:
    return sorted(file for file in (ROOT / folder).rglob("*") if file.suffix in (".md", ".py", ".tmpl", ".yaml"))


def public_methods(kind: type) -> dict[str, Any]:
    """The methods that a class or its own base defines."""
    found = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.startswith("sage_flow"):
            found.update({n: m for n, m in vars(owner).items() if not n.startswith("_") and inspect.isfunction(m)})
    return found


@pytest.mark.parametrize("kind", [LocalEnvironment, DataStream, KeyedStream, ConnectedStreams])
def test_operators_page_has_the_first_paragraph_of_every_docstring(kind):
    page = (ROOT / "docs/operators.md").read_text()
    for name, method in public_methods(kind).items():
        paragraph = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split())
        assert f"| `{name}` | {paragraph} |" in page


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_example_prints_what_it_says_and_draws_its_picture():
    source = readme_blocks("python")[0]
    printed = io.StringIO()
    names: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(printed):
        exec(source, names)
    promised = re.findall(r"^print\(.*\)\s+# (.*)$", source, re.MULTILINE)
    assert printed.getvalue().splitlines() == promised
    assert readme_blocks("mermaid")[0] == names["env"].draw()


@pytest.mark.parametrize("name", ["services", "channels"])
def test_the_first_example_of_the_page_prints_what_it_says(name):
    page = (ROOT / f"docs/{name}.md").read_text()
    source = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(source, {"__name__": name})
    assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)\s+# (.*)$", source, re.MULTILINE)


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


def test_the_example_of_reading_past_malformed_lines_does_so(tmp_path, monkeypatch):
    page = (ROOT / "docs/files.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "events.jsonl").write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "files"}
    exec(source, names)
    assert names["env"].execute().collected["events"] == [{"n": 1}, {"n": 3}]
    (refused,) = (tmp_path / "refused.txt").read_text().splitlines()
    assert refused == 'JSONDecodeError: Expecting value: line 1 column 7 (char 6): {"n": '
