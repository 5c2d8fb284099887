"""V -> X -> Y and W -> Y -> X: the call that would close the circle is refused, and everything else is answered."""

import pytest
from memory_services import Gates
from watched import finished

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.errors import ServiceCycle
from sage_flow.executors.simulation import SimulationExecutor

LOST_S = 60.0
CALLS = 5


def hop(name, onward, ctx):
    """Pass a request on along the names that are left; X and Y are both in when they first ask each other."""
    if not onward:
        return name
    other = {"x": "y", "y": "x"}.get(name)
    if other is not None:
        gates = ctx.service("gates")
        gates.unlock(f"{name} is in")
        gates.wait(f"{other} is in")
    return f"{name} {ctx.call_service(onward[0], onward[1:])}"


class Hop(Service):
    def __init__(self, name):
        self.name = name

    def open(self, ctx):
        self.ctx = ctx

    def process(self, onward):
        return hop(self.name, onward, self.ctx)


def as_class(env, name):
    env.register_service(name, Hop, name, timeout=LOST_S)


def as_pipeline(env, name):
    body = PipelineService(
        lambda requests: requests.rebalance().map(lambda onward, ctx: hop(name, onward, ctx), parallelism=2)
    )
    env.register_service(name, body, timeout=LOST_S)


KINDS = {
    "classes": dict.fromkeys("vwxy", as_class),
    "pipelines": dict.fromkeys("vwxy", as_pipeline),
    "both": {"v": as_class, "w": as_pipeline, "x": as_class, "y": as_pipeline},
}


def refused_side(env, register):
    """Call both ways; return which of V and W was refused, after checking what everybody got."""

    def call(onward, ctx):
        try:
            return ctx.call_service(onward[0], onward[1:])
        except ServiceCycle as error:
            return error

    env.register_service("gates", Gates, concurrency=1000, timeout=LOST_S)
    for name, register_one in register.items():
        register_one(env, name)
    for name, way in {"v": "vxy", "w": "wyx"}.items():
        shallow_and_deep = [list(way[:2]), list(way)] * CALLS
        env.from_collection(shallow_and_deep).map(call, name=f"ask {name}").collect(f"told by {name}")
    collected = finished(env).collected
    assert collected["told by v"][::2] == ["v x"] * CALLS
    assert collected["told by w"][::2] == ["w y"] * CALLS
    deep = {"v": collected["told by v"][1::2], "w": collected["told by w"][1::2]}
    (refused,) = [name for name, outcomes in deep.items() if isinstance(outcomes[0], ServiceCycle)]
    answered, reply, circle = {"v": ("w", "w y x", "x -> y -> x"), "w": ("v", "v x y", "y -> x -> y")}[refused]
    assert deep[answered] == [reply] * CALLS
    for error in deep[refused]:
        assert isinstance(error, ServiceCycle)
        assert circle in str(error)
    return refused


@pytest.mark.parametrize("register", KINDS.values(), ids=KINDS)
def test_the_circle_is_refused_in_one_of_its_callers(mode, register):
    refused_side(mode.environment(parallelism=1), register)


@pytest.mark.parametrize("register", KINDS.values(), ids=KINDS)
def test_the_circle_is_refused_in_every_schedule_whoever_comes_first(register):
    refused = set()
    for seed in range(100):
        env = LocalEnvironment("circle", executor=SimulationExecutor(seed))
        refused.add(refused_side(env, register))
    assert refused == {"v", "w"}
