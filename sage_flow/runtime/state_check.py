"""A test mode of checkpoints: it finds values of state that change although no record of their key was processed.

Such a value is shared by two keys, or a function kept it for a later record. A checkpoint stores it as it is at some
moment, and after a recovery the keys share it no more. At each cut the values are pickled; at the next one those whose
key has not been current meanwhile must be the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.runtime.key_table import MISSING, KeyTable
from sage_flow.wire import by_value

__all__ = ["StateCheck"]


class StateCheck:
    """The values of one subtask at its last cut."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, Hashable], dict[Any, bytes]] = {}
        self._now: dict[tuple[str, Hashable], dict[Any, bytes]] = {}

    def check(self, operator: str, name: Hashable, table: KeyTable) -> None:
        """Compare and remember the values of a table, before it freezes. Raises PipelineError."""
        values = table.plain()
        for key, pickled in self._before.get((operator, name), {}).items():
            value = values.get(key, MISSING)
            # What the upper part has was read or written since.
            if key not in table and value is not MISSING and by_value.dumps_state(value) != pickled:
                raise PipelineError(
                    f"the state of {operator!r} for key {key!r} has changed while no record of this key was processed,"
                    " so it will be another one after a recovery: let no two keys share a value, and change a value"
                    " only while its key is current"
                )
        self._now[operator, name] = {key: by_value.dumps_state(value) for key, value in values.items()}

    def end(self) -> None:
        """All tables of the cut were checked."""
        self._before, self._now = self._now, {}
