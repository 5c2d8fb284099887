"""The measured cases as Markdown."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.case import Case, Clock, Figure
from benchmarks.measure import Measured, Reading, Spread

__all__ = ["BEGIN", "END", "replaced", "rows_of", "tables"]

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"


def tables(measured: Sequence[Measured], kept: Mapping[str, str] | None = None, order: Iterable[Case] = ()) -> str:
    """A table for each figure that was measured, with a heading.

    `kept`: rows of earlier runs, by the names of their cases; the rows are then in the `order` of all cases.
    """
    rows = {one.case.name: _line(_TABLES[one.case.figure][2](one)) for one in measured}
    rows = {**(kept or {}), **rows}
    cases = list(order) or [one.case for one in measured]
    parts = []
    for figure, (heading, columns, _) in _TABLES.items():
        lines = [rows[case.name] for case in cases if case.figure is figure and case.name in rows]
        if lines:
            head = [_line(columns), _line(["---"] * len(columns))]
            parts.append(f"### {heading}\n\n" + "\n".join([*head, *lines]) + "\n")
    return "\n".join(parts)


def rows_of(page: str) -> dict[str, str]:
    """The rows of the tables of a page, by the names of their cases."""
    content = page.partition(BEGIN)[2].partition(END)[0]
    return {found[1]: found[0] for found in re.finditer(r"^\| `([\w-]+)` \|.*$", content, re.MULTILINE)}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def replaced(page: str, content: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with `content` between two markers. Raises ValueError if they are missing."""
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the page has no {begin} ... {end}")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


# -- rows -----------------------------------------------------------------------------------------------------


def _speed_row(one: Measured) -> list[str]:
    hand, flow = ([r.cpu_s or 0.0 for r in side] for side in (one.hand, one.flow))
    return [
        *_name(one),
        f"{one.size:,}",
        _seconds(hand),
        _seconds(flow),
        _spread(one.ratio("cpu"), _percent),
        _spread(one.ratio("wall"), _percent),
        f"{_peak(one):.0f}",
        _verdict(one, _percent, "≥"),
    ]


def _times_row(one: Measured) -> list[str]:
    hand, flow = ([r.wall_s for r in side] for side in (one.hand, one.flow))
    return [
        *_name(one),
        _seconds(hand),
        _seconds(flow),
        _spread(one.ratio("cpu"), _times),
        _spread(one.ratio("wall"), _times),
        _verdict(one, _times, "≤"),
    ]


def _calls_row(one: Measured) -> list[str]:
    cells = _name(one)
    for side in (one.hand, one.flow):
        p50, p99 = _known(side, lambda r: r.wall_s), _known(side, lambda r: r.p99_s)
        times = _seconds(p50) if p99 is None else f"{_seconds(p50)} / {_seconds(p99)}"
        cells += [times, _rate(side), _seconds(_known(side, lambda r: r.cpu_s))]
    return [*cells, _spread(one.ratio("wall"), _times), _verdict(one, _times, "≤")]


def _items_row(one: Measured) -> list[str]:
    cells = [*_name(one), f"{one.size:,}"]
    for side in (one.hand, one.flow):
        cells += [_rate(side), _seconds(_known(side, lambda r: r.cpu_s))]
    ratios = [_spread(one.ratio(clock), _percent) for clock in _CLOCKS]
    return [*cells, *ratios, _verdict(one, _percent, "≥")]


def _growth_row(one: Measured) -> list[str]:
    hand, tenth, flow = ([r.peak_mb for r in side] for side in (one.hand, one.tenth, one.flow))
    return [
        *_name(one),
        f"{one.size // 10:,} → {one.size:,}",
        *(f"{statistics.median(side):.1f}" for side in (hand, tenth, flow)),
        _spread(one.growth(), _times),
        _verdict(one, _times, "≤"),
    ]


Row = Callable[[Measured], list[str]]

_CLOCKS: tuple[Clock, ...] = ("cpu", "wall")

_TABLES: dict[Figure, tuple[str, list[str], Row]] = {
    Figure.SPEED: (
        "Speed: hand-written time / sage_flow time",
        ["case", "what", "records", "by hand, CPU", "sage_flow, CPU", "by CPU", "by wall", "peak MB", "bar"],
        _speed_row,
    ),
    Figure.TIMES: (
        "Time: sage_flow time / hand-written time",
        ["case", "what", "by hand, wall", "sage_flow, wall", "by CPU", "by wall", "bar"],
        _times_row,
    ),
    Figure.CALLS: (
        "Calls: sage_flow p50 / hand-written p50",
        [
            *("case", "what"),
            *("by hand, p50 / p99", "calls/s", "CPU a call"),
            *("sage_flow, p50 / p99", "calls/s", "CPU a call"),
            *("by p50", "bar"),
        ],
        _calls_row,
    ),
    Figure.ITEMS: (
        "Queues: hand-written time / sage_flow time",
        [
            *("case", "what", "items"),
            *("by hand, items/s", "CPU an item"),
            *("sage_flow, items/s", "CPU an item"),
            *("by CPU", "by wall", "bar"),
        ],
        _items_row,
    ),
    Figure.GROWTH: (
        "Memory: peak with all records / peak with a tenth of them",
        ["case", "what", "records", "by hand, MB", "a tenth, MB", "all, MB", "growth", "bar"],
        _growth_row,
    ),
}


# -- cells ----------------------------------------------------------------------------------------------------


def _name(one: Measured) -> list[str]:
    return [f"`{one.case.name}`", one.case.what]


def _seconds(values: Sequence[float]) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    if median >= 1:
        return f"{median:.1f} s"
    if median >= 1e-3:
        return f"{median * 1e3:.0f} ms" if median >= 1e-2 else f"{median * 1e3:.1f} ms"
    return f"{median * 1e6:.0f} µs" if median >= 1e-5 else f"{median * 1e6:.1f} µs"


def _known(side: Sequence[Reading], field: Callable[[Reading], float | None]) -> list[float]:
    return [value for value in map(field, side) if value is not None]


def _rate(side: Sequence[Reading]) -> str:
    rates = _known(side, lambda r: r.per_s)
    return f"{statistics.median(rates):,.0f}" if rates else ""


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}".replace("%", " %")


def _times(ratio: float) -> str:
    return f"{ratio:.1f} x" if ratio >= 2 else f"{ratio:.2f} x"


def _spread(spread: Spread | None, form: Callable[[float], str]) -> str:
    if spread is None:
        return ""
    if spread.least == spread.greatest:
        return f"**{form(spread.median)}**"
    return f"**{form(spread.median)}** ({form(spread.least)} - {form(spread.greatest)})"


def _peak(one: Measured) -> float:
    return statistics.median(reading.peak_mb for reading in one.flow)


def _verdict(one: Measured, form: Callable[[float], str], sign: str) -> str:
    """The bar, and whether it is met, which a run that is too small cannot say."""
    case = one.case
    clock = {"cpu": " by CPU", "wall": " by wall"}[case.clock] if case.figure is not Figure.GROWTH else ""
    if case.most_s is not None:
        bar = f"≤ {_seconds([case.most_s])}"
    elif case.bar is not None:
        bar = f"{sign} {form(case.bar)}{clock}"
    else:
        return ""
    if one.size < case.size or len(one.flow) < case.rounds:
        return bar
    return f"{bar}: {'met' if one.meets_bar else '**missed**'}"
