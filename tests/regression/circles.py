"""Services that call each other in a circle: V -> X -> Y and W -> Y -> X."""

from __future__ import annotations

from asks import WrongOutcome
from memory_services import Gates
from watched import finished

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.errors import ServiceCycle

__all__ = ["KINDS", "refused_side", "simulate_circles"]

LOST_S = 60.0
CALLS = 5


def _hop(name, onward, ctx):
    """Pass a request on along the names that are left; X and Y are both in when they first ask each other."""
    if not onward:
        return name
    other = {"x": "y", "y": "x"}.get(name)
    if other is not None:
        gates = ctx.service("gates")
        gates.unlock(f"{name} is in")
        gates.wait(f"{other} is in")
    return f"{name} {ctx.call_service(onward[0], onward[1:])}"


class _Hop(Service):
    def __init__(self, name):
        self.name = name

    def open(self, ctx):
        self.ctx = ctx

    def process(self, onward):
        return _hop(self.name, onward, self.ctx)


def _as_class(env, name):
    env.register_service(name, _Hop, name, timeout=LOST_S)


def _as_pipeline(env, name):
    body = PipelineService(
        lambda requests: requests.rebalance().map(lambda onward, ctx: _hop(name, onward, ctx), parallelism=2)
    )
    env.register_service(name, body, timeout=LOST_S)


KINDS = {
    "classes": dict.fromkeys("vwxy", _as_class),
    "pipelines": dict.fromkeys("vwxy", _as_pipeline),
    "both": {"v": _as_class, "w": _as_pipeline, "x": _as_class, "y": _as_pipeline},
}


def refused_side(env, kind):
    """Call both ways; return which of V and W was refused. Raises WrongOutcome."""

    def call(onward, ctx):
        try:
            return ctx.call_service(onward[0], onward[1:])
        except ServiceCycle as error:
            return error

    env.register_service("gates", Gates, concurrency=1000, timeout=LOST_S)
    for name, register_one in KINDS[kind].items():
        register_one(env, name)
    for name, way in {"v": "vxy", "w": "wyx"}.items():
        shallow_and_deep = [list(way[:2]), list(way)] * CALLS
        env.from_collection(shallow_and_deep).map(call, name=f"ask {name}").collect(f"told by {name}")
    collected = finished(env).collected
    told = {name: collected[f"told by {name}"] for name in "vw"}
    for refused, circle, expected in (
        ("v", "x -> y -> x", {"v": ["v x", None] * CALLS, "w": ["w y", "w y x"] * CALLS}),
        ("w", "y -> x -> y", {"v": ["v x", "v x y"] * CALLS, "w": ["w y", None] * CALLS}),
    ):
        if {name: [_unless_refused(outcome, circle) for outcome in told[name]] for name in told} == expected:
            return refused
    raise WrongOutcome(f"not one of the two was refused and everything else answered: {told}")


def _unless_refused(outcome, circle):
    return None if isinstance(outcome, ServiceCycle) and circle in str(outcome) else outcome


def simulate_circles(executor, kind):
    """Run the seed of this simulation; return which of V and W was refused."""
    return refused_side(LocalEnvironment(f"circle of {kind}", executor=executor), kind)
