"""What the commands print of jobs: `sage-flow list`, `status`, `channels`, `services`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "channels_text",
    "checkpoints_text",
    "duration_of",
    "job_text",
    "jobs_text",
    "services_text",
    "statistics_text",
    "text_table",
]


def channels_text(statistics: dict[str, Any]) -> str:
    """A line per channel, the fullest first; one per queue; then the stories, and who does not answer.

    >>> channel = {"kind": "edge", "name": "a => b", "medium": "memory", "host": "b", "producers": ["a"], "depth": 3,
    ...            "oldest_s": 0.25, "received": 1000, "rate_per_s": 50.0, "bytes": None}
    >>> print(channels_text({"channels": [channel], "stories": {"b": ["1.0 s ago: waits"]}, "unresponsive": []}))
    channel  kind  medium  waiting  oldest  received  per s  bytes  producers
    a => b   edge  memory        3  250 ms     1,000     50      -          1
    <BLANKLINE>
    story of b
      1.0 s ago: waits
    """
    rows = [
        (
            channel["name"] if channel["kind"] != "responses" else f"responses of {channel['host']}",
            channel["kind"],
            channel["medium"],
            f"{channel['depth']:,}",
            duration_of(channel["oldest_s"]),
            f"{channel['received']:,}",
            f"{channel['rate_per_s']:,.0f}",
            "-" if channel["bytes"] is None else f"{channel['bytes']:,}",
            str(len(channel["producers"])),
        )
        for channel in sorted(statistics["channels"], key=lambda channel: -int(channel["depth"]))
    ]
    titles = ("channel", "kind", "medium", "waiting", "oldest", "received", "per s", "bytes", "producers")
    queues = statistics.get("queues", [])
    return "\n".join([text_table(titles, rows, left=3), *_queues(queues), *_notes(statistics)])


def services_text(statistics: dict[str, Any]) -> str:
    """A line per method of a service; then the stories, and who does not answer.

    >>> ms = {"p50": 0.1, "p90": 0.5, "p99": 12.0}
    >>> add = {"calls": 10, "errors": 1, "in_flight": 2, "latency_ms": ms, "queue_ms": dict.fromkeys(ms)}
    >>> print(services_text({"services": {"adder": {"add": add}, "idle": {}}, "stories": {}, "unresponsive": []}))
    service  method  calls  errors  in flight  latency p50     p90    p99  queue p50  p90  p99
    adder    add        10       1          2       0.1 ms  0.5 ms  12 ms          -    -    -
    idle     -           0       0          0            -       -      -          -    -    -
    """
    none = {"calls": 0, "errors": 0, "in_flight": 0, "latency_ms": {}, "queue_ms": {}}
    rows = [
        (
            service,
            method,
            f"{told['calls']:,}",
            f"{told['errors']:,}",
            f"{told['in_flight']:,}",
            *_percentiles(told["latency_ms"]),
            *_percentiles(told["queue_ms"]),
        )
        for service, methods in statistics["services"].items()
        for method, told in (methods or {"-": none}).items()
    ]
    titles = (
        "service",
        "method",
        "calls",
        "errors",
        "in flight",
        "latency p50",
        "p90",
        "p99",
        "queue p50",
        "p90",
        "p99",
    )
    return "\n".join([text_table(titles, rows, left=2), *_notes(statistics)])


def jobs_text(jobs: Sequence[dict[str, Any]]) -> str:
    """A line per job.

    >>> job = {"id": "fl-1a2b3c", "name": "fl", "status": "RUNNING", "attempt": 1, "submitted": 0.0}
    >>> print(jobs_text([{**job, "submission_id": "raysubmit_1"}]).replace(_when(0.0), "<time>"))
    job        name  status   attempt  submitted            submission
    fl-1a2b3c  fl    RUNNING        1  <time>  raysubmit_1
    """
    rows = [
        (
            job["id"] or "-",
            job["name"],
            job["status"],
            f"{job['attempt']:>7}",
            _when(job["submitted"]),
            job["submission_id"] or "-",
        )
        for job in jobs
    ]
    return text_table(("job", "name", "status", "attempt", "submitted", "submission"), rows, left=6)


def job_text(job: dict[str, Any]) -> str:
    """A job, its subtasks, its counts."""
    told = {
        "job": f"{job['id']} ({job['name']})" if job["id"] else job["name"],
        "status": f"{job['status']}, attempt {job['attempt']}" if job["id"] else job["status"],
        "submitted": _when(job["submitted"]) + (f" as {job['submission_id']}" if job["submission_id"] else ""),
        "ended": _when(job["ended"]) if job["ended"] else "",
        "message": job["message"],
        "checkpoint": checkpoints_text(job.get("checkpoints", ())),
    }
    subtasks = [
        (s["name"], s["status"], s["node"][:8] or "-", str(s["pid"] or "-"), s["actor"]) for s in job["subtasks"]
    ]
    counts = [_counts_of(name, counted, job) for name, counted in job["operators"].items()]
    parts = ["\n".join(f"{title:<11}{value}" for title, value in told.items() if value)]
    if subtasks:
        parts.append(text_table(("subtask", "status", "node", "process", "actor"), subtasks, left=5))
    if counts:
        busy = ["busy"] * bool(job.get("busy"))
        times = ["late", "event time (UTC)"] * bool(job["watermarks"])
        titles = ("operator", *busy, "records", "skipped", "dead letters", *times)
        parts.append(text_table(titles, [row[: len(titles)] for row in counts], left=1))
    if job.get("slow"):
        parts.append("\n".join(job["slow"]))
    return "\n\n".join(parts)


def checkpoints_text(infos: Sequence[dict[str, Any]]) -> str:
    """How many of the latest checkpoints are complete, and of the last one what it took.

    >>> info = {"checkpoint": 7, "failed": None, "took_s": 0.25, "size": 12_000}
    >>> checkpoints_text([info, {**info, "checkpoint": 8, "failed": "it was not complete after 10 s"}])
    '1 complete, the latest is 7 (250 ms, 12,000 bytes); 1 failed, the latest is 8: it was not complete after 10 s'
    """
    complete = [info for info in infos if info["failed"] is None]
    failed = [info for info in infos if info["failed"] is not None]
    told = []
    if complete:
        last = complete[-1]
        what = f"the latest is {last['checkpoint']} ({duration_of(last['took_s'])}, {last['size']:,} bytes)"
        told.append(f"{len(complete)} complete, {what}")
    if failed:
        told.append(f"{len(failed)} failed, the latest is {failed[-1]['checkpoint']}: {failed[-1]['failed']}")
    return "; ".join(told)


def _counts_of(name: str, counted: dict[str, int], job: dict[str, Any]) -> tuple[str, ...]:
    from sage_flow.cli.metrics import event_time

    numbers = (counted[kind] for kind in ("emitted", "skipped", "dead_letters", "late"))
    told = event_time(job["watermarks"][name], time.time()) if name in job["watermarks"] else ""
    busy = [f"{job['busy'][name]:.0%}" if name in job["busy"] else "-"] if job.get("busy") else []
    return name, *busy, *(f"{number:,}" for number in numbers), told


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _queues(queues: Sequence[dict[str, Any]]) -> Iterable[str]:
    """A line per queue, the fullest first; then the stories of those where items came back from who died.

    >>> queue = {"kind": "hosted", "host": "127.0.0.1:7000", "scope": "cluster", "channel_id": "orders", "depth": 1200,
    ...          "oldest_s": 2.5, "puts": 3000, "gets": 1800, "puts_per_s": 40.0, "gets_per_s": 20.0, "bytes": 5000,
    ...          "producers": 2, "waiting_getters": 0, "waiting_putters": 3, "returned": 1,
    ...          "story": ((0.0, "made"), (1.5, "1 items came back from session 7f"))}
    >>> print("\\n".join(_queues([queue])).strip())
    queue   kind    host            waiting  oldest   puts  per s   gets  per s  bytes  producers  blocked
    orders  hosted  127.0.0.1:7000    1,200   2.5 s  3,000     40  1,800     20  5,000          2        3
    <BLANKLINE>
    story of queue orders
      0.0 s after it was made: made
      1.5 s after it was made: 1 items came back from session 7f
    """
    rows = [
        (
            queue["channel_id"] if queue["scope"] == "cluster" else f"{queue['channel_id']} of {queue['scope']}",
            queue["kind"],
            queue["host"],
            f"{queue['depth']:,}",
            duration_of(queue["oldest_s"]),
            f"{queue['puts']:,}",
            f"{queue['puts_per_s']:,.0f}",
            f"{queue['gets']:,}",
            f"{queue['gets_per_s']:,.0f}",
            "-" if queue["bytes"] is None else f"{queue['bytes']:,}",
            str(queue["producers"]),
            str(queue["waiting_getters"] + queue["waiting_putters"]),
        )
        for queue in sorted(queues, key=lambda queue: -int(queue["depth"]))
    ]
    if rows:
        titles = ("queue", "kind", "host", "waiting", "oldest", "puts", "per s", "gets", "per s")
        yield "\n" + text_table((*titles, "bytes", "producers", "blocked"), rows, left=3)
    for queue in queues:
        if queue["returned"]:
            yield f"\nstory of queue {queue['channel_id']}"
            yield from (f"  {seconds:.1f} s after it was made: {what}" for seconds, what in queue["story"])


def _notes(statistics: dict[str, Any]) -> Iterable[str]:
    for name, story in statistics["stories"].items():
        yield f"\nstory of {name}"
        yield from (f"  {event}" for event in story)
    if statistics["unresponsive"]:
        yield f"\nno answer within a second: {', '.join(statistics['unresponsive'])}"


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, is_last_text: bool = False) -> str:
    """Columns two spaces apart; the first `left` begin at the left, the others end at the right.

    `is_last_text`: the last one begins at the left, too.
    """
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    lines, last = [], len(titles) - 1
    for row in (titles, *rows):
        cells = [
            f"{cell:<{width}}" if column < left or (is_last_text and column == last) else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _percentiles(milliseconds: dict[str, float | None]) -> list[str]:
    found = (milliseconds.get(name) for name in ("p50", "p90", "p99"))
    return [duration_of(None if ms is None else ms / 1000) for ms in found]


def duration_of(seconds: float | None) -> str:
    """A duration as tables show it; "-" if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def statistics_text(arguments: argparse.Namespace, statistics: dict[str, Any], **whose: Any) -> str:
    """What `sage-flow channels` and `services` print of it. `whose`: what the job is found by, its name first."""
    if arguments.json:
        import json

        shown = (arguments.what, *(["queues"] if arguments.what == "channels" else []), "stories", "unresponsive")
        return json.dumps({"job": whose, **{name: statistics.get(name, []) for name in shown}}, indent=2)
    name, *others = whose.items()
    title = f"{arguments.what} of job {name[1]!r} ({', '.join(f'{what} {value}' for what, value in others)})"
    return f"{title}\n\n{(channels_text if arguments.what == 'channels' else services_text)(statistics)}"
