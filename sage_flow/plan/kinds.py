"""The kinds of operators: what the engine knows of each, a row per kind.

No other module lists kinds: validation, naming, counting, copying and blaming ask the row (`operator.kind`). How the
records of a kind are processed is said by its writer in `runtime/lines/`. So a new operator is a row here, a writer
there, a method on a stream, and a test.

The row itself is the kind, and the table is open: `register` takes a row from anywhere. A kind crosses processes by its
name; the module that registers it must be imported in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from sage_flow.errors import InternalError

__all__ = ["KINDS", "Gives", "Kind", "kind_named", "register"]


class Gives(Enum):
    """How many records leave an operator for one that enters it, as long as nothing fails."""

    ONE = "one"
    AT_MOST_ONE = "at most one"
    ANY = "any number"
    LATER = "later"  # its outputs come when time has passed
    NOTHING = "nothing"  # a sink


@dataclass(frozen=True, eq=False, slots=True)
class Kind:
    """What an operator does with a record.

    Attributes:
        name: what users see, and the beginning of automatic names.
        gives: how many records leave it for one that enters.
        on_error: the policies that its option `on_error` may name besides "fail"; empty if it has no such option.
        is_counted: it has counts of its own.
        is_stateful: it has a table of its own with a value for each key.
        holds_back: it keeps records until its input ends, whatever its options say.
        iterates: its outputs are what its function returns an iterable of.
        takes_batches: its function is called with lists of records.
        awaits: its function returns at once what is awaited, while it is called with later records.
        folds: its function is called with the value so far and the record.
        pairs: its function is called with a record of each of its two inputs.
        assigns_time: it gives the records their timestamps.
        has_timers: its functions may set timers, and have methods for when they fire and for the end of input.
        needs_time: it cannot work with records that have no timestamps.
        cure: what to do instead if its function returns a coroutine, which nobody would await.
    """

    name: str
    gives: Gives = Gives.ONE
    on_error: tuple[str, ...] = ("skip", "dead_letter")
    is_counted: bool = True
    is_stateful: bool = False
    holds_back: bool = False
    iterates: bool = False
    takes_batches: bool = False
    awaits: bool = False
    folds: bool = False
    pairs: bool = False
    assigns_time: bool = False
    has_timers: bool = False
    needs_time: bool = False
    cure: str = "use map_async"

    @property
    def is_sink(self) -> bool:
        """Whether the pipeline ends here."""
        return self.gives is Gives.NOTHING

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_named, (self.name,)


KINDS: dict[str, Kind] = {}
"""All kinds, by name."""


def register(kind: Kind) -> Kind:
    """Add a row to the table and return it. Raises InternalError if another kind has its name."""
    if KINDS.setdefault(kind.name, kind) is not kind:
        raise InternalError(f"two kinds of operators are named {kind.name!r}")
    return kind


def kind_named(name: str) -> Kind:
    """The kind of this name. Raises InternalError."""
    if name not in KINDS:
        raise InternalError(
            f"this process knows no kind of operator {name!r}: import the module that registers it here, too"
        )
    return KINDS[name]


_SKIPS = ("skip",)  # a sink has no stream on which dead letters could be read
_FAILS = ()
_OF_AGGREGATES = "compute the value in a map_async before"
_OF_JOINS = "join first, and use map_async behind the join"
_OF_FILTER = "compute the condition in a map_async before, and filter by its result"
_OF_KEY_BY = "compute the key in a map_async before, and read it from the record"

# The ends: where records come from and where they go.
SOURCE = register(Kind("source"))  # its `on_error` is about what it says is `Malformed`
REQUESTS = register(Kind("requests", on_error=_FAILS))  # the head of a service's pipeline
SINK = register(Kind("sink", Gives.NOTHING, _SKIPS, cure="do this in map_async, followed by a sink"))
COLLECT = register(Kind("collect", Gives.NOTHING, _FAILS))  # its rows go to the driver
SERVICE = register(Kind("service", on_error=_FAILS))  # a class that answers calls; never in a chain

# One record at a time.
MAP = register(Kind("map"))
FILTER = register(Kind("filter", Gives.AT_MOST_ONE, cure=_OF_FILTER))
FLAT_MAP = register(Kind("flat_map", Gives.ANY, iterates=True, cure="use map_async, followed by flat_map"))
PROCESS = register(Kind("process", Gives.ANY, iterates=True, has_timers=True))
MAP_BATCHES = register(Kind("map_batches", Gives.ANY, iterates=True, takes_batches=True, holds_back=True))
MAP_ASYNC = register(Kind("map_async", Gives.ANY, awaits=True, cure="await it in the function"))
CONNECT_MAP = register(Kind("connect_map"))
CONNECT_PROCESS = register(Kind("connect_process", Gives.ANY, iterates=True, has_timers=True))

# Keys, and what is computed for each. With emit="final" an aggregate holds back, too (`Operator.emits_at_end`).
KEY_BY = register(Kind("key_by", on_error=_FAILS, is_counted=False, cure=_OF_KEY_BY))  # it only moves records
REDUCE = register(Kind("reduce", is_stateful=True, folds=True, cure=_OF_AGGREGATES))
FOLD = register(Kind("fold", is_stateful=True, folds=True, cure=_OF_AGGREGATES))
COUNT = register(Kind("count", on_error=_FAILS, is_stateful=True))
SUM = register(Kind("sum", is_stateful=True, cure=_OF_AGGREGATES))
MIN = register(Kind("min", is_stateful=True, cure=_OF_AGGREGATES))
MAX = register(Kind("max", is_stateful=True, cure=_OF_AGGREGATES))
AGGREGATE = register(Kind("aggregate", is_stateful=True, cure=_OF_AGGREGATES))  # any `Aggregate`
COUNT_WINDOW = register(Kind("count_window", Gives.AT_MOST_ONE, is_stateful=True, holds_back=True, cure=_OF_AGGREGATES))
DEDUPLICATE = register(Kind("deduplicate", Gives.AT_MOST_ONE, on_error=_FAILS, is_stateful=True))

# Event time.
ASSIGN_TIMESTAMPS = register(
    Kind("assign_timestamps", assigns_time=True, cure="compute the timestamp in a map_async before")
)
ASSIGN_ARRIVAL_TIMES = register(Kind("assign_arrival_times", on_error=_FAILS, assigns_time=True))
WINDOW = register(Kind("window", Gives.LATER, is_stateful=True, holds_back=True, needs_time=True, cure=_OF_AGGREGATES))

# Two keyed streams, whose records meet.
JOIN = register(Kind("join", Gives.ANY, is_stateful=True, holds_back=True, pairs=True, cure=_OF_JOINS))
JOIN_WINDOW = register(
    Kind("join_window", Gives.LATER, is_stateful=True, holds_back=True, pairs=True, needs_time=True, cure=_OF_JOINS)
)
JOIN_INTERVAL = register(
    Kind("join_interval", Gives.ANY, is_stateful=True, holds_back=True, pairs=True, needs_time=True, cure=_OF_JOINS)
)
JOIN_ASOF = register(
    Kind("join_asof", Gives.ANY, is_stateful=True, holds_back=True, pairs=True, needs_time=True, cure=_OF_JOINS)
)
