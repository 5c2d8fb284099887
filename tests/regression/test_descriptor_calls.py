"""The original fault as it was, in a few schedules; `make regression` makes 100,000 calls."""

import pytest
from descriptor_job import run_descriptors


@pytest.mark.race
@pytest.mark.parametrize("seed", range(8))
def test_callers_with_clones_get_their_own_answers_whenever_these_were_made(seed):
    assert run_descriptors(seed) >= 20
