"""How a job is stopped from its own program: the first Ctrl-C drains it, the second one cancels it.

A job with checkpoints makes a last one at the first Ctrl-C and ends, so that it can go on later. The same for SIGTERM,
so that a service manager's stop keeps the output, and for SIGHUP, so that a terminal that is closed leaves nothing
behind; by `sage-flow run` and by `env.execute()`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from sage_flow.cli.console import on_lost_stdout, tell
from sage_flow.cli.interrupts import StopSignals, stop_signals
from sage_flow.functions import WRITES_AT_ONCE, Sink
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator
from sage_flow.runtime.coordinator import JobStatus

if TYPE_CHECKING:
    from sage_flow.job import JobHandle
    from sage_flow.plan.physical import Plan

__all__ = ["endless_sources", "exit_code", "how_to_continue", "how_to_stop", "sinks_at_a_stop", "stoppable"]

_NOBODY_READS: Final = "nobody reads its output any more"
_NEVER_SECOND: Final = (_NOBODY_READS, "SIGHUP")
"""A terminal that is closed causes both, in any order, so neither counts as a second request."""
_SIGNAL_CODE: Final = 128  # plus the number of the signal: what a shell says of a program that a signal has ended


@contextlib.contextmanager
def stoppable(submit: Callable[[], JobHandle], *, announces: bool) -> Iterator[tuple[JobHandle, StopSignals]]:
    """Submit a job; signals stop it while the block runs. `announces`: tell at its start how an endless job ends."""
    with stop_signals() as signals, on_lost_stdout(lambda: signals.ask(_NOBODY_READS)), submit() as job:
        if not job.is_owner:  # Ctrl-C ends the wait and leaves the job alone
            signals.give_back()
            signals.deliver()
        signals.take_again()
        if announces and (lines := how_to_stop(job)):
            tell(*lines)
        with _obeyed(job, signals):
            yield job, signals


def exit_code(signals: StopSignals, status: JobStatus) -> int:
    """Of a program whose job was stopped by signals.

    A job that was stopped with a last checkpoint has done what was asked, and so has one that SIGTERM or SIGHUP has
    drained: 0. After Ctrl-C a script should not go on as if the job had come to its own end: 130. A job that was
    cancelled has published nothing: 128 and the signal's number.
    """
    if status is JobStatus.STOPPED or (status is JobStatus.FINISHED and signals.came[0] != signal.SIGINT):
        return 0
    return _SIGNAL_CODE + signals.came[-1]


@contextlib.contextmanager
def _obeyed(job: JobHandle, signals: StopSignals) -> Iterator[None]:
    """A thread does what the signals ask for: the main thread waits for the job, perhaps with a lock in its hands."""
    stops: list[str] = []

    def obey() -> None:
        while (reason := signals.next_reason()) is not None:
            if stops and reason in _NEVER_SECOND:
                continue
            stops.append(reason)
            if not job.status.is_final:
                (_stop_in_order if len(stops) == 1 else _cancel)(job, reason)

    thread = threading.Thread(target=obey, name=f"stops {job.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signals.end_reasons()
        thread.join()
        if stops:
            _tell_outcome(job)


def _stop_in_order(job: JobHandle, reason: str) -> None:
    """The first stop: with a last checkpoint if the job has any, else it drains the job."""
    again = f"{reason} again" if reason == "Ctrl-C" else "Ctrl-C, or SIGTERM,"
    if job._execution.stores_checkpoints:
        tell(
            f"sage-flow: {reason}: stopping job {job.name!r} with a last checkpoint, from which it can go on later;"
            f" {again} cancels it"
        )
        job.stop(wait=False)
        return
    tell(
        f"sage-flow: {reason}: draining job {job.name!r}: its sources end, and their records are processed and"
        f" published; {again} cancels it",
        *(f"  {line}" for line in sinks_at_a_stop(job._execution.plan)),
    )
    job.drain(wait=False)


def _cancel(job: JobHandle, reason: str) -> None:
    tell(f"sage-flow: {reason}: cancelling job {job.name!r}")
    job.cancel("interrupted", wait=False)


def _tell_outcome(job: JobHandle) -> None:
    """Print the outcome of the job after a stop; the caller raises, and so prints, the error of a failed job."""
    if job.status is JobStatus.FINISHED:
        published = ", ".join(_published(job._execution.plan))
        tell(f"sage-flow: job {job.name!r} is FINISHED" + (f"; published: {published}" if published else ""))
    elif job.status is JobStatus.STOPPED:
        tell(how_to_continue(job.name))
    elif job.status is JobStatus.CANCELLED:
        what = "nothing more" if job._execution.stores_checkpoints else "nothing"
        tell(f"sage-flow: job {job.name!r} is CANCELLED, {what} is published")
        if job._execution.stuck:
            tell("user code that is still running:", *(f"  {where}" for where in job._execution.stuck))


# -- what a plan says of it -------------------------------------------------------------------------------------


def how_to_continue(job: str) -> str:
    """The line for the end of a job that was stopped with a last checkpoint."""
    return (
        f'sage-flow: job {job!r} is STOPPED with a last checkpoint; --restore latest, in a program restore="latest",'
        " goes on from it"
    )


def how_to_stop(job: JobHandle) -> list[str]:
    """Lines for the start of a job that may have no end; none for another one."""
    endless = endless_sources(job._execution.plan)
    if not endless:
        return []
    sources = f"its source{'s' * (len(endless) > 1)} {', '.join(map(repr, endless))} may have no end"
    if job._execution.stores_checkpoints:
        return [
            f"sage-flow: job {job.name!r} runs until it is stopped ({sources}); Ctrl-C, SIGTERM, or `sage-flow stop"
            f" {job.id}` from another terminal, stops it with a last checkpoint, from which it can go on later"
        ]
    return [
        f"sage-flow: job {job.name!r} runs until it is stopped ({sources}); Ctrl-C, SIGTERM, or `sage-flow drain"
        f" {job.id}` from another terminal, drains it:",
        *(f"  {line}" for line in sinks_at_a_stop(job._execution.plan)),
    ]


def endless_sources(plan: Plan | None) -> list[str]:
    """The names of the sources that are not known to come to an end."""
    return [o.name for o in _operators(plan) if o.kind is kinds.SOURCE and not o.functions[0].bounded]


def sinks_at_a_stop(plan: Plan | None) -> list[str]:
    """A line per sink: what becomes of its records when the job is drained, and when it is cancelled."""
    return [f"{_label(o)!r} {_fate(o)}" for o in _operators(plan) if o.kind.is_sink]


def _label(operator: Operator) -> str:
    label: str = operator.options.get("label", operator.name)
    return label


def _fate(operator: Operator) -> str:
    if operator.kind is kinds.COLLECT:
        return "keeps its rows in memory: they are in the result, even after a cancel"
    sink = operator.functions[0]
    return sink.at_a_stop() if isinstance(sink, Sink) else WRITES_AT_ONCE


def _published(plan: Plan | None) -> list[str]:
    functions = (function for operator in _operators(plan) for function in operator.functions)
    return [output for sink in functions if isinstance(sink, Sink) for output in sink.publishes() or ()]


def _operators(plan: Plan | None) -> list[Any]:
    return [] if plan is None else [operator for chain in plan.chains for operator in chain.operators]
