"""Where a job is slow: the shares of time of its subtasks between two looks; pure."""

from __future__ import annotations

from collections import Counter
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


def by_operator(statistics: Mapping[str, Any], shares: Mapping[str, Shares]) -> dict[str, float]:
    """The busy share of each operator, the busiest first.

    The busy time of a chain is divided among its operators as often as each of them was found at work.
    """
    chains, sampled = by_chain(statistics, shares), _sampled(statistics)
    found: dict[str, float] = {}
    for box in statistics["pipeline"]["boxes"]:
        names = [name for name, _ in box["operators"]]
        counts, busy = sampled.get(box["id"], Counter()), chains.get(box["id"], Shares()).busy
        total = sum(counts[name] for name in names)
        found |= {name: busy * (counts[name] / total if total else 1.0) for name in names}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _sampled(statistics: Mapping[str, Any]) -> dict[int, Counter[str]]:
    """The samples of each chain, of all its subtasks."""
    found: dict[int, Counter[str]] = {}
    for one in statistics["subtasks"]:
        found.setdefault(one["chain"], Counter()).update(one.get("sampled", {}))
    return found
