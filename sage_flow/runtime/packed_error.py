"""An exception with all that led to it: as lines that a user reads, and as bytes that travel.

What led to it are its `__cause__`, or the `__context__` that is not suppressed and passed through the user's code,
and the members of a group, each with its own. An exception crosses as its type, its arguments and its attributes, and
is rebuilt without calling `__init__` (whose parameters need not be the exception's `args`); a type that does not travel
becomes a `RemoteError` that names it. Each exception of a chain and each member of a group travels by itself.
"""

from __future__ import annotations

import builtins
import pickle
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sage_flow.errors import RemoteError
from sage_flow.plan.location import is_engine_file, short_path
from sage_flow.wire import by_value

__all__ = [
    "PackedError",
    "RemoteTraceback",
    "describe",
    "pack_error",
    "rebuild_error",
    "summary",
    "text_of",
    "user_frames",
]

_MOST_FRAMES = 5
_DEEPEST = 30
"""Causes of causes that are told; a chain may be a circle."""


@dataclass(frozen=True)
class PackedError:
    """An exception in a form that travels. `original` stays behind when it is pickled.

    `frames` are the lines of `describe` for the user's frames; `content` is the exception itself, if it pickles; of a
    group, without its `members`. `is_explicit`: `cause` was named by `raise ... from`, and not just being handled.
    """

    type_name: str
    message: str
    frames: tuple[str, ...]
    notes: tuple[str, ...]
    content: bytes | None
    cause: PackedError | None = None
    is_explicit: bool = False
    members: tuple[PackedError, ...] = ()
    original: BaseException | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.type_name, self.message, self.frames, self.notes, self.content)
        return PackedError, (*parts, self.cause, self.is_explicit, self.members)

    @property
    def text(self) -> str:
        """All of it, as `describe` gives it."""
        return "\n".join(self.lines(self.type_name))

    def lines(self, name: str | None = None) -> list[str]:
        """The error, the user's frames, the members of a group, the notes, then what led to it."""
        notes = (line for note in self.notes for line in note.split("\n"))
        return [
            f"{name or _short(self.type_name)}: {self.message}",
            *self.frames,
            *self.details(),
            *notes,
            *self.causes(),
        ]

    def details(self) -> Iterator[str]:
        """The lines of each member of a group."""
        for number, member in enumerate(self.members, 1):
            first, *others = member.lines()
            yield f"  {number} of {len(self.members)}  {first}"
            yield from (f"    {line}" for line in others)

    def causes(self) -> list[str]:
        """The lines of what led to it, as far as they tell something new."""
        below, is_explicit, cause = self, self.is_explicit, self.cause
        while cause is not None and cause._is_told_by(below):
            below, is_explicit, cause = cause, cause.is_explicit, cause.cause
        if cause is None:
            return []
        first, *others = cause.lines()
        return [f"{'caused by' if is_explicit else 'raised while handling'} {first}", *others]

    def _is_told_by(self, error: PackedError) -> bool:
        """Whether an error that it caused says all of it: the engine names the reason in its own errors."""
        if self.members or (self.frames and self.frames != error.frames):
            return False
        return self.message in error.message or (not self.frames and error.type_name.startswith("sage_flow."))


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised elsewhere, at the end of the causes of its copy here."""

    def __init__(self, packed: PackedError) -> None:
        super().__init__(packed.text)
        self.chain = [packed]
        while (last := self.chain[-1]).cause is not None and last.is_explicit:
            self.chain.append(last.cause)

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack_error(error: BaseException) -> PackedError:
    """Pack an exception with its notes, its traceback (the engine's lines left out), its causes and its members."""
    return _Packing(travels=True).pack(error)


def describe(error: BaseException) -> list[str]:
    """The lines that a user reads: the error, their own frames, innermost last, then the notes and what led to it."""
    return _Packing(travels=False).pack(error).lines()


def summary(error: BaseException, depth: int = 0) -> str:
    """One line: the error, the members of a group, and what led to it."""
    text = f"{type(error).__name__}: {text_of(error)}"
    if members := _members(error):
        text += f" [{'; '.join(summary(member, depth + 1) for member in members)}]"
    cause, is_explicit = _cause(error)
    if cause is not None and depth < _DEEPEST and (_members(cause) or text_of(cause) not in text):
        text += f" ({'caused by' if is_explicit else 'raised while handling'} {summary(cause, depth + 1)})"
    return text


def rebuild_error(packed: PackedError) -> BaseException:
    """Make a copy of the exception with its causes, the remote traceback behind them: two threads never share one."""
    error = last = _rebuilt(packed)
    origin = packed
    while origin.cause is not None and origin.is_explicit:
        origin = origin.cause
        last.__cause__ = _rebuilt(origin)
        last = last.__cause__
    last.__cause__ = RemoteTraceback(packed)
    return error


def user_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of a traceback that are not the engine's."""
    return [frame for frame in traceback.extract_tb(trace) if not is_engine_file(frame.filename)]


# -- packing --------------------------------------------------------------------------------------------------


class _Packing:
    """Packs what led to an exception once, however often and in whatever circle it is named."""

    def __init__(self, *, travels: bool) -> None:
        self._travels = travels
        self._packed: dict[int, PackedError | None] = {}  # by id(); None for what is under way

    def pack(self, error: BaseException, depth: int = 0) -> PackedError:
        """`depth`: how many exceptions this one led to."""
        self._packed[id(error)] = None
        elsewhere = _packed_elsewhere(error)
        if elsewhere is None:
            cause, is_explicit = _cause(error)
            frames = tuple(_frame_lines(error.__traceback__))
            members = tuple(self._all(_members(error), depth))
            reason = next(self._all([] if cause is None else [cause], depth), None)
        else:
            frames, members, reason = elsewhere.frames, elsewhere.members, elsewhere.cause
            is_explicit = elsewhere.is_explicit
        kind = type(error)
        made = self._packed[id(error)] = PackedError(
            f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
            text_of(error),
            frames,
            tuple(getattr(error, "__notes__", ())),
            _content(error) if self._travels else None,
            reason,
            is_explicit,
            members,
            error,
        )
        return made

    def _all(self, errors: Iterable[BaseException], depth: int) -> Iterator[PackedError]:
        for error in errors:
            if id(error) in self._packed or depth >= _DEEPEST:
                packed = self._packed.get(id(error))
            else:
                packed = self.pack(error, depth + 1)
            if packed is not None:
                yield packed


def _packed_elsewhere(error: BaseException) -> PackedError | None:
    """What a copy was made from: it has the frames, and what led to it is found there."""
    chain = [error]
    while len(chain) < _DEEPEST and (cause := chain[-1].__cause__) is not None:
        if isinstance(cause, RemoteTraceback):
            return cause.chain[-len(chain)] if len(chain) <= len(cause.chain) else None
        chain.append(cause)
    return None


def _cause(error: BaseException) -> tuple[BaseException | None, bool]:
    """What led to an exception, and whether that was named."""
    elsewhere = _packed_elsewhere(error)
    if elsewhere is not None and not elsewhere.is_explicit:
        return (elsewhere.cause.original or _rebuilt(elsewhere.cause)) if elsewhere.cause else None, False
    if error.__cause__ is not None:
        return error.__cause__, True
    context = None if error.__suppress_context__ else error.__context__
    return (context, False) if context is not None and _passed_user_code(context.__traceback__) else (None, False)


def _passed_user_code(trace: TracebackType | None) -> bool:
    while trace is not None:
        if not is_engine_file(trace.tb_frame.f_code.co_filename):
            return True
        trace = trace.tb_next
    return False


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """Of a group; Python 3.10 has none, and takes those of the `exceptiongroup` package."""
    if isinstance(error, _group_types()):
        members: tuple[BaseException, ...] = error.exceptions  # type: ignore[attr-defined]
        return members
    return ()


def _group_types() -> tuple[type, ...]:
    modules = (builtins, sys.modules.get("exceptiongroup"))
    found = (getattr(module, "BaseExceptionGroup", None) for module in modules)
    return tuple(kind for kind in found if kind is not None)


def _frame_lines(trace: TracebackType | None) -> Iterator[str]:
    """`file:line in function  source`, for the frames where an exception was raised."""
    frames = user_frames(trace)
    if len(frames) > _MOST_FRAMES:
        yield f"  ... {len(frames) - _MOST_FRAMES} more frames"
    for frame in frames[-_MOST_FRAMES:]:
        where = f"{short_path(frame.filename)}:{frame.lineno} in {frame.name}"
        yield f"  {where:<38} {frame.line or ''}".rstrip()


def _content(error: BaseException) -> bytes | None:
    """The exception as bytes: as it pickles itself if it comes back the same, else by its parts."""
    parts = {name: value for name, value in error.__dict__.items() if name != "__notes__"}
    if isinstance(error, _group_types()):
        message = error.message  # type: ignore[attr-defined]
        return _pickled((type(error), (message,), parts)) or _pickled((type(error), (message,), {}))
    content = _pickled(error)
    copied = None if content is None else _loaded(content, [])
    if type(copied) is type(error) and text_of(copied) == text_of(error):
        return content
    return _pickled((type(error), error.args, parts))


def _pickled(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # pickling runs foreign code, which may raise anything
        pass
    try:
        return by_value.dumps(value)
    except Exception:
        return None


# -- rebuilding -----------------------------------------------------------------------------------------------


def _rebuilt(packed: PackedError) -> BaseException:
    """The exception alone, with its members and what was being handled."""
    members = [rebuild_error(member) for member in packed.members]
    error = None if packed.content is None else _loaded(packed.content, members)
    if error is None:
        error = _substitute(packed, members)
    error.__dict__.pop("__notes__", None)
    if packed.notes:
        error.__notes__ = [*packed.notes]  # type: ignore[attr-defined]
    if packed.cause is not None and not packed.is_explicit:
        error.__context__ = rebuild_error(packed.cause)
    return error


def _loaded(content: bytes, members: list[BaseException]) -> BaseException | None:
    try:
        found = pickle.loads(content)
        if isinstance(found, BaseException):
            return found
        kind, args, attributes = found
        error: BaseException = kind.__new__(kind, *args, members) if members else kind.__new__(kind, *args)
        error.args = (*args, members) if members else args
        error.__dict__.update(attributes)
    except Exception:  # whatever a foreign type does when it is rebuilt; RemoteError tells it all the same
        return None
    return error


def _substitute(packed: PackedError, members: list[BaseException]) -> BaseException:
    """Of a group whose type does not travel the members do."""
    groups = _group_types()
    if members and groups:
        message = f"{packed.type_name}: {packed.message.rpartition(' (')[0]}"
        group: BaseException = groups[0](message, members)  # an ExceptionGroup if all members are Exceptions
        return group
    return RemoteError(f"{packed.type_name}: {packed.message}", packed.type_name, packed.text)


def text_of(error: BaseException) -> str:
    """Return the text of an error, also if its class cannot tell it."""
    try:
        return str(error)
    except Exception as broken:
        return f"<its __str__ raised {type(broken).__name__}>"


def _short(type_name: str) -> str:
    return type_name.rpartition(".")[2]
