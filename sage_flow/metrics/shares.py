"""Where a job is slow: the shares of time of its subtasks between two looks; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Shares", "by_chain", "by_operator", "shares_between"]


class Shares(NamedTuple):
    """What part of its time a subtask is busy, idle, waits for credit and for calls; 0 to 1, together 1."""

    busy: float = 0.0
    idle: float = 0.0
    credit: float = 0.0
    calls: float = 0.0


def shares_between(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Shares]:
    """The shares of each subtask, by name, between two answers of `JobHandle.statistics()`.

    Without an earlier one, or where another attempt has begun since, they are those since the subtask began. Subtasks
    that did not answer are missing.
    """
    earlier: dict[str, Any] = {}
    if before is not None and before["attempt"] == now["attempt"]:
        earlier = {one["name"]: one["work"] for one in before["subtasks"] if one["work"] is not None}
    return {one["name"]: _share(earlier.get(one["name"]), one["work"]) for one in now["subtasks"] if one["work"]}


def _share(before: Mapping[str, float] | None, now: Mapping[str, float]) -> Shares:
    spent = [max(0.0, now[kind] - (before[kind] if before else 0.0)) for kind in _KINDS]
    total = sum(spent)
    return Shares(*(seconds / total for seconds in spent)) if total > 0 else Shares()


_KINDS = ("busy_s", "idle_s", "credit_s", "calls_s")


def by_chain(statistics: Mapping[str, Any], shares: Mapping[str, Shares]) -> dict[int, Shares]:
    """Of each chain the shares of its busiest subtask, by the number of the chain."""
    busiest: dict[int, Shares] = {}
    for one in statistics["subtasks"]:
        found = shares.get(one["name"])
        if found is not None and (one["chain"] not in busiest or found > busiest[one["chain"]]):
            busiest[one["chain"]] = found
    return busiest


def by_operator(statistics: Mapping[str, Any], shares: Mapping[str, Shares]) -> dict[str, Shares]:
    """Of each operator the shares of its chain, the busiest first; those of one chain in the order of the chain."""
    chains = by_chain(statistics, shares)
    boxes = sorted(statistics["pipeline"]["boxes"], key=lambda box: -chains.get(box["id"], Shares()).busy)
    return {name: chains.get(box["id"], Shares()) for box in boxes for name, _ in box["operators"]}
