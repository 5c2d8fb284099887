"""Where user code is: the lines that the threads and coroutines of a subtask are in."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from sage_flow.plan.location import is_engine_file, short_path

if TYPE_CHECKING:
    import asyncio

__all__ = ["coroutine_places", "thread_place"]

_STANDARD: Final = sysconfig.get_paths()["stdlib"] + os.sep
_LIBRARIES: Final = os.path.join(os.sep, "site-packages", "")
_WAITING: Final = ("asyncio", "concurrent", "contextlib.py", "selectors.py", "threading.py")
"""Parts of the standard library that the engine calls, too: a thread in them may run no user code."""


def thread_place(thread: int | None) -> str | None:
    """Return the line of user code that a thread (its identifier) is in; None if it is in the engine itself."""
    frame = sys._current_frames().get(thread or 0)
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    outermost = max((n for n, f in enumerate(frames) if is_engine_file(f.f_code.co_filename)), default=len(frames))
    return _place(frames[:outermost])


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


def _only_waits(file: str) -> bool:
    return file.startswith("<frozen ") or file.removeprefix(_STANDARD).split(os.sep)[0] in _WAITING
