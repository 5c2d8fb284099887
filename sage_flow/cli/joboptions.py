"""Typed options: texts like "top=3" into the fields of a frozen dataclass.

A field is a str, int, float, bool, Path, a Literal of such values, an Optional of any of these, or a tuple
`tuple[str, ...]`, written with commas. An empty text is None, for an Optional, or the empty tuple.

A job that names no dataclass gets the texts themselves, as `TextOptions`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from sage_flow.errors import PipelineError

__all__ = ["Option", "TextOptions", "options_of", "parse_options", "parse_texts"]

T = TypeVar("T")

_KINDS = "str, int, float, bool, pathlib.Path, Literal[...], Optional of these, tuple[str, ...]"
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Option:
    """A field of an options class: its name, its type in words, how to read it, and its default or MISSING."""

    name: str
    kind: str
    read: Callable[[str], Any]
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is MISSING


def parse_options(options_type: type[T], given: Sequence[str], *, owner: str) -> T:
    """Make an `options_type` of texts like "top=3"; `owner` is the job, for errors. Raises PipelineError."""
    options = {option.name: option for option in options_of(options_type, owner=owner)}
    values: dict[str, Any] = {}
    for name, value in _pairs(given):
        if name not in options:
            raise PipelineError(_unknown(name, options, owner))
        try:
            values[name] = options[name].read(value)
        except ValueError:
            raise PipelineError(f"option {name!r} must be {options[name].kind}, not {value!r}") from None
    missing = [option.name for option in options.values() if option.is_required and option.name not in values]
    if missing:
        needed = " and ".join(f"--option {name}=..." for name in missing)
        raise PipelineError(f"{owner} needs {needed}\n{_list(options, owner)}")
    try:
        return options_type(**values)
    except ValueError as error:  # a check in its __post_init__
        raise PipelineError(f"the options of {owner} do not go together: {error}") from error


class TextOptions(dict[str, str]):
    """The options of a job that does not say which it has: the texts that were given, by name.

    >>> options = parse_texts(["top=3"], owner="jobs/flights.py")
    >>> options.top, options["top"], options.get("path", "flights.csv")
    ('3', '3', 'flights.csv')
    """

    _owner = "the job"

    def __missing__(self, name: str) -> str:
        raise PipelineError(f"{self._owner} needs --option {name}=...")

    def __getattr__(self, name: str) -> str:
        if name in self:
            return self[name]
        raise AttributeError(f"{self._owner} needs --option {name}=...")


def parse_texts(given: Sequence[str], *, owner: str) -> TextOptions:
    """Make the options of a job that names no dataclass; `owner` is the job, for errors. Raises PipelineError."""
    options = TextOptions(_pairs(given))
    options._owner = owner
    return options


def _pairs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    names = set()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise PipelineError(f"--option {text}: write --option NAME=VALUE")
        if name in names:
            raise PipelineError(f"option {name!r} is given twice")
        names.add(name)
        yield name, value


def options_of(options_type: type[Any], *, owner: str) -> list[Option]:
    """The options that a dataclass stands for. Raises PipelineError for a field that cannot be one."""
    try:
        kinds = typing.get_type_hints(options_type)
    except Exception as error:
        raise PipelineError(f"a type in {options_type.__name__} of {owner} has no meaning: {error}") from None
    options = []
    for field in dataclasses.fields(options_type):
        if not field.init:
            continue
        reader = _reader(kinds[field.name])
        if reader is None:
            raise PipelineError(f"option {field.name!r} of {owner} has a type that no text can give: use {_KINDS}")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        options.append(Option(field.name, *reader, default))
    return options


_Reader = tuple[str, Callable[[str], Any]]


def _reader(kind: Any) -> _Reader | None:
    """Return the kind in words, and its function from text, which raises ValueError; None for unknown kinds."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        choices = {str(choice): choice for choice in arguments}
        return f"one of {', '.join(choices)}", lambda text: _choose(choices, text)
    if origin in (Union, types.UnionType):
        return _optional_reader([argument for argument in arguments if argument is not type(None)])
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _tuple_reader(arguments[0])
    return None


def _optional_reader(kinds: list[Any]) -> _Reader | None:
    reader = _reader(kinds[0]) if len(kinds) == 1 else None
    if reader is None:
        return None
    words, read = reader
    return f"{words} or empty", lambda text: read(text) if text else None


def _tuple_reader(kind: Any) -> _Reader | None:
    reader = _SCALARS.get(kind)
    if reader is None:
        return None
    words, read = reader
    return f"{words}s with commas", lambda text: tuple(read(part.strip()) for part in text.split(",") if part.strip())


def _truth(text: str) -> bool:
    return _choose(_TRUTH, text.lower())


def _path(text: str) -> Path:
    if not text:
        raise ValueError("an empty path")
    return Path(text).expanduser()


def _choose(choices: dict[str, T], text: str) -> T:
    if text not in choices:
        raise ValueError(text)
    return choices[text]


_SCALARS: dict[Any, _Reader] = {
    str: ("str", str),
    int: ("int", int),
    float: ("float", float),
    bool: ("bool", _truth),
    Path: ("path", _path),
}


def _unknown(name: str, options: dict[str, Option], owner: str) -> str:
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{owner} has no option {name!r}{hint}\n{_list(options, owner)}"


def _list(options: dict[str, Option], owner: str) -> str:
    width = max(map(len, options), default=0)
    kinds = max((len(option.kind) for option in options.values()), default=0)
    lines = [f"options of {owner}:"]
    for option in options.values():
        default = "required" if option.is_required else f"default {option.default!r}"
        lines.append(f"  {option.name:<{width}}  {option.kind:<{kinds}}  {default}")
    return "\n".join(lines if options else [f"{owner} has no options"])
