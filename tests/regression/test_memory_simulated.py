"""The original fault under a scheduler that a seed drives; `make regression` runs ten thousand seeds of it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory_job import simulate

from sage_flow.executors.simulation import SimulationExecutor

HERE = Path(__file__).parent


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_every_call_has_its_right_outcome_in_every_schedule(first):
    for seed in range(first, first + 50):
        try:
            simulate(SimulationExecutor(seed))
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}; again by `python tests/regression --replay {seed}`")


def replayed(seed, hash_seed):
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, str(HERE), "--replay", str(seed)]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    ).stdout


@pytest.mark.parametrize("seed", [3, 21, 2026])
def test_a_seed_is_replayed_byte_for_byte(seed):
    executor = SimulationExecutor(seed)
    simulate(executor)
    trace = "".join(f"{line}\n" for line in executor.trace)
    first, second = replayed(seed, "1"), replayed(seed, "2")
    assert first == second
    assert first.startswith(trace)
    assert hashlib.sha256(trace.encode()).hexdigest() in first
