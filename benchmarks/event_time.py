"""Event time: windows, sessions and a join of windows, beside loops that keep the same windows by hand; watermarks.

A record is a tuple of time, key and value. Both sides call the same functions for the three. A quarter of the records
are up to a second out of order. The loops compute the watermark every 1,024 records.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.case import Case, Figure, Timed
from sage_flow import DataStream, LocalEnvironment, SessionWindow, SlidingWindow, TumblingWindow
from sage_flow.runtime.watermark import WatermarkMinimum
from sage_flow.windows import Window

__all__ = ["CASES"]

Record = tuple[int, int, int]
Take = Callable[[tuple[Any, ...]], None]
Outcome = tuple[int, int, int]

_PER_MS = 10  # records
_DISORDER_MS = 1000
_BATCH = 1024
_SIZE_MS, _SLIDE_MS, _GAP_MS = 10_000, 2_000, 10_000
_NEVER = 1 << 62

_FUNCTIONS: tuple[Callable[[Record], int], ...] = (lambda r: r[0], lambda r: r[1], lambda r: r[2])
TIME, KEY, VALUE = _FUNCTIONS
BOTH: Callable[[Record, Record], int] = lambda left, right: left[2] + right[2]  # noqa: E731 - as users write them


def records(size: int, folder: Path, *, keys: int, active: int | None = None) -> list[Record]:
    """Of all `keys`, or of `active` ones, which change every ten seconds: then the others have a pause."""
    draw = random.Random(size).random
    made = []
    for n in range(size):
        late = int(draw() * 4 * _DISORDER_MS) if draw() < 0.25 else 0
        time = n // _PER_MS - late % _DISORDER_MS
        key = int(draw() * (active or keys))
        if active is not None:
            key = (key + n // (_PER_MS * _GAP_MS) * active) % keys
        made.append((time, key, int(draw() * 1_000_000)))
    return made


def taker() -> tuple[Take, Callable[[], Outcome]]:
    """A sink for (key, start, end, value), and what reads how many came, and the sums of starts and values."""
    received = starts = total = 0

    def take(result: tuple[Any, ...]) -> None:
        nonlocal received, starts, total
        received += 1
        starts += result[1]
        total += result[3]

    return take, lambda: (received, starts, total)


def batches(items: list[Record]) -> Iterator[list[Record]]:
    return (items[first : first + _BATCH] for first in range(0, len(items), _BATCH))


def timed(env: LocalEnvironment, items: list[Record]) -> DataStream[Record]:
    return env.from_collection(items).assign_timestamps(TIME, max_out_of_order=timedelta(milliseconds=_DISORDER_MS))


# -- windows --------------------------------------------------------------------------------------------------


def max_by_hand(items: list[Record]) -> Outcome:
    time, key, value = TIME, KEY, VALUE
    take, outcome = taker()
    windows: dict[int, dict[int, int]] = {}
    largest = watermark = -_NEVER

    def fire() -> None:
        for start in sorted(start for start in windows if start + _SIZE_MS <= watermark):
            for k, best in windows.pop(start).items():
                take((k, start, start + _SIZE_MS, best))

    for batch in batches(items):
        for item in batch:
            t = time(item)
            if t > largest:
                largest = t
            start = t - t % _SIZE_MS
            if start + _SIZE_MS <= watermark:
                continue
            table = windows.get(start)
            if table is None:
                table = windows[start] = {}
            k = key(item)
            v = value(item)
            best = table.get(k)
            if best is None or v > best:
                table[k] = v
        watermark = largest - _DISORDER_MS
        fire()
    watermark = _NEVER
    fire()
    return outcome()


def sliding_by_hand(items: list[Record]) -> Outcome:
    """Counts each record once, in its pane of two seconds; five panes make a window."""
    time, key = TIME, KEY
    take, outcome = taker()
    panes: dict[int, dict[int, int]] = {}
    largest = watermark = -_NEVER
    upcoming = _NEVER  # the end of the next window

    def fire() -> None:
        nonlocal upcoming
        while panes and upcoming <= watermark:
            counts: dict[int, int] = {}
            for start in range(upcoming - _SIZE_MS, upcoming, _SLIDE_MS):
                for k, n in panes.get(start, {}).items():
                    counts[k] = counts.get(k, 0) + n
            for k, n in counts.items():
                take((k, upcoming - _SIZE_MS, upcoming, n))
            panes.pop(upcoming - _SIZE_MS, None)
            upcoming += _SLIDE_MS

    for batch in batches(items):
        for item in batch:
            t = time(item)
            if t > largest:
                largest = t
            start = t - t % _SLIDE_MS
            if start + _SIZE_MS <= watermark:
                continue
            table = panes.get(start)
            if table is None:
                table = panes[start] = {}
                upcoming = min(upcoming, start + _SLIDE_MS)
            k = key(item)
            table[k] = table.get(k, 0) + 1
        watermark = largest - _DISORDER_MS
        fire()
    watermark = _NEVER
    fire()
    return outcome()


def sessions_by_hand(items: list[Record]) -> Outcome:
    """A key has a list of its sessions, [start, end, count], mostly of one; a heap tells which end next."""
    time, key = TIME, KEY
    take, outcome = taker()
    sessions: dict[int, list[list[int]]] = {}
    ends: list[tuple[int, int]] = []
    largest = watermark = -_NEVER

    def fire() -> None:
        while ends and ends[0][0] <= watermark:
            _, k = heapq.heappop(ends)
            live = []
            for session in sessions.pop(k, ()):
                if session[1] <= watermark:
                    take((k, *session))
                else:
                    live.append(session)
                    heapq.heappush(ends, (session[1], k))
            if live:
                sessions[k] = live

    for batch in batches(items):
        for item in batch:
            t = time(item)
            if t > largest:
                largest = t
            k = key(item)
            of_key = sessions.get(k)
            if of_key is not None and len(of_key) == 1:
                session = of_key[0]
                if session[0] < t + _GAP_MS and t < session[1]:
                    session[2] += 1
                    if t < session[0]:
                        session[0] = t
                    elif t + _GAP_MS > session[1]:
                        session[1] = t + _GAP_MS
                    continue
            made = [t, t + _GAP_MS, 1]
            kept = []
            for session in of_key or ():
                if session[0] < made[1] and made[0] < session[1]:
                    made = [min(made[0], session[0]), max(made[1], session[1]), made[2] + session[2]]
                else:
                    kept.append(session)
            if made[1] <= watermark:
                continue
            sessions[k] = [*kept, made]
            heapq.heappush(ends, (made[1], k))
        watermark = largest - _DISORDER_MS
        fire()
    watermark = _NEVER
    fire()
    return outcome()


def run_max(items: list[Record]) -> Outcome:
    take, outcome = taker()
    env = LocalEnvironment("window-max")
    timed(env, items).key_by(KEY).window(TumblingWindow(timedelta(milliseconds=_SIZE_MS))).max(VALUE).for_each(take)
    env.execute(progress=False)
    return outcome()


def run_count(items: list[Record], window: Window) -> Outcome:
    take, outcome = taker()
    env = LocalEnvironment("window-count")
    timed(env, items).key_by(KEY).window(window).count().for_each(take)
    env.execute(progress=False)
    return outcome()


# -- the join -------------------------------------------------------------------------------------------------


def both_sides(size: int, folder: Path, *, keys: int) -> tuple[list[Record], list[Record]]:
    """Half of the records are on each side."""
    made = records(size, folder, keys=keys)
    return made[::2], made[1::2]


def join_by_hand(sides: tuple[list[Record], list[Record]]) -> Outcome:
    time, key, both = TIME, KEY, BOTH
    take, outcome = taker()
    windows: tuple[dict[int, dict[int, list[Record]]], ...] = ({}, {})
    largest = [-_NEVER, -_NEVER]
    watermark = -_NEVER

    def fire() -> None:
        for start in sorted(start for start in {*windows[0], *windows[1]} if start + _SIZE_MS <= watermark):
            lefts, rights = (tables.pop(start, {}) for tables in windows)
            for k, of_left in lefts.items():
                of_right = rights.get(k)
                if of_right is not None:
                    for left in of_left:
                        for right in of_right:
                            take((k, start, start + _SIZE_MS, both(left, right)))

    for pair in zip(batches(sides[0]), batches(sides[1])):
        for side, batch in enumerate(pair):
            tables, most = windows[side], largest[side]
            for item in batch:
                t = time(item)
                if t > most:
                    most = t
                start = t - t % _SIZE_MS
                if start + _SIZE_MS <= watermark:
                    continue
                table = tables.get(start)
                if table is None:
                    table = tables[start] = {}
                k = key(item)
                of_key = table.get(k)
                if of_key is None:
                    table[k] = [item]
                else:
                    of_key.append(item)
            largest[side] = most
        watermark = min(largest) - _DISORDER_MS
        fire()
    watermark = _NEVER
    fire()
    return outcome()


def run_join(sides: tuple[list[Record], list[Record]]) -> Outcome:
    take, outcome = taker()
    env = LocalEnvironment("window-join")
    left, right = (timed(env, items).key_by(KEY) for items in sides)
    left.join_window(right, TumblingWindow(timedelta(milliseconds=_SIZE_MS)), BOTH).for_each(take)
    env.execute(progress=False)
    return outcome()


# -- many keys, many inputs -----------------------------------------------------------------------------------


def run_keys(size: int, *, keys: int) -> int:
    """The greatest number of each key, in one window."""
    total = 0

    def take(result: tuple[Any, ...]) -> None:
        nonlocal total
        total = max(total, result[3])

    env = LocalEnvironment("window-keys")
    source = env.from_collection(range(size)).assign_timestamps(
        lambda n: n // _PER_MS, max_out_of_order=timedelta(milliseconds=_DISORDER_MS)
    )
    source.key_by(lambda n: n * 48_271 % keys).window(TumblingWindow(timedelta(days=1))).max().for_each(take)
    env.execute(progress=False)
    return total


Clocks = list[tuple[int, int]]
_INPUTS = 1000


def clocks(size: int, folder: Path) -> Clocks:
    """Watermarks of many inputs, as pairs of input and time: each input sends one about every 50 ms, in any order."""
    draw = random.Random(size)
    made = []
    for n in range(size // _INPUTS):
        order = draw.sample(range(_INPUTS), _INPUTS)
        made += [(channel, 50 * n + draw.randrange(50)) for channel in order]
    return made


def minimum_by_hand(given: Clocks) -> Timed:
    now = dict.fromkeys(range(_INPUTS), -1)
    least, told = -1, []

    def on_watermark(channel: int, time: int) -> None:
        nonlocal least
        now[channel] = time
        if (new := min(now.values())) > least:
            least = new
            told.append(new)

    return _per_watermark(given, on_watermark, told)


def minimum_of_inputs(given: Clocks) -> Timed:
    minimum, told = WatermarkMinimum(range(_INPUTS)), []

    def on_watermark(channel: int, time: int) -> None:
        advance = minimum.on_watermark(channel, time)
        if advance is not None:
            told.append(advance.timestamp)

    return _per_watermark(given, on_watermark, told)


def _per_watermark(given: Clocks, on_watermark: Callable[[int, int], None], told: list[int]) -> Timed:
    """The median of rounds in which each input sends one."""
    seconds = []
    for first in range(0, len(given), _INPUTS):
        began = perf_counter()
        for channel, time in given[first : first + _INPUTS]:
            on_watermark(channel, time)
        seconds.append((perf_counter() - began) / _INPUTS)
    median = statistics.median(seconds)
    return Timed(told, median, 1 / median)


# -- the cases ------------------------------------------------------------------------------------------------

_SLIDING = SlidingWindow(timedelta(milliseconds=_SIZE_MS), timedelta(milliseconds=_SLIDE_MS))
_SESSIONS = SessionWindow(timedelta(milliseconds=_GAP_MS))
_THOUSAND = partial(records, keys=1000)

CASES = (
    Case(
        "window-max",
        "greatest value of each of 1,000 keys, tumbling windows of 10 s",
        1_000_000,
        20_000,
        _THOUSAND,
        max_by_hand,
        run_max,
        bar=0.7,
    ),
    Case(
        "window-sliding",
        "count of each of 1,000 keys, windows of 10 s every 2 s; by hand in panes, too",
        1_000_000,
        20_000,
        _THOUSAND,
        sliding_by_hand,
        partial(run_count, window=_SLIDING),
        bar=0.6,
    ),
    Case(
        "window-sessions",
        "count in each session of 1,000 keys, gap 10 s",
        1_000_000,
        20_000,
        partial(records, keys=1000, active=100),
        sessions_by_hand,
        partial(run_count, window=_SESSIONS),
        bar=0.5,
    ),
    Case(
        "window-join",
        "two inputs, pairs of equal keys in windows of 10 s, about one for each record",
        1_000_000,
        20_000,
        partial(both_sides, keys=50_000),
        join_by_hand,
        run_join,
        bar=0.6,
    ),
    Case(
        "window-keys",
        "greatest value of each of 1,000,000 keys in one window, against sage_flow with 1,000 keys",
        5_000_000,
        20_000,
        lambda size, folder: size,
        partial(run_keys, keys=1_000),
        partial(run_keys, keys=1_000_000),
        figure=Figure.TIMES,
        bar=2.0,
        rounds=3,
    ),
    Case(
        "watermarks",
        "watermark of one of 1,000 inputs, against the minimum of a dict",
        100_000,
        2_000,
        clocks,
        minimum_by_hand,
        minimum_of_inputs,
        figure=Figure.CALLS,
        most_s=3e-6,
        clock="wall",
        same_process=True,
    ),
)
