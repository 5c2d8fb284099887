"""The proof finds faults: each of those that are planted, in so many seeds at the most."""

import pytest
from planted import PLANTED, planted
from proof import FAMILY, Seed, fault_free, numbers, prove

FILES, ENDLESS = FAMILY, 2 * FAMILY
FIRST = {
    "alignment skipped": 45,
    "commit before the record": 20,
    "double restore": 140,
    "driver without barrier": 73,
    "end forgotten by the next leader": 0,
    "end in the place of a part": 60,
    "end without what was pending": 8,
    "file seen before the end is recorded": FILES,
    "files not made durable": FILES + 5,
    "frame of an attempt of the past accepted": FILES + 185,
    "in-place mutation after the cut": 280,
    "kept file read to its end": FILES + 48,
    "lost offset": 45,
    "merge over newer": 45,
    "missing tombstone": 66,
    "older checkpoint after a commit": 210,
    "only own handles in the metadata": 20,
    "prepared handle aborted at a cancel": 200,
    "prepared handle aborted with its checkpoint": 40,
    "remembered restore point": 260,
    "rest of a batch forgotten": 140,
    "rows shown before the end is recorded": 150,
    "trimmed log": 64,
    "watermark forgotten in the snapshot": ENDLESS + 5,
    "watermark not sent again after a restore": ENDLESS + 62,
}
"""For each fault, a seed shortly before one that finds it. The others take more seeds: they are in the soak test."""
MOST = 40
MOST_OF_ALL = 2000

pytestmark = [
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore"),  # of coroutines whose process has died
]


def is_found(fault, seeds):
    for number in seeds:
        fault_free(Seed.of(number).recipe)  # by the right engine
        with planted(fault):
            if prove(number).wrong:
                return True
    return False


@pytest.mark.parametrize("fault", FIRST)
def test_a_planted_fault_is_found(fault):
    assert is_found(fault, range(FIRST[fault], FIRST[fault] + MOST))


@pytest.mark.soak
@pytest.mark.parametrize("fault", PLANTED)
def test_any_planted_fault_is_found_from_the_first_seed_on(fault):
    assert is_found(fault, numbers(0, MOST_OF_ALL))
