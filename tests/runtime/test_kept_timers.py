"""The timers of one subtask, driven by hand: when they are looked at, and what the heaps of their times hold."""

import math
from datetime import timedelta

import pytest
from fake_port import bench

from sage_flow import ProcessFunction
from sage_flow.runtime.subtask import WaitForMessage


class Rings(ProcessFunction):
    """A record (key, delay in ms) sets a timer of the wall clock; without a delay it clears it."""

    def process(self, value, ctx):
        if value[1] is None:
            ctx.timers.clear("t")
        else:
            ctx.timers.set("t", after=timedelta(milliseconds=value[1]), clock="wall")

    def on_timer(self, timer, ctx):
        yield ctx.key


@pytest.fixture
def made():
    def build(env):
        keyed = env.from_collection([]).key_by(lambda value: value[0])
        keyed.process(Rings, name="rings", parallelism=2).for_each(print)

    return bench(build, "rings")


def timers(made):
    return next(bound.held for bound in made.subtask.runner.operators if bound.operator.name == "rings")


def places(made):
    return len(timers(made)._looks["wall"]._heap)


def give(made, *values):
    """Each value in a frame of its own; its key travels before it."""
    for value in values:
        made.give(made.ins[0], (value[0], value))


def test_a_timer_of_the_wall_clock_is_looked_at_between_slices_and_while_waiting(made):
    give(made, ("a", 50), ("b", 100))
    assert made.run() == WaitForMessage(0.05)
    made.port.clock.advance(0.06)
    give(made, ("c", 1000))  # the subtask does not wait in between
    assert made.counts()["rings"] == 1
    made.port.clock.advance(0.05)
    made.run()
    assert made.counts()["rings"] == 2
    made.port.clock.advance(10)
    assert made.run() == WaitForMessage(math.inf)
    assert made.counts()["rings"] == 3


def test_a_timer_that_is_set_again_and_again_has_one_place(made):
    give(made, *[("a", delay) for delay in range(10, 500)])
    assert places(made) == 1
    give(made, *[("a", delay) for delay in range(500, 10, -1)])
    assert places(made) < 200


def test_cleared_timers_do_not_pile_up(made):
    give(made, *[("a", delay) for _ in range(500) for delay in (1000, None)])
    assert places(made) < 200
    assert timers(made).find("a", "t") is None
