"""What the jobs of all queries share: the options, the source of the events, and the rows that are written.

sage-flow run jobs/nexmark/q5.py --option events=200000 --option output=rows.jsonl
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from nexmark.canonical import canonical_line
from nexmark.generator import EventGenerator
from nexmark.model import Auction, Bid, Event, Person
from sage_flow import END, DataStream, Environment, RuntimeContext, Source
from sage_flow.functions import SourceSignal
from sage_flow.splits import SplitEnd

__all__ = ["ByType", "GeneratorSource", "Options", "Row", "bids", "read", "timed", "write"]

Row: TypeAlias = dict[str, Any]

_BATCH = 256  # events


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        input: a file with an event as JSON on each line, or a glob; without it the generator makes the events.
        output: the file for the rows, in canonical form; without it they are printed.
        events: how many the generator makes.
        partitions: into how many the generator divides the stream: event n is in partition n % partitions.
        ooo_ms: how far an event may be behind the largest `ts` before it in its file or partition; a file must keep to
            it, the generator does.
        seed, events_per_s, base_time, grid_ms: see EventGenerator.
    """

    input: Path | None = None
    output: Path | None = None
    events: int = 100_000
    partitions: int = 4
    ooo_ms: int = EventGenerator.ooo_ms
    seed: int = EventGenerator.seed
    events_per_s: int = EventGenerator.events_per_s
    base_time: int = EventGenerator.base_time
    grid_ms: int = EventGenerator.grid_ms

    @property
    def generator(self) -> EventGenerator:
        """The generator of these events."""
        return EventGenerator(self.seed, self.ooo_ms, self.events_per_s, self.base_time, self.grid_ms)


class GeneratorSource(Source[Event]):
    """The first `events` of a generator, divided into partitions, which are its splits.

    Subtask i of p reads every p-th partition from the i-th on, a batch of each in turn. The position says for each
    partition which event is next.
    """

    default_name = "events"
    bounded = True
    parallel = True

    def __init__(self, generator: EventGenerator, events: int, partitions: int = 1) -> None:
        self._generator = generator
        self._events = events
        self._partitions = partitions
        self._next: dict[int, int] = {}

    def open(self, ctx: RuntimeContext) -> None:
        self._next = {number: number for number in range(ctx.subtask_index, self._partitions, ctx.parallelism)}

    def splits_read(self) -> list[str]:
        return [str(number) for number in self._next]

    def next_batch(self) -> list[Event] | SourceSignal | SplitEnd:
        if not self._next:
            return END
        number = next(iter(self._next))
        position = self._next.pop(number)
        self.split = str(number)
        batch = list(islice(self._generator.events(position, self._events, self._partitions), _BATCH))
        if not batch:
            return SplitEnd(self.split)
        self._next[number] = position + len(batch) * self._partitions  # behind the other partitions
        return batch

    def snapshot(self) -> dict[int, int]:
        """The next event of each partition that has not ended."""
        return dict(self._next)

    def restore(self, position: dict[int, int]) -> None:
        """Go on with these events."""
        self._next = dict(position)


def read(env: Environment, options: Options) -> DataStream[Event]:
    """The events of the file or the generator, with their timestamps."""
    events: DataStream[Event]
    if options.input is not None:
        events = env.read_jsonl(options.input, name="events")
    else:
        events = env.from_source(GeneratorSource(options.generator, options.events, options.partitions), name="events")
    return timed(events, options.ooo_ms)


def timed(events: DataStream[Event], ooo_ms: int) -> DataStream[Event]:
    """The events with their timestamps; in each split they are at most `ooo_ms` out of order."""
    return events.assign_timestamps(lambda event: event["ts"], max_out_of_order=timedelta(milliseconds=ooo_ms))


def bids(events: DataStream[Event]) -> DataStream[Bid]:
    """The bids of the stream."""
    return cast("DataStream[Bid]", events.filter(lambda event: event["type"] == "bid", name="bids"))


class ByType:
    """The streams of some of the types "person", "auction" and "bid", all of which are to be read.

    They are side outputs, and not filters: of a stream with two readers the second one gets a copy of every event, but
    an event goes to one side output only.
    """

    def __init__(self, events: DataStream[Event], *types: str) -> None:
        chosen = events.filter(lambda event: event["type"] in types, name="chosen types")
        self._events: DataStream[Event] = chosen.process(_to_side_output, name="by type")

    @property
    def persons(self) -> DataStream[Person]:
        """The persons."""
        return cast("DataStream[Person]", self._events.side_output("person"))

    @property
    def auctions(self) -> DataStream[Auction]:
        """The auctions."""
        return cast("DataStream[Auction]", self._events.side_output("auction"))

    @property
    def bids(self) -> DataStream[Bid]:
        """The bids."""
        return cast("DataStream[Bid]", self._events.side_output("bid"))


def _to_side_output(event: Event, ctx: RuntimeContext) -> None:
    ctx.output(event["type"], event)


def write(query: str, rows: DataStream[Row], options: Options) -> None:
    """Write the rows of a query in canonical form, in no order."""
    lines = rows.map(partial(canonical_line, query), name="lines")
    if options.output is not None:
        lines.write_text(options.output, name="output")
    else:
        lines.print(name="output")
