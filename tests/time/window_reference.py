"""The rules of late records, written down once more as simply as possible: one record, one step, no panes.

`run` returns what windows give, in order, and which records are late.
"""

import math

INFINITY = math.inf


class Live:
    """A window of a key that still takes records."""

    def __init__(self, key, start, end, values=()):
        self.key, self.start, self.end, self.values = key, start, end, list(values)
        self.is_changed = True


def grid(ts, size, slide, offset):
    """The windows [start, end) of a timestamp."""
    start = (ts - offset) // slide * slide + offset
    while start > ts - size:
        yield start, start + size
        start -= slide


class Reference:
    def __init__(self, *, bound, lateness, size=None, slide=None, offset=0, gap=None, merges_touching=False):
        self.bound, self.lateness = bound, lateness
        self.size, self.slide, self.offset, self.gap = size, slide or size, offset, gap
        self.touch = 1 if merges_touching else 0
        self.clock = -INFINITY
        self.live, self.late, self.given = [], [], []

    def run(self, records):
        for key, value, ts in records:
            (self.take_session if self.gap else self.take)(key, value, ts)
            self.advance(max(self.clock, ts - self.bound))
        self.advance(INFINITY)
        return self.given, self.late

    def take(self, key, value, ts):
        spans = list(grid(ts, self.size, self.slide, self.offset))
        kept = [(start, end) for start, end in spans if self.clock < end + self.lateness]
        if spans and not kept:
            self.late.append((key, value, ts))
        for start, end in kept:
            window = next((w for w in self.live if (w.key, w.start, w.end) == (key, start, end)), None)
            if window is None:
                window = Live(key, start, end)
                self.live.append(window)
            window.values.append(value)
            window.is_changed = True

    def take_session(self, key, value, ts):
        start, end = ts, ts + self.gap
        met = [w for w in self.live if w.key == key and w.start < end + self.touch and start < w.end + self.touch]
        merged = Live(key, min([start, *(w.start for w in met)]), max([end, *(w.end for w in met)]))
        if merged.end + self.lateness <= self.clock:
            self.late.append((key, value, ts))
            return
        for window in sorted(met, key=lambda w: w.start):
            merged.values += window.values
            self.live.remove(window)
        merged.values.append(value)
        self.live.append(merged)

    def advance(self, clock):
        self.clock = clock
        for window in sorted(self.live, key=lambda w: (w.end, w.start, w.key)):
            if window.end <= clock and window.is_changed:
                window.is_changed = False
                self.given.append((window.key, window.start, window.end, tuple(sorted(window.values))))
        self.live = [w for w in self.live if clock < w.end + self.lateness]
