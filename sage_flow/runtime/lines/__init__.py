"""The lines of generated text that an operator is in a chain: a writer per kind (`plan/kinds.py` has the rows).

`text.py` is the text while it is written, `writer.py` what a writer says; `chain.py` puts the text together and
compiles it. Golden files in the tests hold the text of chains of every writer.
"""

from __future__ import annotations

from sage_flow.errors import InternalError
from sage_flow.plan import kinds
from sage_flow.plan.kinds import Kind
from sage_flow.runtime.lines.aggregates import AggregateObjects, Aggregates
from sage_flow.runtime.lines.joins import AsofJoins, IntervalJoins, KeyedJoins, WindowJoins
from sage_flow.runtime.lines.per_key import CountWindowed, Deduplicates
from sage_flow.runtime.lines.several import Awaits, Batches, Iterates, Processes
from sage_flow.runtime.lines.single import Filters, Keys, Maps, Passes, Writes
from sage_flow.runtime.lines.timestamps import ArrivalTimes, Timestamps
from sage_flow.runtime.lines.windows import Windows
from sage_flow.runtime.lines.writer import LineWriter

__all__ = ["WRITERS", "writer_of"]

WRITERS: dict[Kind, LineWriter] = {
    kinds.SOURCE: Passes(),
    kinds.REQUESTS: Passes(),
    kinds.COLLECT: Passes(),
    kinds.SINK: Writes(),
    kinds.MAP: Maps(),
    kinds.CONNECT_MAP: Maps(),
    kinds.FILTER: Filters(),
    kinds.KEY_BY: Keys(),
    kinds.FLAT_MAP: Iterates(),
    kinds.PROCESS: Processes(),
    kinds.CONNECT_PROCESS: Processes(),
    kinds.MAP_BATCHES: Batches(),
    kinds.MAP_ASYNC: Awaits(),
    **dict.fromkeys((kinds.COUNT, kinds.SUM, kinds.FOLD, kinds.REDUCE, kinds.MIN, kinds.MAX), Aggregates()),
    kinds.AGGREGATE: AggregateObjects(),
    kinds.COUNT_WINDOW: CountWindowed(),
    kinds.DEDUPLICATE: Deduplicates(),
    kinds.ASSIGN_TIMESTAMPS: Timestamps(),
    kinds.ASSIGN_ARRIVAL_TIMES: ArrivalTimes(),
    kinds.WINDOW: Windows(),
    kinds.JOIN: KeyedJoins(),
    kinds.JOIN_WINDOW: WindowJoins(),
    kinds.JOIN_INTERVAL: IntervalJoins(),
    kinds.JOIN_ASOF: AsofJoins(),
}
"""The writer of each kind. A class service is in no chain and has none."""


def writer_of(kind: Kind) -> LineWriter:
    """Raises InternalError for a kind that has no writer."""
    if kind not in WRITERS:
        raise InternalError(f"operators of kind {kind.name!r} have no writer in runtime/lines")
    return WRITERS[kind]
