"""The long run tells what failed, and how to see it again."""

import os
import subprocess
import sys
from pathlib import Path

import long_run
import pytest
from asks import WrongOutcome
from memory_job import simulate

from sage_flow.executors.simulation import SimulationExecutor

HERE = Path(__file__).parent


def long_run_in_a_process(*arguments, hash_seed="0"):
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.run(
        [sys.executable, str(HERE), *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        timeout=120,
        text=True,
    )


@pytest.mark.parametrize("seed", [3, 21, 2026])
def test_a_seed_is_replayed_byte_for_byte(seed):
    executor = SimulationExecutor(seed)
    simulate(executor)
    trace = "".join(f"{line}\n" for line in executor.trace)
    first, second = (long_run_in_a_process("--replay", str(seed), hash_seed=hash_seed) for hash_seed in "12")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith(trace)
    assert len(first.stdout.splitlines()) == len(executor.trace) + 1


def test_a_small_part_of_the_long_run_runs_everything():
    done = long_run_in_a_process("--part", "0.0001", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == list(long_run.RUNS)
    assert all(line.endswith("0 seeds failed") for line in lines)


def fail_at_seven(executor):
    simulate(executor)
    if executor.seed == 7:
        raise WrongOutcome("call 1 of 'a' got the reply to call 2 of 'b'")


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setitem(long_run.RUNS, "memory", long_run.Simulated(fail_at_seven, 10))


@pytest.mark.usefixtures("failing")
def test_a_seed_that_fails_is_told_with_the_command_that_replays_it():
    done, failures = long_run.run_some("memory", range(5, 10))
    assert done == 5
    (told,) = map(str, failures)
    assert "memory, seed 7: WrongOutcome" in told
    assert told.endswith(f"{HERE} --only memory --replay 7")


@pytest.mark.usefixtures("failing")
def test_a_replay_that_fails_prints_its_steps_all_the_same(capsys):
    assert long_run.main(["--replay", "7"]) == 1
    out, err = capsys.readouterr()
    assert "run driver" in out
    assert "steps, sha256" in out.splitlines()[-1]
    assert "WrongOutcome: call 1 of 'a'" in err
