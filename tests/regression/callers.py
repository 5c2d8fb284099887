"""Operators that ask: one call after the other, in bursts of futures, as coroutines."""

from __future__ import annotations

from asks import judge, judge_again
from memory_services import gate_of

from sage_flow.errors import ServiceTimeout

__all__ = ["asking", "asking_async"]


def asking(now, first_use_delay_s=0.0):
    """A function from a burst of asks to the (caller, seq) of those that got their right outcome: all, or it raises.

    A burst of one is a blocking call. `now` gives the seconds of the job's clock.
    """

    def ask_burst(burst, ctx):
        if burst[0].seq == 0:
            ctx.service("gates").pause(first_use_delay_s)
        if len(burst) == 1:
            return [_block(burst[0], ctx, now)]
        return _wait_for_all(burst, ctx, now)

    return ask_burst


def asking_async(now):
    """The same for one ask, as a coroutine."""

    async def ask_one(ask, ctx):
        began = now()
        try:
            outcome = await _method(ask, ctx).remote(ask.turn)
        except Exception as error:
            outcome = error
        judged = judge(ask, outcome, began, now())
        if ask.what == "late":
            await ctx.service("gates").unlock.remote(gate_of(ask))
        return judged

    return ask_one


def _block(ask, ctx, now):
    began = now()
    try:
        outcome = _method(ask, ctx)(ask.turn)
    except Exception as error:
        outcome = error
    judged = judge(ask, outcome, began, now())
    _let_go(ask, ctx)
    return judged


def _wait_for_all(burst, ctx, now):
    began = now()
    pending = [(ask, _method(ask, ctx).remote(ask.turn)) for ask in burst]
    pending.sort(key=lambda pair: pair[0].what != "late")  # others may wait for what only the late ones let go
    seen = []
    for ask, future in pending:
        outcome = _outcome(future)
        judge(ask, outcome, began, now())
        seen.append(outcome)
        _let_go(ask, ctx)
    for (ask, future), outcome in zip(pending, seen, strict=True):
        if ask.what == "racy" and not isinstance(outcome, ServiceTimeout):
            ctx.service("gates").pause(ask.timeout)  # a reply that came in time stays when the time has passed
        judge_again(ask, outcome, _outcome(future))
    return [(ask.caller, ask.seq) for ask in burst]


def _outcome(future):
    try:
        return future.result()
    except Exception as error:
        return error


def _let_go(ask, ctx):
    """Its caller has seen the timeout of a late call: now the reply may come, which nobody must get."""
    if ask.what == "late":
        ctx.service("gates").unlock(gate_of(ask))


def _method(ask, ctx):
    handle = ctx.service(ask.service).options(timeout=ask.timeout)
    return handle.process if ask.service == "answer" else handle.retrieve
