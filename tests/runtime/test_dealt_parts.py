"""What belongs to a subtask, and not to a key, is dealt out by who had it."""

import pytest

from sage_flow.runtime.parts import Parts, share_of

NAME = "kept"


def dealt(parts, parallelism):
    return [share_of(parts, index, parallelism, 128).own.get(NAME, []) for index in range(parallelism)]


def test_one_item_of_each_subtask_goes_where_the_handles_of_its_sinks_go():
    parts = [Parts(), Parts(own={NAME: ["of 1"]}), Parts(own={NAME: ["of 2"]})]
    assert dealt(parts, 2) == [["of 2"], ["of 1"]]


@pytest.mark.parametrize("parallelism", [1, 2, 4, 5])
def test_many_items_are_spread_and_each_is_given_once(parallelism):
    parts = [Parts(own={NAME: [(owner, item) for item in range(6)]}) for owner in range(3)]
    shares = dealt(parts, parallelism)
    assert sorted(item for share in shares for item in share) == [(o, i) for o in range(3) for i in range(6)]
    assert min(map(len, shares)) >= 18 // parallelism - 3
