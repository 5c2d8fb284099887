"""Texts into the fields of a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from sage_flow.cli.joboptions import options_of, parse_options
from sage_flow.errors import PipelineError


@dataclass(frozen=True)
class Options:
    text: str = "a"
    number: int = 1
    ratio: float = 0.5
    flag: bool = False
    path: Path = Path("in.csv")
    mode: Literal["fast", "safe"] = "safe"
    level: Literal[1, 2] = 1
    limit: Optional[int] = 7  # noqa: UP045 - both ways to write it
    folder: Path | None = None
    kind: Literal["x"] | None = None
    names: tuple[str, ...] = ("n",)
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))
    made: int = field(default=0, init=False)


def parse(*given):
    return parse_options(Options, given, owner="jobs/job.py")


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("text=b=c, d", "text", "b=c, d"),
        ("text=", "text", ""),
        ("number=-3", "number", -3),
        ("ratio=1e-3", "ratio", 0.001),
        ("flag=yes", "flag", True),
        ("flag=True", "flag", True),
        ("flag=0", "flag", False),
        ("path=data/a b.csv", "path", Path("data/a b.csv")),
        ("path=~/a.csv", "path", Path.home() / "a.csv"),
        ("mode=fast", "mode", "fast"),
        ("level=2", "level", 2),
        ("limit=3", "limit", 3),
        ("limit=", "limit", None),
        ("folder=x", "folder", Path("x")),
        ("folder=", "folder", None),
        ("kind=x", "kind", "x"),
        ("names=a, b,c", "names", ("a", "b", "c")),
        ("names=", "names", ()),
        ("sizes=3,4", "sizes", (3, 4)),
    ],
)
def test_a_text_becomes_the_type_of_its_field(given, name, value):
    options = parse(given)
    assert getattr(options, name) == value
    assert type(getattr(options, name)) is type(value)


def test_what_is_not_given_has_its_default():
    assert parse("number=2") == Options(number=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("number=many", "option 'number' must be int, not 'many'"),
        ("number=1.5", "option 'number' must be int, not '1.5'"),
        ("number=", "option 'number' must be int, not ''"),
        ("ratio=half", "option 'ratio' must be float, not 'half'"),
        ("flag=maybe", "option 'flag' must be bool, not 'maybe'"),
        ("path=", "option 'path' must be path, not ''"),
        ("mode=slow", "option 'mode' must be one of fast, safe, not 'slow'"),
        ("level=3", "option 'level' must be one of 1, 2, not '3'"),
        ("limit=x", "option 'limit' must be int or empty, not 'x'"),
        ("sizes=1,x", "option 'sizes' must be ints with commas, not '1,x'"),
        ("number", "--option number: write --option NAME=VALUE"),
    ],
)
def test_a_bad_value_names_option_value_and_type(given, message):
    with pytest.raises(PipelineError) as raised:
        parse(given)
    assert str(raised.value) == message


def test_an_option_is_given_once():
    with pytest.raises(PipelineError, match="option 'number' is given twice"):
        parse("number=1", "number=2")


def test_an_unknown_option_is_answered_with_a_guess_and_the_list():
    with pytest.raises(PipelineError) as raised:
        parse("nunber=1")
    lines = str(raised.value).split("\n")
    assert lines[:2] == ["jobs/job.py has no option 'nunber'; did you mean 'number'?", "options of jobs/job.py:"]
    assert lines[2:4] == [
        "  text    str                default 'a'",
        "  number  int                default 1",
    ]
    assert lines[-1] == "  sizes   ints with commas   default (1, 2)"
    assert "made" not in str(raised.value)


def test_nothing_is_guessed_where_nothing_is_near():
    with pytest.raises(PipelineError, match=r"has no option 'zzz'\n"):
        parse("zzz=1")


def test_a_class_without_fields_has_no_options():
    @dataclass(frozen=True)
    class Empty:
        pass

    assert parse_options(Empty, [], owner="job.py") == Empty()
    with pytest.raises(PipelineError, match=r"job\.py has no option 'a'\njob\.py has no options"):
        parse_options(Empty, ["a=1"], owner="job.py")


@dataclass(frozen=True)
class Required:
    source: str
    target: str
    count: int = 1


def test_required_options_that_are_missing_are_named():
    with pytest.raises(PipelineError) as raised:
        parse_options(Required, ["source=a"], owner="job.py")
    assert str(raised.value).startswith("job.py needs --option target=...\n")
    assert "  target  str  required" in str(raised.value)
    with pytest.raises(PipelineError, match=r"needs --option source=\.\.\. and --option target="):
        parse_options(Required, [], owner="job.py")
    assert parse_options(Required, ["source=a", "target=b"], owner="job.py") == Required("a", "b")


@dataclass(frozen=True)
class Checked:
    low: int = 0
    high: int = 9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def test_a_check_of_the_class_itself_is_told():
    with pytest.raises(PipelineError, match=r"the options of job\.py do not go together: low is above high"):
        parse_options(Checked, ["low=10"], owner="job.py")


@pytest.mark.parametrize("kind", [dict, list[str], int | str, tuple[int, str], tuple[bytes, ...], bytes | None, Any])
def test_a_type_that_no_text_gives_is_refused(kind):
    @dataclass(frozen=True)
    class Odd:
        odd: kind = None

    Odd.__annotations__["odd"] = kind  # not the text "kind"
    with pytest.raises(PipelineError, match=r"option 'odd' of job.py has a type that no text can give: use str, int"):
        options_of(Odd, owner="job.py")


def test_a_type_that_is_not_there_is_refused():
    @dataclass(frozen=True)
    class Lost:
        lost: NoSuchType = None  # noqa: F821

    with pytest.raises(PipelineError, match=r"a type in .*Lost of job.py has no meaning: name 'NoSuchType'"):
        options_of(Lost, owner="job.py")
