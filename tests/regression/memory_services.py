"""The services of the fault: a memory, a pipeline and a service that ask it, and gates to hold them up."""

from __future__ import annotations

import asyncio
import contextvars

from asks import Answer, Refused, Unpicklable

from sage_flow import Function, PipelineService, Service

__all__ = ["Gates", "Relay", "ShortTermMemory", "answering", "gate_of"]


def gate_of(turn):
    """The gate that a late reply to this turn waits at."""
    return f"{turn.caller}/{turn.seq}"


class Gates(Service):
    """Waits that end when another call says so, or in time, which is virtual in the simulation."""

    def open(self, ctx):
        self._gates = {}

    async def pause(self, seconds):
        await asyncio.sleep(seconds)

    async def wait(self, name):
        await self._gate(name).wait()

    async def unlock(self, name):
        self._gate(name).set()

    def _gate(self, name):
        return self._gates.setdefault(name, asyncio.Event())


class ShortTermMemory(Service):
    """Is slow to come up; answers, refuses, breaks, or is late, as the turn wants it."""

    def __init__(self, open_delay_s=0.0):
        self._open_delay_s = open_delay_s

    def open(self, ctx):
        self._gates = ctx.service("gates")
        self._gates.pause(self._open_delay_s)

    def retrieve(self, turn):
        if turn.what == "refuse":
            raise Refused(turn.caller, turn.seq)
        if turn.what == "break":
            raise Unpicklable(turn.caller, turn.seq)
        if turn.what == "late":  # in a context without the call's deadline: the reply comes, after the timeout
            contextvars.Context().run(self._gates.wait, gate_of(turn))
        return Answer(turn.caller, turn.seq, turn.text[::-1], ("short_term_memory",))

    def append(self, caller, seq):
        return (caller, seq)


class Relay(Service):
    """Asks the pipeline, from several activations at once when it is first used."""

    def open(self, ctx):
        self._ctx = ctx

    def retrieve(self, turn):
        answer = self._ctx.call_service("answer", turn)
        return answer._replace(route=(*answer.route, "relay"))


class _Retrieve(Function):
    def __init__(self, open_delay_s):
        self._open_delay_s = open_delay_s

    def open(self, ctx):
        self._memory = ctx.service("short_term_memory")
        ctx.service("gates").pause(self._open_delay_s)

    def __call__(self, turn):
        return turn, self._memory.retrieve(turn)


def _unless_skipped(found):
    turn, _ = found
    if turn.what == "skip":
        raise Refused(turn.caller, turn.seq)
    return found


def _remembered(found, ctx):
    _, answer = found
    kept = ctx.service("short_term_memory").append(answer.caller, answer.seq)
    if kept != (answer.caller, answer.seq):
        raise LookupError(f"append of {answer.caller}/{answer.seq} got the reply to {kept}")
    return answer._replace(route=(*answer.route, "answer"))


def answering(parallelism=1, open_delay_s=0.0):
    """A pipeline that asks the memory twice for each turn, from different subtasks, with a detour between."""

    def body(requests):
        found = requests.map(_Retrieve(open_delay_s), name="retrieve")
        kept = found.map(_unless_skipped, on_error="skip").filter(lambda pair: pair[0].what != "filter")
        doubled = kept.flat_map(lambda pair: [pair, None]).rebalance().filter(lambda pair: pair is not None)
        return doubled.map(_remembered, name="remember", parallelism=2)

    return PipelineService(body, parallelism)
