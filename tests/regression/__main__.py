"""The original fault at length: `make regression`.

Ten thousand seeds in the simulation, 100,000 calls between threads and 10,000 between processes, spread over the
cores. What fails is told with the command that runs it again; a seed of the simulation does the same steps then,
byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from memory_job import PROCESSES, THREADS, simulate

from sage_flow.executors.simulation import SimulationExecutor


def _simulated(seed):
    simulate(SimulationExecutor(seed))
    return 1


RUNS = {"simulation": _simulated, "threads": THREADS.run, "processes": PROCESSES.run}
"""What runs a seed, and returns how much of the amount that was asked for is done."""

_SEEDS_PER_TASK = {"simulation": 100, "threads": 10, "processes": 5}


class Failure(NamedTuple):
    """A seed that failed."""

    mode: str
    seed: int
    told: str

    def __str__(self):
        again = f"{sys.executable} {Path(__file__).parent} --mode {self.mode} --replay {self.seed}"
        return f"{self.mode}, seed {self.seed}: {self.told}\nagain: {again}"


class Part(NamedTuple):
    """What came of some seeds: the amount that is done, and those that failed."""

    mode: str
    done: int
    failures: list[Failure]


def main(arguments=None):
    """Return the exit code: 1 if a seed failed."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return _replay(options.mode, options.replay)
    amounts = {"simulation": options.seeds, "threads": options.calls, "processes": options.process_calls}
    failures = []
    for mode, amount in amounts.items():
        began = time.monotonic()
        done, failed = _run_all(mode, amount, options.first, options.jobs)
        failures += failed
        unit = "seeds" if mode == "simulation" else "calls"
        print(f"{mode}: {done} {unit} in {time.monotonic() - began:.0f} s, {len(failed)} failures", flush=True)
    return 1 if failures else 0


def _parser():
    parser = argparse.ArgumentParser("tests/regression", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="in the simulation; default: %(default)s")
    parser.add_argument("--calls", type=int, default=100_000, help="between threads; default: %(default)s")
    parser.add_argument("--process-calls", type=int, default=10_000, help="between processes; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="the seed to begin with")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes to spread the seeds over")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this one seed")
    parser.add_argument("--mode", choices=RUNS, default="simulation", help="of --replay; default: %(default)s")
    return parser


def _run_all(mode, amount, first, jobs):
    """Run seeds until the amount is done; return it, and the failures, which are told as they come."""
    step = _SEEDS_PER_TASK[mode]
    done, failures = 0, []
    with ProcessPoolExecutor(jobs) as pool:
        tasks = set()
        while done < amount or tasks:
            while done < amount and len(tasks) < jobs:
                tasks.add(pool.submit(_run_some, mode, first, step))
                first += step
            task = next(as_completed(tasks))
            tasks.remove(task)
            part = task.result()
            done += part.done
            failures += part.failures
            for failure in part.failures:
                print(failure, flush=True)
    return done, failures


def _run_some(mode, first, count):
    done, failures = 0, []
    for seed in range(first, first + count):
        try:
            done += RUNS[mode](seed)
        except Exception as error:
            failures.append(Failure(mode, seed, repr(error)))
            done += 1  # or a fault of every seed would never end
    return Part(mode, done, failures)


def _replay(mode, seed):
    """Run a seed. In the simulation its steps are printed, and a digest of them, also if it fails."""
    try:
        if mode != "simulation":
            print(f"{RUNS[mode](seed)} calls have their right outcome")
            return 0
        executor = SimulationExecutor(seed)
        try:
            simulate(executor)
        finally:
            text = "".join(f"{line}\n" for line in executor.trace)
            digest = hashlib.sha256(text.encode()).hexdigest()
            print(f"{text}{len(executor.trace)} steps, sha256 {digest}", flush=True)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
