"""What a running job shows on stderr: a table that renews itself on a terminal, else a line now and then.

A thread looks at `job.metrics()`; the job knows nothing of it. Nothing is imported or started for a job that
shows nothing, and rich not before there is a table.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from sage_flow.errors import ClusterError, InvalidTimestampError
from sage_flow.timestamps import MAX_TIMESTAMP, MIN_TIMESTAMP, duration_text, utc_datetime

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from sage_flow.executors.checkpoint_reports import CheckpointInfo
    from sage_flow.job import JobHandle
    from sage_flow.runtime.report import OperatorCounts

__all__ = ["Row", "Snapshot", "Speedometer", "event_time", "is_shown", "line_of", "watching"]

_SHORT_JOB_S = 0.5
_TABLE_S = 0.25
_LINE_S = 2.0
_RATE_WINDOW_S = 1.0
_DAY_MS = 24 * 3600 * 1000


@contextlib.contextmanager
def watching(job: JobHandle, progress: bool | None) -> Iterator[None]:
    """Show the job's progress on stderr as long as the block runs.

    Args:
        progress: True: show it; False: do not; None: show it if stderr is a terminal and the job takes longer
            than half a second.
    """
    if not is_shown(progress):
        yield
        return
    watch = _Watch(job, sys.stderr, patience_s=_SHORT_JOB_S if progress is None else 0.0)
    try:
        watch.start()
        yield
    finally:
        watch.stop()


def is_shown(progress: bool | None) -> bool:
    """Whether a job that is to show its progress so shows it."""
    stderr = sys.stderr
    is_gone = stderr is None or stderr.closed  # under pythonw, in a daemon
    return not is_gone and (stderr.isatty() if progress is None else progress)


class Row(NamedTuple):
    """An operator: its counts, its records per second, the records that wait in front of it.

    `event_time`: how far it is, as people read it, and how far behind the clock that is; "" where time is not used.
    """

    name: str
    counts: OperatorCounts
    rate: float
    queued: int
    event_time: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment, `elapsed_s` after its start. `checkpoint`: what is known of its last one, if it has any."""

    job: str
    status: str
    elapsed_s: float
    rows: tuple[Row, ...]
    checkpoint: str = ""


class Speedometer:
    """Records per second, from counts at different times.

    A rate is that of the last `window_s` seconds, or of all the time so far if that is shorter.
    """

    def __init__(self, start_s: float, window_s: float = _RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, dict[str, int]]] = deque([(start_s, {})])

    def rates(self, now_s: float, counts: Mapping[str, int]) -> dict[str, float]:
        """Note the counts at `now_s`; return the rate of each name."""
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - self._window_s:
            self._seen.popleft()
        then_s, before = self._seen[0]
        self._seen.append((now_s, dict(counts)))
        seconds = now_s - then_s
        if seconds <= 0:
            return dict.fromkeys(counts, 0.0)
        return {name: (count - before.get(name, 0)) / seconds for name, count in counts.items()}


def line_of(snapshot: Snapshot) -> str:
    """The snapshot as one line of plain text; operators that did nothing yet are left out.

    >>> from sage_flow.runtime.report import OperatorCounts
    >>> rows = (Row("parse", OperatorCounts(4096, skipped=2), rate=2048.0, queued=512),)
    >>> print(line_of(Snapshot("flights", "RUNNING", 2.04, rows)))
    flights RUNNING 2.0 s: parse 4,096 (2,048/s, 2 skipped, 512 waiting)
    """
    active = [row for row in snapshot.rows if any(row.counts) or row.queued]
    shown = ", ".join(f"{row.name} {row.counts.emitted:,}{_details(row)}" for row in active)
    last = f"; {snapshot.checkpoint}" if snapshot.checkpoint else ""
    return f"{snapshot.job} {snapshot.status} {snapshot.elapsed_s:.1f} s: {shown or 'no records yet'}{last}"


def _details(row: Row) -> str:
    parts = [f"{row.rate:,.0f}/s"] if row.rate >= 0.5 else []
    parts += [f"{row.counts.skipped:,} skipped"] if row.counts.skipped else []
    parts += [f"{row.counts.dead_letters:,} dead letters"] if row.counts.dead_letters else []
    parts += [f"{row.counts.late:,} late"] if row.counts.late else []
    parts += [f"{row.queued:,} waiting"] if row.queued else []
    parts += [f"at {row.event_time}"] if row.event_time else []
    return f" ({', '.join(parts)})" if parts else ""


class _Watch:
    """The thread that looks at the job, and its screen."""

    def __init__(self, job: JobHandle, stderr: IO[str], *, patience_s: float) -> None:
        """`patience_s`: a job that is over by then is not shown."""
        self._job = job
        self._stderr = stderr
        self._patience_s = patience_s
        self._start_s = time.monotonic()
        self._speed = Speedometer(self._start_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress of {job.name}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Show the last state and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._patience_s and self._stop.wait(self._patience_s):
            return
        try:
            self._show()
        except OSError:
            pass  # stderr is closed, or its reader gone: nobody looks any more, and the job goes on

    def _show(self) -> None:
        if not self._stop.is_set():
            with _screen(self._stderr) as screen:
                pause_s = screen.first_s
                while not self._stop.wait(pause_s):
                    with contextlib.suppress(ClusterError):  # no answer now: the last counts stay
                        screen.show(self._snapshot(self._speed))
                    pause_s = screen.interval_s
        whole_run = Speedometer(self._start_s)
        with contextlib.suppress(ClusterError):
            print(line_of(self._snapshot(whole_run)), file=self._stderr, flush=True)

    def _snapshot(self, speed: Speedometer) -> Snapshot:
        metrics = self._job.metrics()
        now_s = time.monotonic()
        operators: dict[str, OperatorCounts] = metrics["operators"]
        rates = speed.rates(now_s, {name: counts.emitted for name, counts in operators.items()})
        queued = _by_first_operator(metrics["queued"], operators)
        times = {name: event_time(mark, time.time()) for name, mark in metrics.get("watermarks", {}).items()}
        rows = (
            Row(name, counts, rates[name], queued.get(name, 0), times.get(name, ""))
            for name, counts in operators.items()
        )
        last = _last_checkpoint(metrics.get("checkpoints", ()))
        return Snapshot(self._job.name, str(self._job.status), now_s - self._start_s, tuple(rows), last)


def _last_checkpoint(infos: Sequence[CheckpointInfo]) -> str:
    if not infos:
        return ""
    last = infos[-1]
    return f"checkpoint {last.checkpoint} {'failed' if last.failed else f'took {last.took_s:.1f} s'}"


def event_time(watermark: int, now_s: float) -> str:
    """A watermark as people read it, with how far it is behind the clock if that is less than a day.

    >>> event_time(1_714_557_600_000, 1_714_557_602.5)
    '2024-05-01 10:00:00 (2 s behind)'
    """
    if watermark <= MIN_TIMESTAMP:
        return "no time yet"
    if watermark >= MAX_TIMESTAMP:
        return "the end"
    try:
        text = f"{utc_datetime(watermark):%Y-%m-%d %H:%M:%S}"
    except InvalidTimestampError:
        return str(watermark)
    behind_ms = int(now_s * 1000) - watermark
    is_near = 0 <= behind_ms < _DAY_MS
    return f"{text} ({duration_text(behind_ms // 1000 * 1000)} behind)" if is_near else text


def _by_first_operator(queued: Mapping[str, int], operators: Mapping[str, Any]) -> dict[str, int]:
    """What waits for a chain, waits for its first operator; a chain is named `first -> second`."""
    first = {}
    for chain, count in queued.items():
        names = [name for name in operators if chain == name or chain.startswith(f"{name} -> ")]
        first[max(names, key=len, default=chain)] = count
    return first


# -- screens --------------------------------------------------------------------------------------------------


class _Screen(Protocol):
    """Shows a snapshot after `first_s` seconds and then every `interval_s`."""

    first_s: float
    interval_s: float

    def show(self, snapshot: Snapshot) -> None: ...


def _screen(stderr: IO[str]) -> contextlib.AbstractContextManager[_Screen]:
    if stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _open_table(stderr)
    return contextlib.nullcontext(_LineScreen(stderr))


class _LineScreen:
    first_s = interval_s = _LINE_S

    def __init__(self, stderr: IO[str]) -> None:
        self._stderr = stderr

    def show(self, snapshot: Snapshot) -> None:
        print(line_of(snapshot), file=self._stderr, flush=True)


class _TableScreen:
    first_s = 0.0
    interval_s = _TABLE_S

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(_table(snapshot), refresh=True)


@contextlib.contextmanager
def _open_table(stderr: IO[str]) -> Iterator[_TableScreen]:
    """A table that is gone when the block is left. What the job prints meanwhile appears above it."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stderr, force_terminal=True)
    # rich's own redirection reads markup, and may fail, in what the job prints; and is not for several threads.
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None and sys.stdout.isatty():
            above = stack.enter_context(_printed_above(console, sys.stdout))
            stack.enter_context(contextlib.redirect_stdout(above))
        above = stack.enter_context(_printed_above(console, stderr))
        stack.enter_context(contextlib.redirect_stderr(above))
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        yield _TableScreen(stack.enter_context(live))


class _Above:
    """A file whose whole lines are printed above the table; for several threads."""

    def __init__(self, console: Console, file: IO[str]) -> None:
        self._console: Console | None = console
        self._file = file
        self._lock = threading.Lock()
        self._rest = ""

    def write(self, text: str) -> int:
        from rich.text import Text

        with self._lock:
            if self._console is None:
                return self._file.write(text)
            *lines, self._rest = (self._rest + text).split("\n")
            if lines:
                self._console.print(Text("\n".join(lines)), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """A part of a line waits for its end."""

    def end_table(self) -> None:
        """From now on write to the file itself, also for those who keep this one."""
        with self._lock:
            self._file.write(self._rest)
            self._console, self._rest = None, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def _printed_above(console: Console, file: IO[str]) -> Iterator[IO[str]]:
    above = _Above(console, file)
    try:
        yield cast("IO[str]", above)
    finally:
        above.end_table()


def _table(snapshot: Snapshot) -> Table:
    from rich.table import Table
    from rich.text import Text

    skips = any(row.counts.skipped for row in snapshot.rows)
    letters = any(row.counts.dead_letters for row in snapshot.rows)
    late = any(row.counts.late for row in snapshot.rows)
    timed = any(row.event_time for row in snapshot.rows)
    title = f"{snapshot.job}  {snapshot.status}  {snapshot.elapsed_s:.1f} s"
    title += f"  {snapshot.checkpoint}" if snapshot.checkpoint else ""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("operator")  # the one that gives way
    columns = ["records", "records/s", "waiting", *["skipped"] * skips, *["dead letters"] * letters]
    columns += [*["late"] * late, *["event time (UTC)"] * timed]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in snapshot.rows:
        cells = {
            "records": f"{row.counts.emitted:,}",
            "records/s": f"{row.rate:,.0f}",
            "waiting": f"{row.queued:,}",
            "skipped": f"{row.counts.skipped:,}",
            "dead letters": f"{row.counts.dead_letters:,}",
            "late": f"{row.counts.late:,}",
            "event time (UTC)": row.event_time,
        }
        table.add_row(Text(row.name, no_wrap=True, overflow="ellipsis"), *(cells[column] for column in columns))
    return table
