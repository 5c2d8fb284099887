"""What each kind of object shows: `_repr_html_` of environments, streams, results and handles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from sage_flow.errors import PipelineError, SageFlowError
from sage_flow.notebook import html
from sage_flow.plan.picture import picture_of
from sage_flow.runtime.report import OperatorCounts

if TYPE_CHECKING:
    from sage_flow.job import JobHandle, JobResult
    from sage_flow.plan.builder import Graph

__all__ = ["handle_html", "pipeline_html", "result_html"]

_COUNTS = ("operator", "records", "skipped", "dead letters")


def pipeline_html(kind: str, graph: Graph, marked: Collection[str] = (), *facts: str) -> str:
    """A pipeline as far as it is written; `marked`: the operators that are meant."""
    try:
        picture = picture_of(*graph.draft())
    except PipelineError as error:  # to look at it is no reason to stop
        return html.block(html.heading(kind, graph.job, *facts), html.notes("wrong", [str(error)]))
    return html.block(html.heading(kind, graph.job, *facts), html.graph(picture, marked))


def result_html(result: JobResult) -> str:
    """What a job came to: counts, and never the rows."""
    picture = result._picture
    labels = ((label, len(rows)) for label, rows in result.collected.items())
    return html.block(
        html.heading("JobResult", "" if picture is None else picture.job, str(result.status)),
        "" if picture is None else html.graph(picture),
        html.table(_COUNTS, result.table()),
        html.table(("collected", "rows"), labels),
        html.notes("still running", result.stuck),
    )


def handle_html(handle: JobHandle) -> str:
    """A job, and how far it is. One whose cluster does not answer says so."""
    picture = handle._picture
    parts = [] if picture is None else [html.graph(picture)]
    try:
        facts = [str(handle.status)]
        counts: Mapping[str, OperatorCounts] = handle.metrics()["operators"]
        titles = {} if picture is None else picture.titles
        parts.append(html.table(_COUNTS, ((titles.get(name, name), *count) for name, count in counts.items())))
    except SageFlowError as error:
        facts = []
        parts.append(html.notes("unknown", [str(error)]))
    return html.block(html.heading("JobHandle", handle.name, *facts), *parts)
