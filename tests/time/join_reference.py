"""What joins give, said as plainly as possible: each pair of rows is looked at. And a way to drive a join by hand.

A row is a named tuple of key, value and time. A join gives pairs of rows, None for the one that is missing.
"""

import math
from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

from sage_flow import LocalEnvironment, RuntimeContext
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.report import Counters
from sage_flow.testing import TestSource


class Row(NamedTuple):
    key: Any
    value: Any
    time: int


def pair(left, right):
    """The function of all joins here."""
    return left, right


def meeting(lefts, rights, how, meets):
    """All pairs that meet, and the rows that meet none where `how` keeps them."""
    pairs = [(left, right) for left in lefts for right in rights if left.key == right.key and meets(left, right)]
    met = {id(row) for both in pairs for row in both}
    if how in ("left", "outer"):
        pairs += [(left, None) for left in lefts if id(left) not in met]
    if how == "outer":
        pairs += [(None, right) for right in rights if id(right) not in met]
    return pairs


def join(lefts, rights, how, ttl=None):
    return meeting(lefts, rights, how, lambda left, right: ttl is None or abs(left.time - right.time) <= ttl)


def join_interval(lefts, rights, how, before, after):
    return meeting(lefts, rights, how, lambda left, right: left.time - before <= right.time <= left.time + after)


def join_asof(lefts, rights, how, tolerance=math.inf):
    """`rights` in the order of arrival."""
    pairs = []
    for left in lefts:
        found = [r for r in rights if r.key == left.key and left.time - tolerance <= r.time <= left.time]
        newest = max((right.time for right in found), default=None)
        latest = [right for right in found if right.time == newest]
        if latest or how == "left":
            pairs.append((left, latest[-1] if latest else None))
    return pairs


def join_windows(lefts, rights, how, windows):
    """`windows`: of a row, as pairs of start and end."""
    return [
        (start, end, *both)
        for key, start, end in {(row.key, *span) for row in [*lefts, *rights] for span in windows(row)}
        for both in meeting(
            [row for row in lefts if row.key == key and start <= row.time < end],
            [row for row in rights if row.key == key and start <= row.time < end],
            how,
            lambda left, right: True,
        )
    ]


def sessions(rows, gap):
    """The session windows of each row of one key and another."""
    spans = []
    for row in sorted(rows, key=lambda row: (str(row.key), row.time)):
        if spans and spans[-1][0] == row.key and row.time < spans[-1][2]:
            spans[-1][2] = row.time + gap
        else:
            spans.append([row.key, row.time, row.time + gap])
    return lambda row: [(s, e) for key, s, e in spans if key == row.key and s <= row.time < e]


def bag(pairs):
    return Counter(map(repr, pairs))


def disordered(rows, bound, draws):
    """The rows in an order in which none is further behind the largest time before it than `bound`."""
    return [row for _, row in sorted(zip((row.time + draw % (bound + 1) for row, draw in zip(rows, draws)), rows))]


def stream(env, rows, bound, name, **options):
    source = env.from_source(TestSource(rows), name=name)
    timed = source.assign_timestamps(lambda row: row.time, max_out_of_order=timedelta(milliseconds=bound), **options)
    return timed.key_by(lambda row: row.key)


class Machine:
    """One join in one subtask, driven by hand: rows and times in any order. `write(left, right)` makes the join."""

    def __init__(self, write):
        env = LocalEnvironment("machine")
        joined = write(stream(env, [], 0, "left"), stream(env, [], 0, "right"))
        joined.assign_timestamps(lambda pair, ctx: ctx.timestamp, max_out_of_order=timedelta(0)).collect("rows")
        joined.late_records().collect("late") if hasattr(joined, "late_records") else None
        operator = next(o for chain in env._graph.plan().chains for o in chain.operators if o.kind.pairs)
        self.given = []  # pairs of a value and its timestamp
        self.late = []
        self.held = -math.inf  # the watermark that went on
        context = RuntimeContext("job", operator.name, 0, 1, keyed=True)
        context._side_output = lambda tag, value: self.late.append(value)
        self.counters = Counters([operator])
        self.bound = BoundOperator(operator, 0, context, self.counters)
        self.bound.reads_late = True

    def left(self, row):
        self._take(self.bound.held.left, row)

    def right(self, row):
        self._take(self.bound.held.right, row)

    def _take(self, add, row):
        for value, time in add(row.key, row, row.time):
            self._give(value, time)
        if self.bound.held.is_urgent:
            self.time(self.bound.now)

    def time(self, now):
        self.bound.now = max(now, self.bound.now)
        for batch in self.bound.held.due(self.bound.now):
            for value, time in batch:
                self._give(value, time)
        self.held = max(self.held, self.bound.held.holds(self.bound.now))

    def _give(self, value, time):
        self.given.append((value, time))

    def end(self):
        self.time(math.inf)
        for value in self.bound.at_end():
            self._give(value, math.inf)

    @property
    def pairs(self):
        return [value for value, _ in self.given]
