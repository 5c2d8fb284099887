"""How far time is at the end of input does not depend on what an operator held back until then."""

import asyncio
from datetime import timedelta

import pytest

from sage_flow import LocalEnvironment, ProcessFunction
from sage_flow.executors.simulation import SimulationExecutor


class Alarms(ProcessFunction):
    def process(self, value, ctx):
        ctx.timers.set(f"alarm {value}", at=value)

    def on_timer(self, timer, ctx):
        yield timer.timestamp, timer.at_end


async def soon(value):
    await asyncio.sleep(0.01)
    return value


STEPS = {
    "none": lambda stream: stream,
    "map_async": lambda stream: stream.map_async(soon),
    "map_batches": lambda stream: stream.map_batches(list, batch_size=100),
    "both": lambda stream: stream.map_batches(list, batch_size=100).map_async(soon),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("parallelism", [1, 2])
def test_timers_before_the_last_record_are_not_left_to_the_end_of_input(step, parallelism):
    env = LocalEnvironment("job", parallelism, executor=SimulationExecutor(1))
    times = env.from_collection([1000 * n for n in range(1, 10)])
    timed = times.assign_timestamps(lambda t: t, max_out_of_order=timedelta(0))
    STEPS[step](timed).key_by(lambda t: t % 7).process(Alarms).collect("alarms")
    assert sorted(env.execute().collected["alarms"]) == [(1000 * n, n == 9) for n in range(1, 10)]
