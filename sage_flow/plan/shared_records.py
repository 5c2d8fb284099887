"""With `check_shared_records`: which records somebody else holds, too, as far as one process knows."""

from __future__ import annotations

from typing import Any

__all__ = ["SharedRecords"]

_MOST = 20_000


class SharedRecords:
    """The records, by identity, and who else holds each; the latest 20,000. All subtasks of a process share it."""

    def __init__(self) -> None:
        self._holders: dict[int, tuple[Any, str]] = {}

    def note(self, record: Any, holder: str) -> None:
        """`holder` has it, too: a sentence."""
        holders = self._holders
        if len(holders) >= _MOST:
            for oldest in list(holders)[: _MOST // 2]:
                holders.pop(oldest, None)
        holders[id(record)] = (record, holder)

    def holder(self, record: Any) -> str | None:
        """Who else has it, None if nobody is known."""
        found = self._holders.get(id(record))
        return None if found is None else found[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedRecords, ()  # what is shared in one process is not in another
