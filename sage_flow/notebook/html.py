"""The pieces of HTML that a notebook shows. Whatever comes from the user is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

from sage_flow.notebook.svg import svg_of
from sage_flow.plan.picture import Picture

__all__ = ["block", "graph", "heading", "notes", "table"]


def block(*parts: str) -> str:
    """The parts, one below the other."""
    return f"<div>{''.join(parts)}</div>"


def heading(kind: str, name: str, *facts: str) -> str:
    """What this is, its name, and what else is known."""
    return f"<div><b>{escape(kind)}</b> {escape(' · '.join([repr(name), *facts]))}</div>"


def graph(picture: Picture, marked: Collection[str] = ()) -> str:
    """A pipeline, as far as it is written, and what is missing of it."""
    drawn = f'<div style="overflow-x: auto">{svg_of(picture, marked)}</div>' if picture.boxes else ""
    return drawn + notes("missing", picture.missing)


def notes(title: str, texts: Iterable[str]) -> str:
    """A list of texts under a title; nothing if there are none."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<div>{escape(title)}:<ul>{items}</ul></div>" if items else ""


def table(titles: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A table whose first column is text, and the others numbers."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _cell(value: str | int) -> str:
    return f'<td style="text-align: left">{escape(value)}</td>' if isinstance(value, str) else f"<td>{value:,}</td>"
