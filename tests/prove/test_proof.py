"""Any process may die at any moment, and the answer does not change; more of it: `make prove`."""

import pytest
from proof import prove

SEEDS = 500
TOGETHER = 25

pytestmark = [
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore"),  # of coroutines whose process has died
]


@pytest.mark.parametrize("first", range(0, SEEDS, TOGETHER))
def test_whatever_dies_whenever_the_answer_is_that_of_a_run_without_faults(first):
    for number in range(first, first + TOGETHER):
        outcome = prove(number)
        assert not outcome.wrong, f"\n{outcome}"
