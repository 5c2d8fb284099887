"""What an operator keeps, in a form that other subtasks can take over: the content of a snapshot.

Each operator of each subtask gives its `Parts` between two records. After a restore there may be more subtasks, or
fewer: `share_of` divides the parts of all former ones, and each new one takes its share. So an operator says only what
it keeps and how that may be divided:

* what belongs to a key goes to the subtask that gets the records of the key;
* what belongs to a split of a source is shown to all: each takes the splits that it reads;
* what belongs to a subtask, such as the own state of a function, is dealt out like cards;
* of numbers that say how far time is, the lowest counts.

What can be made again from the entries, such as heaps, is not kept. The content is that of the operator, not a copy:
it must be pickled before the next record.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_flow.keys import group_to_subtask, key_group
from sage_flow.runtime.key_table import TableEntries

__all__ = ["Entries", "Parts", "share_of"]

_log = logging.getLogger("sage_flow")

Entries = list[tuple[Any, Any]] | TableEntries
"""Keys, and what is kept for each."""


@dataclass(slots=True)
class Parts:
    """What one operator of one subtask keeps.

    Attributes:
        keyed: entries by key, for each of its tables.
        splits: by the name of the split. What several subtasks have of one split, each new subtask gets all of.
        rests: records of a split that the source has given and that were not processed. They go before all else of it.
        own: what belongs to the subtask: items that can be dealt out, by name.
        lowest: numbers of which the lowest one of all subtasks counts; `now` is the operator's event time.
    """

    keyed: dict[Hashable, Entries] = field(default_factory=dict)
    splits: dict[str, list[Any]] = field(default_factory=dict)
    rests: dict[str, list[Any]] = field(default_factory=dict)
    own: dict[Hashable, list[Any]] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)

    def tables(self, kind: str) -> Iterator[tuple[Any, Entries]]:
        """Yield what follows `kind` in the name of each table that is named by it and by something else."""
        for name, entries in self.keyed.items():
            if isinstance(name, tuple) and name[0] == kind:
                yield name[1], entries

    @property
    def is_worth_keeping(self) -> bool:
        """Whether there is anything but the time."""
        return bool(self.splits or self.rests or any(self.keyed.values()) or any(self.own.values()))

    @property
    def now(self) -> float:
        """The event time of the operator."""
        return self.lowest.get("now", -math.inf)


def share_of(
    parts: Sequence[Parts], index: int, parallelism: int, max_parallelism: int, *, alike: bool = False
) -> Parts:
    """Return what subtask `index` of `parallelism` takes over from all former subtasks of an operator, in their order.

    `alike`: what belongs to a subtask is the same in all, as each has read the whole of a broadcast table.
    """
    splits, rests = _merged([part.splits for part in parts]), _merged([part.rests for part in parts])
    if len(parts) == parallelism:
        mine = parts[index]
        return Parts(mine.keyed, splits, rests, mine.own, mine.lowest)
    share = Parts(splits=splits, rests=rests, lowest=_lowest(parts))
    keyed: dict[Hashable, list[tuple[Any, Any]]] = {}
    for part in parts:
        for name, entries in part.keyed.items():
            own = [entry for entry in entries if _owner(entry[0], parallelism, max_parallelism) == index]
            keyed.setdefault(name, []).extend(own)
    share.keyed = {**keyed}
    if alike and parts:
        share.own = parts[index % len(parts)].own
        return share
    for former, part in enumerate(parts):
        for name, items in part.own.items():
            # The first item of former subtask i goes to i modulo the new number, as do the handles of its sinks: who
            # removes what that subtask has left behind is who knows what of it is still wanted.
            share.own.setdefault(name, []).extend(items[(index - former) % parallelism :: parallelism])
    return share


def _owner(key: Any, parallelism: int, max_parallelism: int) -> int:
    return group_to_subtask(key_group(key, max_parallelism), parallelism, max_parallelism)


def _merged(several: Sequence[dict[Any, list[Any]]]) -> dict[Any, list[Any]]:
    merged: dict[Any, list[Any]] = {}
    for one in several:
        for name, items in one.items():
            merged.setdefault(name, []).extend(items)
    return merged


def _lowest(parts: Sequence[Parts]) -> dict[str, float]:
    lowest: dict[str, float] = {}
    for part in parts:
        for name, number in part.lowest.items():
            lowest[name] = min(lowest.get(name, math.inf), number)
    if len({part.now for part in parts if part.now < math.inf}) > 1:
        # Those whose input has not ended have read the same watermarks, so this should not be.
        _log.warning(
            "the subtasks of one operator had come differently far in time: the restored ones begin at the lowest"
        )
    return lowest
