"""The job of the fault: main pipelines that ask a memory, directly and through services, drawn from a seed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

from asks import WrongOutcome, drawn
from callers import asking, asking_async
from memory_services import Gates, Relay, ShortTermMemory, answering
from watched import finished

from sage_flow import LocalEnvironment
from sage_flow.executors.execution import Executor
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.executors.threads import ThreadExecutor

__all__ = ["PROCESSES", "SIMULATED", "THREADS", "Scale", "simulate"]

NEVER_S = 60.0
"""A timeout that does not pass, unless a call is lost."""


@dataclass(frozen=True)
class Scale:
    """How much is asked, and where; what exactly, and who starts when, comes from the seed of a run.

    `asks` per caller; `largest` text in bytes; `slowest_s`: delays of `open` and of first use are up to this.
    """

    make_executor: Callable[[], Executor]
    callers: int
    asks: int
    largest: int
    slowest_s: float

    def run(self, seed, executor=None, now=time.monotonic):
        """Run a job; every call must come to its right outcome. Return how many there were. Raises WrongOutcome."""
        env = LocalEnvironment(f"memory {seed}", executor=executor or self.make_executor())
        asked = _build(env, self, random.Random(seed), now)
        result = finished(env)
        told = Counter(pair for name, rows in result.collected.items() if name.startswith("told ") for pair in rows)
        if told != Counter(asked):
            raise WrongOutcome(f"lost: {Counter(asked) - told}; more than once: {told - Counter(asked)}")
        return len(asked)


THREADS = Scale(ThreadExecutor, callers=4, asks=125, largest=4_000_000, slowest_s=0.01)
PROCESSES = Scale(ProcessExecutor, callers=4, asks=125, largest=4_000_000, slowest_s=0.01)
SIMULATED = Scale(SimulationExecutor, callers=3, asks=8, largest=2048, slowest_s=0.1)


def simulate(executor):
    """Run the seed of this simulation. Raises WrongOutcome, Deadlock, or what else goes wrong."""
    SIMULATED.run(executor.seed, executor, executor.clock.now)


def _build(env, scale, choose, now):
    """Make services and pipelines in an order that is drawn, too; return the (caller, seq) of every call."""

    def delay():
        return choose.random() * scale.slowest_s * choose.randrange(2)

    register = partial(env.register_service, timeout=NEVER_S)
    asks = {
        name: [drawn(choose, name, seq, scale.largest) for seq in range(scale.asks)]
        for name in (f"caller {number}" for number in range(scale.callers))
    }
    steps = [
        lambda: register("gates", Gates, concurrency=1000),
        lambda: register("short_term_memory", ShortTermMemory, delay(), concurrency=choose.choice([1, 2, 4])),
        lambda: register("answer", answering(choose.choice([1, 2]), delay())),
        lambda: register("relay", Relay, concurrency=choose.choice([1, 3])),
        *(partial(_add_caller, env, name, asks[name], choose, delay(), now) for name in asks),
    ]
    choose.shuffle(steps)
    for step in steps:
        step()
    return [(ask.caller, ask.seq) for each in asks.values() for ask in each]


def _add_caller(env, name, asks, choose, first_use_delay_s, now):
    parallelism = choose.choice([1, 2])
    if choose.randrange(4) == 0:
        source = env.from_collection(asks, name=f"source of {name}").rebalance()
        told = source.map_async(asking_async(now), capacity=6, ordered=False, name=name, parallelism=parallelism)
    else:
        bursts = list(_bursts(asks, choose))
        source = env.from_collection(bursts, name=f"source of {name}").rebalance()
        told = source.flat_map(asking(now, first_use_delay_s), name=name, parallelism=parallelism)
    told.collect(f"told {name}")


def _bursts(asks, choose):
    left = iter(asks)
    while burst := list(islice(left, choose.choice([1, 1, 1, 4, 16]))):
        yield burst
