"""Eight threads of an operator's own call services that nobody has called before, all at once."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asks import drawn
from callers import asking
from memory_services import NEVER_S, Relay, ShortTermMemory, add_gates, answering
from watched import finished

from sage_flow import PipelineService, Service
from sage_flow.testing import MODES

THREADS = 8
ASKS = 10  # of each thread

with_real_threads = pytest.mark.parametrize("mode", [m for m in MODES if "simulation" not in m.name], ids=str)
"""In the simulation user code has no threads of its own."""


def ask_in_threads(asks, ctx):
    start = threading.Barrier(THREADS)
    ask = asking(time.monotonic)

    def ask_some(number):
        start.wait(NEVER_S)
        return [ask([mine], ctx) for mine in asks[number::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        told = pool.map(ask_some, range(THREADS))
        return sorted(pair for some in told for pairs in some for pair in pairs)


class Crowd(Service):
    def open(self, ctx):
        self.ctx = ctx

    def process(self, asks):
        return ask_in_threads(asks, self.ctx)


WHERE = {
    "an operator": ask_in_threads,
    "a service": lambda asks, ctx: ctx.call_service("crowd", asks),
    "an operator of a pipeline service": lambda asks, ctx: ctx.call_service("crowd in a pipeline", asks),
}


@pytest.mark.race
@with_real_threads
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.on_ray
def test_the_first_calls_of_eight_threads_have_their_right_outcomes(mode, where):
    for seed in range(2 if mode.name == "processes" else 10):
        choose = random.Random(seed)
        asks = [drawn(choose, where, seq, largest=10_000) for seq in range(THREADS * ASKS)]
        env = mode.environment(parallelism=1)
        add_gates(env)
        env.register_service("short_term_memory", ShortTermMemory, concurrency=2, timeout=NEVER_S)
        env.register_service("answer", answering(2), timeout=NEVER_S)
        env.register_service("relay", Relay, concurrency=3, timeout=NEVER_S)
        env.register_service("crowd", Crowd, timeout=NEVER_S)
        env.register_service("crowd in a pipeline", PipelineService(lambda r: r.map(ask_in_threads)), timeout=NEVER_S)
        env.from_collection([asks]).map(WHERE[where], name="ask").collect("told")
        assert finished(env).collected["told"] == [[(where, seq) for seq in range(THREADS * ASKS)]], f"seed {seed}"
