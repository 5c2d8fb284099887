"""Where user code is: the lines that the threads and coroutines of a subtask are in."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from sage_flow.plan.location import is_engine_file, short_path

if TYPE_CHECKING:
    import asyncio

__all__ = ["coroutine_frames", "coroutine_places", "thread_frames", "thread_place"]

_STANDARD: Final = sysconfig.get_paths()["stdlib"] + os.sep
_LIBRARIES: Final = os.path.join(os.sep, "site-packages", "")
_WAITING: Final = ("asyncio", "concurrent", "contextlib.py", "selectors.py", "threading.py")
"""Parts of the standard library that the engine calls, too: a thread in them may run no user code."""


def thread_place(thread: int | None) -> str | None:
    """Return the line of user code that a thread (its identifier) is in; None if it is in the engine itself."""
    return _place(_frames_in(thread))


def thread_frames(thread: int) -> tuple[str, ...]:
    """Return the lines of user code that a thread is in, the innermost first; none if it is in the engine itself."""
    return _lines(_frames_in(thread))


def coroutine_frames(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each coroutine of an event loop, and its lines, the innermost first."""
    import asyncio

    for task in asyncio.all_tasks(loop):
        if lines := _lines(list(_frames_of(task.get_coro()))[::-1]):
            yield task.get_name(), lines


def _frames_in(thread: int | None) -> list[FrameType]:
    """Return what a thread has called, the innermost first, without what the engine was called by."""
    frame = sys._current_frames().get(thread or 0)
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    outermost = max((n for n, f in enumerate(frames) if is_engine_file(f.f_code.co_filename)), default=len(frames))
    return frames[:outermost]


def coroutine_places(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Yield the lines of user code in which the coroutines of an event loop wait."""
    import asyncio

    for task in asyncio.all_tasks(loop):
        frames = list(_frames_of(task.get_coro()))
        if (place := _place(reversed(frames))) is not None:
            yield place


def _frames_of(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames from a coroutine to the innermost awaitable that it waits for."""
    while awaited is not None:
        for frame, waits_for in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            if (found := getattr(awaited, frame, None)) is not None:
                yield found
                awaited = getattr(awaited, waits_for)
                break
        else:
            return


def _place(frames: Iterable[FrameType]) -> str | None:
    """Return the innermost line in a file of the user, else in a library; `frames` begin with the innermost."""
    user = [frame for frame in frames if not is_engine_file(frame.f_code.co_filename)]
    own = [frame for frame in user if not frame.f_code.co_filename.startswith((_STANDARD, "<frozen "))]
    others = [frame for frame in user if not _only_waits(frame.f_code.co_filename)]
    apart = [frame for frame in own if _LIBRARIES not in frame.f_code.co_filename]
    found = next(iter(apart or own or others), None)
    if found is None:
        return None
    return f"{short_path(found.f_code.co_filename)}:{found.f_lineno} in {found.f_code.co_name}"


def _lines(frames: list[FrameType]) -> tuple[str, ...]:
    """Return a text for each line of user code and of libraries; the lines of the engine between them are counted."""
    found: list[str] = []
    hidden = 0
    for frame in frames:
        code = frame.f_code
        if is_engine_file(code.co_filename) or _only_waits(code.co_filename):
            hidden += 1
            continue
        if hidden and found:
            found.append(f"... {hidden} lines of sage_flow ...")
        hidden = 0
        text = linecache.getline(code.co_filename, frame.f_lineno).strip()
        found.append(
            f"{short_path(code.co_filename)}:{frame.f_lineno} in {code.co_name}" + (f"    {text}" if text else "")
        )
    return tuple(found)


def _only_waits(file: str) -> bool:
    return file.startswith("<frozen ") or file.removeprefix(_STANDARD).split(os.sep)[0] in _WAITING
