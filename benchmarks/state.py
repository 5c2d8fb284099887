"""Keyed state: a value is read and set for each record, by a handle and in a bare dict."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from benchmarks.case import Case, Figure
from sage_flow import RuntimeContext

__all__ = ["CASES"]

_KEYS = 1_000


def keys(size: int, folder: Path) -> list[str]:
    return [f"key {n % _KEYS}" for n in range(size)]


def by_hand(records: list[str]) -> list[tuple[str, int]]:
    """The key of the record is where the engine puts it, in an attribute."""
    table: dict[str, int] = {}
    context = SimpleNamespace()
    for key in records:
        context.key = key
        table[context.key] = table.get(context.key, 0) + 1
    return list(table.items())


def by_handle(records: list[str]) -> list[tuple[str, int]]:
    context: RuntimeContext[str] = RuntimeContext("state", "count", 0, 1, keyed=True)
    state = context.state.value("count", 0)
    for key in records:
        context.key = key
        state.set(state.get() + 1)
    return list(context.state.tables["count"].entries())


CASES = (
    Case(
        "state",
        "get and set of a value in `ctx.state`",
        1_000_000,
        1_000,
        keys,
        by_hand,
        by_handle,
        figure=Figure.TIMES,
        bar=2.0,
    ),
)
