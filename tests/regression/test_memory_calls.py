"""The original fault with real threads and processes; `make regression` makes 100,000 and 10,000 calls."""

import sys

import pytest
from memory_job import PROCESSES, THREADS


@pytest.fixture
def eager_switching():
    """Threads are preempted a hundred times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.race
@pytest.mark.usefixtures("eager_switching")
def test_every_call_between_threads_has_its_right_outcome():
    calls = 0
    seed = 0
    while calls < 5_000:
        calls += THREADS.run(seed)
        seed += 1


def test_every_call_between_processes_has_its_right_outcome():
    calls = 0
    seed = 0
    while calls < 1_000:
        calls += PROCESSES.run(seed)
        seed += 1
