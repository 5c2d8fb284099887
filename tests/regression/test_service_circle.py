"""V -> X -> Y and W -> Y -> X: the call that would close the circle is refused, and everything else is answered."""

import pytest
from circles import KINDS, refused_side, simulate_circles

from sage_flow.executors.simulation import SimulationExecutor


@pytest.mark.parametrize("kind", KINDS)
def test_the_circle_is_refused_in_one_of_its_callers(mode, kind):
    refused_side(mode.environment(parallelism=1), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_circle_is_refused_in_every_schedule_whoever_comes_first(kind):
    refused = {simulate_circles(SimulationExecutor(seed), kind) for seed in range(50)}
    assert refused == {"v", "w"}
