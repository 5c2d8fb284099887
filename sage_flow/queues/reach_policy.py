"""How hard to try to reach the host of a queue."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReachPolicy"]


@dataclass(frozen=True)
class ReachPolicy:
    """`timeout_s`: for one try to connect. `retries`: how many more tries follow the first one.

    `served`: a host has listened there before, so if it cannot be reached it is gone. Without `served` it may not have
    started yet.
    """

    timeout_s: float = 30.0
    retries: int = 3
    served: bool = False
