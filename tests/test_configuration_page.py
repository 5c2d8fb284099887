"""docs/configuration.md names every setting, with the default that it has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment, RemoteEnvironment
from sage_flow.streams.step_options import SourceOptions, StepOptions

PAGE = (Path(__file__).parent.parent / "docs/configuration.md").read_text("utf-8")


def rows(title):
    """The first two cells of each row of a chapter, by the names in the first."""
    chapter = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = {}
    for names, value in re.findall(r"^\| (`.*?) \| (.*?) \|", chapter, re.MULTILINE):
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", names), value))
    return found


def settings(function):
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [one for one in inspect.signature(function).parameters.values() if one.kind not in variable]
    return {one.name: one.default for one in parameters if one.name not in ("self", "service")}


CHAPTERS = [
    ("`LocalEnvironment(...)`", LocalEnvironment, set()),
    ("`RemoteEnvironment(...)`", RemoteEnvironment, set(settings(LocalEnvironment))),
    ("`env.enable_checkpointing(...)`", LocalEnvironment.enable_checkpointing, set()),
    ("`env.register_service(...)`", LocalEnvironment.register_service, {"name"}),
]


@pytest.mark.parametrize(("title", "function", "elsewhere"), CHAPTERS, ids=[title for title, _, _ in CHAPTERS])
def test_every_setting_is_there_and_numbers_are_what_the_code_says(title, function, elsewhere):
    told, known = rows(title), settings(function)
    assert set(told) == set(known) - elsewhere
    for name, value in told.items():
        if re.fullmatch(r"\d+", value) and isinstance(known[name], (int, float)):
            assert float(value) == known[name], name


def test_the_options_of_operators_are_there():
    shared = {
        key
        for kind in (StepOptions, SourceOptions)
        for base in kind.__mro__
        for key in vars(base).get("__annotations__", ())
    }
    assert shared | {*StepOptions.__annotations__, *SourceOptions.__annotations__} <= set(rows("Operators"))
