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

from sage_flow.errors import RemoteError
from sage_flow.plan.graph import Operator
from sage_flow.plan.location import is_engine_file, short_path

__all__ = [
    "PackedError",
    "add_notes",
    "describe",
    "explain_failure",
    "fold_engine_frames",
    "pack_error",
    "rebuild_error",
    "shorten",
    "unpack_error",
    "user_frames",
]

_MOST_FRAMES = 5

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 120
_shorten.maxdict = 5
_shorten.maxlevel = 3


@dataclass(frozen=True)
class PackedError:
    """An exception in a form that travels. `original` stays behind when it is pickled."""

    type_name: str
    message: str
    traceback_text: str
    notes: tuple[str, ...]
    content: bytes | None
    original: BaseException | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedError, (self.type_name, self.message, self.traceback_text, self.notes, self.content)


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised elsewhere, as the cause of its copy here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack_error(error: BaseException) -> PackedError:
    """Pack an exception with its notes and its traceback, the engine's lines left out."""
    kind = type(error)
    attributes = {name: value for name, value in error.__dict__.items() if name != "__notes__"}
    notes = tuple(getattr(error, "__notes__", ()))
    return PackedError(
        f"{kind.__module__}.{kind.__qualname__}",
        _text_of(error),
        "\n".join(describe(error)),
        notes,
        _pickle((kind, error.args, attributes)),
        error,
    )


def unpack_error(packed: PackedError) -> BaseException:
    """Rebuild the exception, with the remote traceback as its cause; the original where it never left."""
    if packed.original is not None:
        return packed.original
    return rebuild_error(packed)


def rebuild_error(packed: PackedError) -> BaseException:
    """Make a copy of the exception, also where the original is at hand: two threads never share one."""
    error: BaseException | None = None
    if packed.content is not None:
        try:
            kind, args, attributes = pickle.loads(packed.content)
            error = kind.__new__(kind, *args)
            error.args = args
            error.__dict__.update(attributes)
        except Exception:  # whatever a foreign type does when it is rebuilt; RemoteError tells it all the same
            error = None
    if error is None:
        error = RemoteError(f"{packed.type_name}: {packed.message}", packed.type_name, packed.traceback_text)
    add_notes(error, packed.notes)
    error.__cause__ = RemoteTraceback(packed.traceback_text)
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
    """Add the lines that say where in the pipeline `error` happened, once."""
    if any(note.startswith("operator  ") for note in getattr(error, "__notes__", ())):
        return
    notes = [f"operator  {operator.name!r} ({operator.kind}), {subtask}, job {job!r}, written at {operator.location}"]
    if has_record:
        notes.append(f"record    {shorten(record)}")
        if operator.on_error == "fail" and operator.kind.value not in ("source", "service"):
            notes.append('          on_error="skip" or "dead_letter" lets the job go on past such records')
    add_notes(error, notes)


def add_notes(error: BaseException, notes: Any) -> None:
    """`error.add_note` for every Python; before 3.11 the interpreter does not print them, `describe` does."""
    error.__notes__ = [*getattr(error, "__notes__", ()), *notes]  # type: ignore[attr-defined]


def shorten(value: Any) -> str:
    """The repr of a record, at most a few items long; never raises."""
    try:
        return _shorten.repr(value)
    except Exception as error:
        return f"<a {type(value).__name__} whose repr raised {type(error).__name__}>"


def describe(error: BaseException) -> list[str]:
    """The lines that a user reads: the error, their own frames, innermost last, then the notes."""
    lines = [f"{type(error).__name__}: {_text_of(error)}"]
    frames = user_frames(error.__traceback__)
    if len(frames) > _MOST_FRAMES:
        lines.append(f"  ... {len(frames) - _MOST_FRAMES} more frames")
    for frame in frames[-_MOST_FRAMES:]:
        where = f"{short_path(frame.filename)}:{frame.lineno} in {frame.name}"
        lines.append(f"  {where:<38} {frame.line or ''}".rstrip())
    if not frames and isinstance(error.__cause__, RemoteTraceback):
        lines.extend(line for line in str(error.__cause__).strip().split("\n")[1:] if line.startswith("  "))
    lines.extend(line for note in getattr(error, "__notes__", ()) for line in note.split("\n"))
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


def _pickle(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # pickling runs foreign code, which may raise anything
        pass
    import cloudpickle

    try:
        content: bytes = cloudpickle.dumps(value)
    except Exception:
        return None
    return content
