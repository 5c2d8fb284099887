"""The wall clock of a process, which never goes back."""

from __future__ import annotations

import time

__all__ = ["wall_ms"]

_BEGAN_S = time.time() - time.monotonic()
"""When the monotonic clock was 0. If the system's clock is set later, that does not move the clock of a running job:
its timers would fire an hour early, or late."""


def wall_ms() -> int:
    """Return the milliseconds since 1970."""
    return int((_BEGAN_S + time.monotonic()) * 1000)
