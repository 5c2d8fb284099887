"""Where the threads of a job are, as text: `sage-flow stack`, and what `status` says of slow user code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sage_flow.cli.inspection import duration_of

__all__ = ["slow_lines", "stacks_text"]

_WAITS: Final = {"idle": "waits for records", "credit": "waits for credit", "calls": "waits for replies of services"}


def stacks_text(arguments: argparse.Namespace, stacks: Mapping[str, Sequence[dict[str, Any]]], **job: Any) -> str:
    """The stacks of a job (`JobHandle.stacks`), as text or as JSON; `job` says which it is."""
    if arguments.json:
        return json.dumps({**job, "stacks": stacks}, indent=2)
    lines = [line for name, threads in stacks.items() for line in _of_subtask(name, threads)]
    return "\n".join(lines) or "no subtask runs"


def _of_subtask(name: str, threads: Sequence[dict[str, Any]]) -> Iterable[str]:
    """One subtask: its user code first, then who waits inside the engine.

    >>> slow = {"name": "thread 1", "doing": "busy", "for_s": 31.2, "frames": ["job.py:7 in slow    sleep(60)"]}
    >>> print(*_of_subtask("map-1 [1/2]", [{**slow, "doing": "idle", "frames": []}, slow]), sep="\\n")
    map-1 [1/2]
      thread 1: in user code for 31.2 s
        job.py:7 in slow    sleep(60)
      thread 1: waits for records for 31.2 s
    """
    yield name
    if not threads:
        yield "  does not answer, or has ended"
    for thread in sorted(threads, key=lambda thread: not thread["frames"]):
        yield f"  {thread['name']}: {_doing(thread)}"
        yield from (f"    {line}" for line in thread["frames"])


def _doing(thread: dict[str, Any]) -> str:
    if thread["doing"] == "coroutine":
        return "a coroutine"
    busy = "in user code" if thread["frames"] else "works in the engine"
    return f"{_WAITS.get(thread['doing'], busy)} for {duration_of(thread['for_s'])}"


def slow_lines(subtasks: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each subtask of `JobHandle.statistics()` that has been in one call of user code for long.

    >>> slow = {"name": "thread 1", "doing": "busy", "for_s": 31.2, "frames": ["job.py:7 in slow    sleep(60)"]}
    >>> slow_lines([{"name": "map-1 [1/2]", "threads": [slow]}, {"name": "map-2", "threads": []}])
    ['map-1 [1/2]: in user code for 31.2 s at job.py:7 in slow']
    """
    return [
        f"{subtask['name']}: in user code for {duration_of(thread['for_s'])} at {thread['frames'][0].split('    ')[0]}"
        for subtask in subtasks
        for thread in subtask["threads"]
        if thread["frames"]
    ]
