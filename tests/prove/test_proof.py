"""Any process may die at any moment, and the answer does not change; more of it: `make prove`."""

import pytest
from proof import FAMILIES, numbers, prove

SEEDS = {"bounded": 500, "files": 75, "endless": 25}
TOGETHER = 25

pytestmark = [
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore"),  # of coroutines whose process has died
]


@pytest.mark.parametrize(
    ("family", "first"), [(family, first) for family in FAMILIES for first in range(0, SEEDS[family], TOGETHER)]
)
def test_whatever_dies_whenever_the_answer_is_that_of_a_run_without_faults(family, first):
    for number in numbers(first, TOGETHER, [family]):
        outcome = prove(number)
        assert not outcome.wrong, f"\n{outcome}"
