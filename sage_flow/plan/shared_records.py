"""With `check_shared_records`: the table of the records in one process that have several holders."""

from __future__ import annotations

from typing import Any

__all__ = ["SharedRecords"]

_MOST = 20_000


class SharedRecords:
    """The latest 20,000 of these records, by identity, with their other holders; used by all subtasks of a process."""

    def __init__(self) -> None:
        self._holders: dict[int, tuple[Any, str]] = {}

    def note(self, record: Any, holder: str) -> None:
        """Add a record. `holder`: a sentence that names its other holder."""
        holders = self._holders
        if len(holders) >= _MOST:
            for oldest in list(holders)[: _MOST // 2]:
                holders.pop(oldest, None)
        holders[id(record)] = (record, holder)

    def holder(self, record: Any) -> str | None:
        """The sentence about its other holder; None if none is known."""
        found = self._holders.get(id(record))
        return None if found is None else found[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedRecords, ()  # what is shared in one process is not in another
