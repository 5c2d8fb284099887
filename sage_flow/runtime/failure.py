"""How an exception of user code is told: to the user, and across processes.

The text names the operator, the user's file and line, the record and the subtask; the engine's own lines
are folded. An exception crosses as its type, its arguments and its attributes, and is rebuilt without
calling `__init__` (whose parameters need not be the exception's `args`); a type that does not travel
becomes a `RemoteError` that names it.
"""

from __future__ import annotations

import pickle
import reprlib
import traceback
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sage_flow import by_value
from sage_flow.errors import PipelineError, RemoteError
from sage_flow.functions import Sink
from sage_flow.plan.graph import Kind, Operator
from sage_flow.plan.location import is_engine_file, short_path

__all__ = [
    "PackedError",
    "add_notes",
    "describe",
    "explain_failure",
    "explain_service_failure",
    "fold_engine_frames",
    "is_of_pipeline",
    "pack_error",
    "rebuild_error",
    "shorten",
    "unpack_error",
    "user_frames",
]

_MOST_FRAMES = 5
_ALWAYS_FAIL = frozenset({Kind.SOURCE, Kind.KEY_BY, Kind.COUNT, Kind.MAP_BATCHES, Kind.COLLECT, Kind.SERVICE})
"""Operators without an `on_error`."""

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 120
_shorten.maxdict = 5
_shorten.maxlevel = 3


@dataclass(frozen=True)
class PackedError:
    """An exception in a form that travels. `original` stays behind when it is pickled.

    `frames` are the lines of `describe` for the user's frames; `content` is the exception itself, if it pickles.
    """

    type_name: str
    message: str
    frames: tuple[str, ...]
    notes: tuple[str, ...]
    content: bytes | None
    original: BaseException | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedError, (self.type_name, self.message, self.frames, self.notes, self.content)

    @property
    def text(self) -> str:
        """All of it, as `describe` gives it."""
        return "\n".join((f"{self.type_name}: {self.message}", *self.frames, *self.notes))


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised elsewhere, as the cause of its copy here."""

    def __init__(self, packed: PackedError) -> None:
        super().__init__(packed.text)
        self.frames = packed.frames

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack_error(error: BaseException) -> PackedError:
    """Pack an exception with its notes and its traceback, the engine's lines left out."""
    kind = type(error)
    return PackedError(
        f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        _text_of(error),
        tuple(_frame_lines(error)),
        tuple(getattr(error, "__notes__", ())),
        _content(error),
        error,
    )


def unpack_error(packed: PackedError) -> BaseException:
    """Rebuild the exception, with the remote traceback as its cause; the original where it never left."""
    if packed.original is not None:
        return packed.original
    return rebuild_error(packed)


def rebuild_error(packed: PackedError) -> BaseException:
    """Make a copy of the exception, also where the original is at hand: two threads never share one."""
    error = None if packed.content is None else _rebuilt(packed.content)
    if error is None:
        error = RemoteError(f"{packed.type_name}: {packed.message}", packed.type_name, packed.text)
    error.__dict__.pop("__notes__", None)
    add_notes(error, packed.notes)
    error.__cause__ = RemoteTraceback(packed)
    return error


def _content(error: BaseException) -> bytes | None:
    """The exception as bytes: as it pickles itself if it comes back the same, else by its parts."""
    content = _pickled(error)
    copied = None if content is None else _rebuilt(content)
    if type(copied) is type(error) and _text_of(copied) == _text_of(error):
        return content
    parts = {name: value for name, value in error.__dict__.items() if name != "__notes__"}
    return _pickled((type(error), error.args, parts))


def _rebuilt(content: bytes) -> BaseException | None:
    try:
        found = pickle.loads(content)
        if isinstance(found, BaseException):
            return found
        kind, args, attributes = found
        error: BaseException = kind.__new__(kind, *args)
        error.args = args
        error.__dict__.update(attributes)
    except Exception:  # whatever a foreign type does when it is rebuilt; RemoteError tells it all the same
        return None
    return error


def explain_failure(
    error: BaseException,
    operator: Operator,
    *,
    subtask: str,
    job: str,
    record: Any = None,
    has_record: bool = True,
) -> None:
    """Add the lines that say where in the pipeline `error` happened, once; again where it leaves a service."""
    if any(note.startswith("operator  ") for note in _notes_here(error)):
        return
    notes = [f"operator  {operator.name!r} ({operator.kind}), {subtask}, job {job!r}, written at {operator.location}"]
    if has_record:
        notes.append(f"record    {shorten(record)}")
        if isinstance(error, Exception) and not is_of_pipeline(error) and (cure := _past_such_records(operator)):
            notes.append(f"          on_error={cure} lets the job go on past such records")
    add_notes(error, notes)


def explain_service_failure(error: BaseException, service: str, where: str, call: str | None = None) -> None:
    """Add the lines that say which service raised `error`, once; its caller adds whose record it was."""
    name = f"service   {service!r}"
    if any(note.startswith(name) for note in getattr(error, "__notes__", ())):
        return
    add_notes(error, [f"{name}, {where}", *([] if call is None else [f"call      {call}"])])


def _notes_here(error: BaseException) -> list[str]:
    """The notes since the error left a service."""
    notes = list(getattr(error, "__notes__", ()))
    last = max((index for index, note in enumerate(notes) if note.startswith("service  ")), default=-1)
    return notes[last + 1 :]


def is_of_pipeline(error: BaseException) -> bool:
    """Whether the pipeline is wrong and not the record: `on_error` then does not let the record pass."""
    return isinstance(error, PipelineError)


def _past_such_records(operator: Operator) -> str | None:
    """What `on_error` of this operator could be instead; None where it has no such option."""
    if operator.kind is Kind.SINK:
        return None if isinstance(operator.functions[0], Sink) else '"skip"'
    return None if operator.kind in _ALWAYS_FAIL else '"skip" or "dead_letter"'


def add_notes(error: BaseException, notes: Any) -> None:
    """`error.add_note` for every Python; before 3.11 the interpreter does not print them, `describe` does."""
    error.__notes__ = [*getattr(error, "__notes__", ()), *notes]  # type: ignore[attr-defined]


def shorten(value: Any) -> str:
    """The repr of a record, at most a few items long and on one line; never raises."""
    try:
        return "\\n".join(_shorten.repr(value).splitlines())
    except Exception as error:
        return f"<a {type(value).__name__} whose repr raised {type(error).__name__}>"


def describe(error: BaseException) -> list[str]:
    """The lines that a user reads: the error, their own frames, innermost last, then the notes."""
    notes = (line for note in getattr(error, "__notes__", ()) for line in note.split("\n"))
    return [f"{type(error).__name__}: {_text_of(error)}", *_frame_lines(error), *notes]


def _frame_lines(error: BaseException) -> list[str]:
    """`file:line in function  source`, for the frames where it was raised: elsewhere, if it came from there."""
    if isinstance(error.__cause__, RemoteTraceback):
        return list(error.__cause__.frames)
    frames = user_frames(error.__traceback__)
    lines = [f"  ... {len(frames) - _MOST_FRAMES} more frames"] if len(frames) > _MOST_FRAMES else []
    for frame in frames[-_MOST_FRAMES:]:
        where = f"{short_path(frame.filename)}:{frame.lineno} in {frame.name}"
        lines.append(f"  {where:<38} {frame.line or ''}".rstrip())
    return lines


def user_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of a traceback that are not the engine's."""
    return [frame for frame in traceback.extract_tb(trace) if not is_engine_file(frame.filename)]


def fold_engine_frames(error: BaseException) -> None:
    """Take the engine's frames out of the traceback, so that Python prints the user's alone."""
    kept: TracebackType | None = None
    frames = []
    trace = error.__traceback__
    while trace is not None:
        if not is_engine_file(trace.tb_frame.f_code.co_filename):
            frames.append(trace)
        trace = trace.tb_next
    for trace in reversed(frames):
        kept = TracebackType(kept, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
    error.__traceback__ = kept


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<its __str__ raised {type(broken).__name__}>"


def _pickled(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # pickling runs foreign code, which may raise anything
        pass
    try:
        return by_value.dumps(value)
    except Exception:
        return None
