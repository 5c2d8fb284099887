"""The metadata of a checkpoint: which parts it consists of, and all that a restore must know before it reads them.

It is written last. A checkpoint whose metadata is there has all of its parts.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from sage_flow.checkpoint.format import sealed, unsealed
from sage_flow.errors import CheckpointError, InternalError

__all__ = ["CheckpointMetadata", "OperatorPlace", "SubtaskPart"]

_KIND = "checkpoint"


@dataclass(frozen=True, slots=True)
class OperatorPlace:
    """Where an operator stood in the plan; a restore compares it with the new plan."""

    name: str
    kind: str
    is_named: bool
    """The user gave the name. An automatic name (`count-1`) says nothing if the plan was changed."""
    key: str
    """Where the key function stands in the user's code; empty: its input has no key."""
    upstream: tuple[str, ...]
    parallelism: int


@dataclass(frozen=True, slots=True)
class SubtaskPart:
    """What one subtask has stored."""

    address: int
    chain: tuple[str, ...]
    """The names of its operators."""
    index: int
    parallelism: int
    is_finished: bool
    """It had come to its end before the cut: it runs no more after a restore."""
    chunks: tuple[str, ...]
    """The names of its files, in the folder of the run."""
    size: int
    """Bytes of its chunks."""
    stored: int = 0
    """Of these, the bytes that were stored for this checkpoint: the others are of earlier ones."""
    keeping: tuple[str, ...] = ()
    """The names of its operators that kept something."""
    finished_splits: tuple[str, ...] = ()
    """If it is finished: the splits that its source had read."""


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """One complete checkpoint."""

    job: str
    run: str
    attempt: int
    checkpoint: int
    created_ms: int
    """ms since the epoch."""
    max_parallelism: int
    operators: tuple[OperatorPlace, ...]
    parts: tuple[SubtaskPart, ...]
    prepared: bytes
    """A pickle of all that the sinks have prepared and not published, as far as it was known at the cut."""
    rows: tuple[str, ...]
    """The names of the chunks with collected rows."""
    size: int
    """Bytes of all chunks."""
    took_ms: int
    alignment_ms: int
    pause_ms: float
    """The longest time for which a subtask processed no records."""

    def to_bytes(self) -> bytes:
        """The content of its file: sealed JSON."""
        return sealed(_KIND, json.dumps(_plain(self), allow_nan=False, indent=1).encode())

    @staticmethod
    def from_bytes(content: bytes, name: str) -> CheckpointMetadata:
        """Read the content of the file `name`. Raises CheckpointError."""
        payload = unsealed(_KIND, content, name)
        try:
            made: CheckpointMetadata = _made(CheckpointMetadata, json.loads(payload), "")
        except (_Unexpected, ValueError) as fault:
            raise CheckpointError(
                f"{name}: is no metadata of a checkpoint: {fault}; restore another checkpoint"
            ) from fault
        return made


class _Unexpected(Exception):
    """A value is not what its field holds."""


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in base64, dataclasses as objects, tuples as lists."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def _made(kind: Any, value: Any, where: str) -> Any:
    """The opposite of `_plain`, for a field of this type. `where`: the way to it, for errors."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _made_object(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _Unexpected(f"{where} is no list")
        return tuple(_made(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is bytes:
        try:
            return base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error) as fault:
            raise _Unexpected(f"{where} is no base64") from fault
    if kind is float and type(value) is int:
        return float(value)
    if kind not in (str, int, bool, float):
        raise InternalError(f"metadata cannot hold a {kind}")
    if type(value) is not kind:  # a bool is an int, too
        raise _Unexpected(f"{where} is {value!r}, where {kind.__name__} is expected")
    return value


def _made_object(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _Unexpected(f"{where or 'the content'} is no object")
    types = _types(kind)
    front = f"{where}." if where else ""
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - set(value)):
        raise _Unexpected(f"{front}{missing[0]} is missing")
    if unknown := sorted(set(value) - set(types)):
        raise _Unexpected(f"{front}{unknown[0]} is unknown")
    return kind(**{name: _made(types[name], value[name], front + name) for name in value})


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
