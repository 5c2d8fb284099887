"""How an exception of user code is told: to the user, and across processes.

The text names the operator, the user's file and line, the record and the subtask; the engine's own lines
are folded. How it is packed and written as lines: `packed_error.py`.
"""

from __future__ import annotations

import reprlib
from types import TracebackType
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.functions import Sink
from sage_flow.plan.graph import Operator
from sage_flow.plan.location import is_engine_file
from sage_flow.runtime.packed_error import PackedError, describe, pack_error, rebuild_error, summary, user_frames

__all__ = [
    "PackedError",
    "add_notes",
    "describe",
    "explain_failure",
    "explain_service_failure",
    "fold_engine_frames",
    "is_of_pipeline",
    "limit_records",
    "pack_error",
    "rebuild_error",
    "shorten",
    "shown_record",
    "summary",
    "unpack_error",
    "user_frames",
]

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 120
_shorten.maxdict = 5
_shorten.maxlevel = 3


def unpack_error(packed: PackedError) -> BaseException:
    """Rebuild the exception, with the remote traceback as its cause; the original where it never left."""
    if packed.original is not None:
        return packed.original
    return rebuild_error(packed)


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
        is_batch = operator.kind.takes_batches
        notes.append(
            f"batch     {len(record)} records: {shown_record(record)}"
            if is_batch
            else f"record    {shown_record(record)}"
        )
        notes += _about_on_error(error, operator)
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


def _about_on_error(error: BaseException, operator: Operator) -> list[str]:
    """How the job could go on past such records, or why it cannot."""
    policies = None if is_of_pipeline(error) else _past_such_records(operator)
    if policies is None:
        return []
    if isinstance(error, Exception):
        failed = "batches, without their records" if operator.kind.takes_batches else "records"
        return [f"          on_error={policies} lets the job go on past such {failed}"]
    what = "sys.exit() asks the program to end" if isinstance(error, SystemExit) else "it is not an Exception"
    return [f"          {what}, so on_error does not apply: raise an Exception to fail a single record"]


def _past_such_records(operator: Operator) -> str | None:
    """What `on_error` of this operator could be instead; None where it has no such option."""
    if any(isinstance(function, Sink) for function in operator.functions):
        return None
    return " or ".join(f'"{policy}"' for policy in operator.kind.on_error) or None


def add_notes(error: BaseException, notes: Any) -> None:
    """`error.add_note` for every Python; before 3.11 the interpreter does not print them, `describe` does."""
    error.__notes__ = [*getattr(error, "__notes__", ()), *notes]  # type: ignore[attr-defined]


_most_chars: list[int | None] = [None]


def limit_records(most_chars: int | None) -> None:
    """From now on errors of this process show so many characters of a record; 0: nothing of it, None: the default."""
    _most_chars[0] = most_chars


def shown_record(value: Any) -> str:
    """What errors show of a record, or of an argument of a call: as `shorten`, within the limit of this process."""
    most = _most_chars[0]
    if most is None:
        return shorten(value)
    if most == 0:
        return f"<{type(value).__name__}, hidden>"
    text = shorten(value)
    return text if len(text) <= most else f"{text[:most]}..."


def shorten(value: Any) -> str:
    """The repr of a record, at most a few items long and on one line; never raises."""
    try:
        return "\\n".join(_shorten.repr(value).splitlines())
    except Exception as error:
        return f"<a {type(value).__name__} whose repr raised {type(error).__name__}>"


def fold_engine_frames(error: BaseException) -> None:
    """Take the engine's frames out of the tracebacks of an exception and its causes, so that Python prints the user's.

    What the engine was handling, and no user code, is left out.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        found.__traceback__ = _folded(found.__traceback__)
        context = found.__context__
        if context is not None and not user_frames(context.__traceback__):
            found.__suppress_context__ = True
        found = found.__cause__ or context


def _folded(trace: TracebackType | None) -> TracebackType | None:
    kept: TracebackType | None = None
    frames = []
    while trace is not None:
        if not is_engine_file(trace.tb_frame.f_code.co_filename):
            frames.append(trace)
        trace = trace.tb_next
    for trace in reversed(frames):
        kept = TracebackType(kept, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
    return kept
