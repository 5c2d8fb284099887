"""The original fault under a scheduler that a seed drives; `make regression` runs ten thousand seeds of it."""

import pytest
from long_run import run_some


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_call_has_its_right_outcome_in_every_schedule(first):
    _, failures = run_some("memory", range(first, first + 50))
    assert not failures, "\n".join(map(str, failures))
