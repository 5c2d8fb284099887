"""A picture of a plan as an SVG: boxes in columns from the sources on, arrows between them, services in frames below.

Colours are those of the page (`currentColor`), so that it fits a dark one, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sage_flow.plan.picture import Arrow, Box, Picture

__all__ = ["BoxLook", "svg_of"]

_CHAR = 7.3  # pixels of a character of the font, or a little more
_LINE = 17
_PAD = 9
_GAP = 26  # between boxes of a column
_ARROW = 70  # between columns, and at least what the label of an arrow needs
_LONGEST = 40  # characters of a line; the rest is in its tooltip


@dataclass
class _Placed:
    box: Box
    lines: list[tuple[str, str]]  # as shown, and whole
    x: float = 0
    y: float = 0

    @property
    def width(self) -> float:
        return max(len(short) for short, _ in self.lines) * _CHAR + 2 * _PAD

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 2 * _PAD


@dataclass(frozen=True)
class BoxLook:
    """How a box looks in a job that runs: its colour, how dark it is (0 to 1), what else is written in it.

    `facts` are attributes `data-...` of the box, for programs that read the picture.
    """

    color: str = "none"
    depth: float = 0.0
    lines: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


def svg_of(picture: Picture, marked: Collection[str] = (), looks: Mapping[int, BoxLook] | None = None) -> str:
    """Draw it; boxes with operators of the names in `marked` have a thick frame. `looks`: by the ids of boxes."""
    looks = looks or {}
    placed = {box.id: _Placed(box, _lines(box, looks.get(box.id, BoxLook()))) for box in picture.boxes}
    groups = [None, *dict.fromkeys(box.service for box in picture.boxes if box.service is not None)]
    parts: list[str] = []
    width = top = 0.0
    for service in groups:
        inside = [one for one in placed.values() if one.box.service == service]
        if not inside:
            continue
        title = 0 if service is None else _LINE + _PAD
        group_width, bottom = _place(inside, picture.arrows, top + title)
        if service is not None:
            group_width = max(group_width, len(_short(_titled(service))) * _CHAR + 2 * _PAD)
            parts.append(_frame(service, top, group_width, bottom - top))
        width, top = max(width, group_width), bottom + _GAP
    parts += [_arrow(placed[arrow.source], placed[arrow.target], arrow.how) for arrow in picture.arrows]
    parts += [
        _drawn(one, looks.get(one.box.id, BoxLook()), any(name in marked for name, _ in one.box.operators))
        for one in placed.values()
    ]
    size = f'width="{width + 2:.0f}" height="{top:.0f}" viewBox="-1 -1 {width + 2:.0f} {top:.0f}"'
    style = "font: 12px monospace; color: inherit; max-width: none"
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} style="{style}">{"".join(parts)}</svg>'


def _lines(box: Box, look: BoxLook) -> list[tuple[str, str]]:
    size = " ".join(filter(None, [f"x{box.parallelism}", box.needs]))
    whole = [*(title for _, title in box.operators), size, *look.lines]
    return [(_short(line), line) for line in whole]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _place(boxes: Sequence[_Placed], arrows: Sequence[Arrow], top: float) -> tuple[float, float]:
    """Put these boxes into columns below `top`; return how wide they are, and where they end."""
    columns = _columns([one.box.id for one in boxes], arrows)
    x, bottom = float(_PAD), top
    for number in range(max(columns.values()) + 1):
        column = [one for one in boxes if columns[one.box.id] == number]
        y = top
        for one in column:
            one.x, one.y = x, y
            y += one.height + _GAP
        bottom = max(bottom, y - _GAP)
        leaving = [_short(arrow.how) for arrow in arrows if arrow.source in {one.box.id for one in column}]
        x += max(one.width for one in column) + max([_ARROW, *(len(how) * _CHAR + 2 * _PAD for how in leaving)])
    return max(one.x + one.width for one in boxes) + _PAD, bottom + _PAD


def _columns(ids: Sequence[int], arrows: Sequence[Arrow]) -> dict[int, int]:
    """The longest way to each box, in arrows."""
    columns = dict.fromkeys(ids, 0)
    for _ in ids:  # as often as the longest way can be long
        for arrow in arrows:
            if arrow.source in columns and arrow.target in columns:
                columns[arrow.target] = max(columns[arrow.target], columns[arrow.source] + 1)
    return columns


def _drawn(one: _Placed, look: BoxLook, is_marked: bool) -> str:
    stroke = 2.5 if is_marked else 1
    facts = "".join(f' data-{name}="{escape(value)}"' for name, value in look.facts)
    shade = "" if look.color == "none" else f' fill-opacity="{look.depth:.2f}"'
    parts = [
        f'<rect x="{one.x:.0f}" y="{one.y:.0f}" width="{one.width:.0f}" height="{one.height:.0f}" rx="4"'
        f' fill="{look.color}"{shade} stroke="currentColor" stroke-width="{stroke}"{facts}/>'
    ]
    for number, (short, whole) in enumerate(one.lines, start=1):
        parts.append(_text(short, whole, one.x + _PAD, one.y + _PAD / 2 + number * _LINE))
    return "".join(parts)


def _text(short: str, whole: str, x: float, y: float, more: str = "") -> str:
    tooltip = "" if short == whole else f"<title>{escape(whole)}</title>"
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="currentColor"{more}>{escape(short)}{tooltip}</text>'


def _titled(service: str) -> str:
    return f"service {service}"


def _frame(service: str, top: float, width: float, height: float) -> str:
    whole = _titled(service)
    rect = (
        f'<rect x="0" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4" fill="none"'
        ' stroke="currentColor" stroke-dasharray="4 3" stroke-opacity="0.6"/>'
    )
    return rect + _text(_short(whole), whole, _PAD, top + _LINE)


def _arrow(source: _Placed, target: _Placed, how: str) -> str:
    x1, y1 = source.x + source.width, source.y + source.height / 2
    x2, y2 = target.x, target.y + target.height / 2
    bend = (x2 - x1) / 2
    path = f"M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2 - 6:.0f} {y2:.0f}"
    line = f'<path d="{path}" fill="none" stroke="currentColor"/>'
    head = f'<path d="M{x2 - 8:.0f} {y2 - 4:.0f}L{x2:.0f} {y2:.0f}L{x2 - 8:.0f} {y2 + 4:.0f}Z" fill="currentColor"/>'
    style = ' text-anchor="end" font-size="10" fill-opacity="0.8"'
    return line + head + _text(_short(how), how, x2 - 12, y2 - 4, style)  # near its end arrows are apart
