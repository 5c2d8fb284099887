"""Random pipelines whose result does not depend on the order in which records of different splits are processed."""

import asyncio
import random
import zlib
from dataclasses import dataclass, replace
from datetime import timedelta

from proof_files import FILE_KINDS
from proof_sinks import AtCheckpoints, AtTheEnd
from world import current

from sage_flow import (
    END,
    IDLE,
    ProcessFunction,
    SessionWindow,
    SlidingWindow,
    SplitReader,
    SplitSource,
    TumblingWindow,
)

__all__ = ["Recipe"]

_BEGIN = 1_600_000_000_000


def mixed(*parts):
    """A number that depends on the parts, the same in every process."""
    return zlib.crc32(repr(parts).encode())


def _ms(count):
    return timedelta(milliseconds=count)


# -- sources -------------------------------------------------------------------------------------------------


class Numbers(SplitSource):
    """Records (split, number in the split, timestamp, value); timestamps are up to 20 ms out of order."""

    bounded = True

    def __init__(self, name, splits, records, batch, every):
        self._name, self._splits, self._records, self._batch, self._every = name, splits, records, batch, every

    def splits(self):
        return [f"{self._name}{number}" for number in range(self._splits)]

    def reader(self, split, position):
        return self._reader(_Reader, split, position)

    def _reader(self, kind, split, position):
        return kind(split, position or 0, self._records * (1 + mixed(split) % 3) // 2, self._batch, self._every)


class EndlessNumbers(Numbers):
    """The same records, after which each split is quiet for ever."""

    bounded = False

    def splits(self):
        names = super().splits()
        current().splits.update(names)
        return names

    def reader(self, split, position):
        return self._reader(_EndlessReader, split, position)


class _Reader(SplitReader):
    def __init__(self, split, position, count, batch, every):
        self._split, self._position, self._count, self._batch, self._every = split, position, count, batch, every
        self._asked = 0

    def next_batch(self):
        self._asked += 1
        if self._asked % self._every:
            return IDLE
        if self._position >= self._count:
            return END
        numbers = range(self._position, min(self._count, self._position + self._batch))
        self._position = numbers.stop
        return [self._record(number) for number in numbers]

    def _record(self, number):
        value = mixed(self._split, number) % 1000
        pace = 1 + mixed(self._split) % 4  # the longest split is not always the one that ends last in time
        return (self._split, number, _BEGIN + 10 * pace * number + 10 * (value % 3), value)

    def position(self):
        return self._position


class _EndlessReader(_Reader):
    def next_batch(self):
        batch = super().next_batch()
        if batch is IDLE and self._position < self._count:
            return IDLE
        is_quiet = batch is END or batch is IDLE
        current().note_quiet(self._split, is_quiet)
        return IDLE if is_quiet else batch


# -- functions -----------------------------------------------------------------------------------------------


class RunningSum(ProcessFunction):
    """The sum of the values of a key so far."""

    def process(self, value, ctx):
        total = ctx.state.value("total", 0)
        total.set(total.get() + value[3])
        yield (value[0], value[1], total.get())


class Recent(ProcessFunction):
    """The last values of a key, in a list that is changed in place."""

    def process(self, value, ctx):
        state = ctx.state.value("recent", list)
        recent = state.get()
        recent.append(value[3])
        del recent[:-3]
        state.set(recent)
        yield (value[0], value[1], tuple(recent))


class Alarms(ProcessFunction):
    """A timer for each record, some of them behind the end of the input."""

    def process(self, value, ctx):
        ctx.timers.set(f"alarm {value[1]}", at=value[2] + value[3] % 200)

    def on_timer(self, timer, ctx):
        yield (ctx.key, timer.name, timer.timestamp, timer.at_end)


class Total(ProcessFunction):
    """The sum of all values of a subtask, which it keeps by itself."""

    def open(self, ctx):
        self._total = 0

    def process(self, value, ctx):
        self._total += value[3]

    def snapshot(self):
        return self._total

    def restore(self, parts):
        self._total = sum(parts)

    def on_end(self, ctx):
        yield self._total


async def waited(record):
    await asyncio.sleep(mixed(record) % 7 / 2000)
    return record


def _twice(batch):
    return [record for record in batch for _ in range(2)]


# -- pipelines -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A pipeline. `shape`: what is computed. `before`, `behind`: steps around that. `sinks`: of its results.

    `is_endless`: its sources have no end. `writers`: of files, as many as there are subtasks by default, or one.
    `roll_ms`: for how long a part of a file is open. `ending`: of the names of files.
    """

    shape: str
    before: tuple[str, ...]
    behind: str
    sinks: tuple[str, ...]
    splits: int
    records: int
    batch: int
    every: int
    keys: int
    is_endless: bool = False
    writers: str = "one"
    roll_ms: int = 0
    ending: str = ".txt"

    @classmethod
    def of(cls, seed, family="bounded"):
        """Draw one of a family: "bounded", "files" (which has file sinks), "endless"."""
        if family != "bounded":
            return cls.of(f"of {family} {seed}")._changed(random.Random(f"{family} {seed}"), family)
        draw = random.Random(f"recipe {seed}")
        shape = draw.choice(list(SHAPES))
        before = tuple(draw.choices(list(BEFORE), k=draw.choice([0, 0, 1, 1, 2])))
        if shape in ORDERED:
            before = ()  # between source and key they could change the order
        behind = draw.choice(["", "", "map", "rebalance", "recount"])
        sinks = tuple(draw.sample(["collect", "checkpoints", "end"], k=draw.choice([1, 1, 2, 3])))
        splits, records, batch = draw.choice([1, 2, 3, 5]), draw.choice([1, 8, 20, 40]), draw.choice([1, 2, 4])
        return cls(shape, before, behind, sinks, splits, records, batch, draw.choice([1, 2, 4]), draw.choice([1, 3, 7]))

    def _changed(self, draw, family):
        """The same with other sinks; an endless one has a shape and steps that keep nothing for the end."""
        kinds, shape, before = ["collect", "checkpoints", "end", "file", "parts"], self.shape, self.before
        if family == "endless":
            kinds, shape = ["collect", "checkpoints", "parts"], draw.choice(ENDLESS)
            before = () if shape in ORDERED else tuple(step for step in before if step not in ("batches", "doubled"))
        sinks = draw.sample(kinds, k=draw.choice([1, 2, 3]))
        if family == "files" and not FILE_KINDS & set(sinks):
            sinks[0] = draw.choice(sorted(FILE_KINDS))
        return replace(
            self,
            shape=shape,
            before=before,
            sinks=tuple(sinks),
            is_endless=family == "endless",
            writers=draw.choice(["one", "all"]),
            roll_ms=draw.choice([0, 0, 5, 40]),
            ending=draw.choice([".txt", ".txt", ".txt.gz"]),
        )

    def is_ordered(self, kind):
        """Results of one split come in its order in this sink: the first item of a result is the split."""
        is_one = kind not in FILE_KINDS or self.writers == "one"
        return is_one and self.shape in ORDERED and self.behind in ("", "map")

    def write(self, env, sources):
        """Write it into an environment. `sources`: the parallelism of the sources."""
        stream = SHAPES[self.shape](self, env, sources)
        match self.behind:
            case "map":
                stream = stream.map(lambda row: row)
            case "rebalance":
                stream = stream.rebalance().map(lambda row: row)
            case "recount":
                stream = stream.key_by(lambda row: mixed(row) % 3).count()
        for kind in self.sinks:
            match kind:
                case "collect":
                    stream.collect("collect")
                case "checkpoints":
                    stream.add_sink(AtCheckpoints("checkpoints"), name="publishes-at-checkpoints")
                case "end":
                    stream.add_sink(AtTheEnd("end"), name="publishes-at-the-end")
                case "file" | "parts":
                    roll = _ms(self.roll_ms) if kind == "parts" else None
                    writers = {"parallelism": 1 if self.writers == "one" else env._graph.parallelism}
                    path = current().files.folder / f"{kind}{self.ending}"
                    stream.map(repr, **writers).write_text(path, roll=roll, name=f"writes-{kind}", **writers)

    def records_of(self, env, sources, name="s", *, timed=False):
        """A source, and the steps before what is computed."""
        source = (EndlessNumbers if self.is_endless else Numbers)(
            name, self.splits, self.records, self.batch, self.every
        )
        stream = env.from_source(source, parallelism=sources)
        if timed:
            stream = stream.assign_timestamps(lambda r: r[2], max_out_of_order=_ms(20), parallelism=sources)
        for step in self.before:
            if not (timed and step == "doubled"):  # its results have timestamps that depend on the batch
                stream = BEFORE[step](stream)
        return stream

    def keyed(self, env, sources, name="s"):
        """The same, by key, with timestamps."""
        keys = self.keys
        return self.records_of(env, sources, name, timed=True).key_by(lambda r: r[3] % keys)


def _slim(record):
    return record[:2]


def _union(recipe, env, sources):
    left, right = (recipe.records_of(env, sources, name) for name in "lr")
    return left.union(right).key_by(lambda r: r[3] % 5).count()


def _join(recipe, env, sources):
    left, right = (recipe.records_of(env, sources, name).key_by(lambda r: r[3] % 50) for name in "lr")
    return left.join(right, lambda a, b: (_slim(a), b and _slim(b)), how="left")


BEFORE = {
    "map": lambda stream: stream.map(lambda r: (*r[:3], r[3] + 1)),
    "filter": lambda stream: stream.filter(lambda r: r[3] % 4),
    "flat": lambda stream: stream.flat_map(lambda r: [r] * (r[3] % 3)),
    "rebalance": lambda stream: stream.rebalance().map(lambda r: r),
    "async": lambda stream: stream.map_async(waited, capacity=4),
    "unordered": lambda stream: stream.map_async(waited, capacity=3, ordered=False),
    "batches": lambda stream: stream.map_batches(list, batch_size=4),
    "doubled": lambda stream: stream.map_batches(_twice, batch_size=5),
}

SHAPES = {
    "plain": lambda recipe, env, sources: recipe.records_of(env, sources),
    "sums": lambda recipe, env, sources: recipe.records_of(env, sources).key_by(lambda r: r[0]).process(RunningSum),
    "recent": lambda recipe, env, sources: recipe.records_of(env, sources).key_by(lambda r: r[0]).process(Recent),
    "counts": lambda recipe, env, sources: recipe.records_of(env, sources).key_by(lambda r: r[3] % 5).count(),
    "final": lambda recipe, env, sources: (
        recipe.records_of(env, sources).key_by(lambda r: r[3] % 9).sum(lambda r: r[3], emit="final")
    ),
    "union": _union,
    "distinct": lambda recipe, env, sources: (
        recipe.records_of(env, sources).key_by(lambda r: r[3] % 9).deduplicate().map(lambda r: r[3] % 9)
    ),
    "groups": lambda recipe, env, sources: (
        recipe.records_of(env, sources)
        .key_by(lambda r: r[0])
        .count_window(3)
        .to_list()
        .map(lambda group: (group[0], tuple(group[1])))
    ),
    "total": lambda recipe, env, sources: (
        recipe.records_of(env, sources).process(Total).key_by(lambda n: 0).sum(emit="final")
    ),
    "ends": lambda recipe, env, sources: (
        recipe.records_of(env, sources).process(Total, parallelism=2).map(lambda n: "end", parallelism=2)
    ),
    "tumbling": lambda recipe, env, sources: (
        recipe.keyed(env, sources).window(TumblingWindow(_ms(50))).sum(lambda r: r[3]).map(tuple)
    ),
    "sliding": lambda recipe, env, sources: (
        recipe.keyed(env, sources).window(SlidingWindow(_ms(60), _ms(20))).count().map(tuple)
    ),
    "sessions": lambda recipe, env, sources: (
        recipe.keyed(env, sources).window(SessionWindow(_ms(15))).count().map(tuple)
    ),
    "lists": lambda recipe, env, sources: (
        recipe.keyed(env, sources)
        .window(TumblingWindow(_ms(70)))
        .to_list()
        .map(lambda w: (w.key, w.start, tuple(sorted(map(_slim, w.value)))))
    ),
    "alarms": lambda recipe, env, sources: (
        recipe.records_of(env, sources, timed=True).key_by(lambda r: r[0]).process(Alarms)
    ),
    "join": _join,
    "join windows": lambda recipe, env, sources: (
        recipe.keyed(env, sources, "l")
        .join_window(recipe.keyed(env, sources, "r"), TumblingWindow(_ms(40)), lambda a, b: (_slim(a), _slim(b)))
        .map(tuple)
    ),
    "join intervals": lambda recipe, env, sources: recipe.keyed(env, sources, "l").join_interval(
        recipe.keyed(env, sources, "r"), lambda a, b: (_slim(a), _slim(b)), before=_ms(20), after=_ms(10)
    ),
    "join as of": lambda recipe, env, sources: (
        recipe.records_of(env, sources, "l", timed=True)
        .key_by(lambda r: r[0][1:])
        .join_asof(
            recipe.records_of(env, sources, "r", timed=True).key_by(lambda r: r[0][1:]),
            lambda a, b: (_slim(a), b and b[2]),
        )
    ),
}

ORDERED = ("sums", "recent", "groups")
ENDLESS = (
    *("plain", "sums", "counts", "distinct", "groups"),
    *("tumbling", "sliding", "sessions", "lists", "alarms", "join windows", "join intervals", "join as of"),
)
