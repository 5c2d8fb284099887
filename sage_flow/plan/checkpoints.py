"""Refuses jobs whose checkpoints could not be restored, and those that need checkpoints and have none."""

from __future__ import annotations

from collections.abc import Iterator

from sage_flow.errors import PipelineError
from sage_flow.functions import Sink, Source
from sage_flow.plan.graph import Operator
from sage_flow.plan.physical import Plan

__all__ = ["check_checkpoints", "services_told"]


def check_checkpoints(plan: Plan, storage: str | None, *, is_one_process: bool) -> None:
    """Check the sources and sinks of a job. `storage`: where its checkpoints go, None: it has none.

    `is_one_process`: all subtasks, and whoever leads the job, are in this process.

    Raises PipelineError naming the operator and the cure.
    """
    for operator in _operators(plan):
        for function in operator.functions:
            problem = _needs(function) if storage is None else _problem(function)
            if problem is not None:
                raise PipelineError(f"{operator.name!r} ({operator.location}) {problem}")
    if storage is not None and storage.startswith("memory:") and not is_one_process:
        raise PipelineError(
            f"checkpoints in {storage!r} are in the memory of one process, and this job has several: name a folder or"
            " an object store that all of them reach"
        )


def _operators(plan: Plan) -> Iterator[Operator]:
    for chain in plan.chains:
        yield from chain.operators


def _needs(function: object) -> str | None:
    if isinstance(function, Sink) and function.needs_checkpoints:
        return (
            "publishes at checkpoints, and the job makes none: call env.enable_checkpointing(...), or leave out roll="
        )
    return None


def _problem(function: object) -> str | None:
    if isinstance(function, Source):
        if type(function).snapshot is Source.snapshot:
            return (
                f"cannot go on from a checkpoint: {type(function).__name__} has no snapshot() and restore(); write"
                " them, or make it a SplitSource"
            )
        if getattr(function, "iterator", None) is not None:
            return (
                "cannot go on from a checkpoint: an iterator gives its records once; pass a list, or a function that"
                " makes the iterator"
            )
    if (
        isinstance(function, Sink)
        and type(function).commit is not Sink.commit
        and type(function).prepare is Sink.prepare
    ):
        return (
            f"would lose records at a restart: {type(function).__name__} publishes in commit() and has no prepare(),"
            " so what it holds at a checkpoint is in no checkpoint; write prepare(), snapshot() and restore()"
        )
    return None


def services_told(plan: Plan) -> str:
    """What the state of the job's services is worth after a recovery; empty: it has none with state."""
    names = ", ".join(sorted(name for name, service in plan.services.items()))
    if not names:
        return ""
    return (
        f"the state of services is in no checkpoint ({names}): after a recovery their open() runs again, and calls that"
        " were under way are made again"
    )
