"""The original fault at length.

Ten thousand seeds in the simulation, 100,000 calls between threads, 10,000 between processes, 100,000 by clones of
descriptors, and the circles of services, spread over the cores. What fails is told with the command that runs it
again; a seed of the simulation then does the same steps, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from circles import KINDS, simulate_circles
from descriptor_job import run_descriptors
from memory_job import PROCESSES, THREADS, simulate

from sage_flow.executors.simulation import SimulationExecutor

__all__ = ["RUNS", "Real", "Simulated", "main", "run_some"]


@dataclass(frozen=True)
class Simulated:
    """A job whose every step follows from a seed. `amount`: seeds of the long run."""

    run_in: Callable[[SimulationExecutor], Any]
    amount: int
    seeds_per_task: int = 100
    unit: str = "seeds"

    def run(self, seed):
        """Run a seed; return how much of the amount is done. Raises what goes wrong."""
        self.run_in(SimulationExecutor(seed))
        return 1

    def replay(self, seed):
        """Run a seed and print its steps and a digest of them, also if it fails."""
        executor = SimulationExecutor(seed)
        try:
            self.run_in(executor)
        finally:
            text = "".join(f"{line}\n" for line in executor.trace)
            digest = hashlib.sha256(text.encode()).hexdigest()
            print(f"{text}{len(executor.trace)} steps, sha256 {digest}", flush=True)


@dataclass(frozen=True)
class Real:
    """A job that a seed draws and real threads run. `amount`: calls of the long run."""

    run: Callable[[int], int]
    amount: int
    seeds_per_task: int
    unit: str = "calls"

    def replay(self, seed):
        """Draw the same job; the threads may do otherwise."""
        print(f"{self.run(seed)} calls had their right outcome")


RUNS = {
    "memory": Simulated(simulate, 10_000),
    **{f"circle-of-{kind}": Simulated(partial(simulate_circles, kind=kind), 1_000) for kind in KINDS},
    "threads": Real(THREADS.run, 100_000, seeds_per_task=10),
    "processes": Real(PROCESSES.run, 10_000, seeds_per_task=5),
    "descriptors": Real(run_descriptors, 100_000, seeds_per_task=5),
}


class Failure(NamedTuple):
    """A seed that failed."""

    name: str
    seed: int
    told: str

    def __str__(self):
        command = f"{sys.executable} {Path(__file__).parent} --only {self.name} --replay {self.seed}"
        return f"{self.name}, seed {self.seed}: {self.told}\n  again: {command}"


def main(arguments=None):
    """Return the exit code: 1 if a seed failed."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return _replay(options.only or "memory", options.replay)
    failed = False
    for name in [options.only] if options.only else RUNS:
        began = time.monotonic()
        amount = max(1, round(RUNS[name].amount * options.part))
        done, failures = _run_all(name, amount, options.first, options.jobs)
        told = f"{name}: {done} {RUNS[name].unit} in {time.monotonic() - began:.0f} s, {failures} seeds failed"
        print(told, flush=True)
        failed = failed or failures > 0
    return 1 if failed else 0


def _parser():
    parser = argparse.ArgumentParser("tests/regression", description=__doc__)
    parser.add_argument("--only", choices=RUNS, help="run this one; default: all")
    parser.add_argument("--part", type=float, default=1.0, help="how much of the whole, e.g. 0.1")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the seed to begin with")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes to spread the seeds over")
    parser.add_argument("--replay", type=int, metavar="SEED", help='run this seed of --only (default: "memory")')
    return parser


def _run_all(name, amount, first, jobs):
    """Run seeds until the amount is done; return what is done and how many failed. Failures are told as they come."""
    count = min(RUNS[name].seeds_per_task, amount)
    done = failures = 0
    with ProcessPoolExecutor(jobs) as pool:
        tasks = set()
        while done < amount or tasks:
            while done < amount and len(tasks) < jobs:
                tasks.add(pool.submit(run_some, name, range(first, first + count)))
                first += count
            task = next(as_completed(tasks))
            tasks.remove(task)
            done_there, failed_there = task.result()
            done += done_there
            failures += len(failed_there)
            for failure in failed_there:
                print(failure, flush=True)
    return done, failures


def run_some(name, seeds):
    """Return how much of the amount these seeds did, and their failures, which count as done."""
    done, failures = 0, []
    for seed in seeds:
        try:
            done += RUNS[name].run(seed)
        except Exception as error:
            failures.append(Failure(name, seed, repr(error)))
            done += 1
    return done, failures


def _replay(name, seed):
    try:
        RUNS[name].replay(seed)
    except Exception:
        traceback.print_exc()
        return 1
    return 0
