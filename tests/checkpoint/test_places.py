"""What tells an operator with an automatic name from another one."""

import pytest

from sage_flow import LocalEnvironment
from sage_flow.checkpoint.restore import places_of


def places(parallelism):
    env = LocalEnvironment("job", parallelism=parallelism)
    numbers = env.from_collection(range(9)).map(lambda n: n)
    numbers.key_by(lambda n: n % 3).count().map(lambda pair: pair).collect("all")
    return {name: (place.key, place.upstream) for name, place in places_of(env._graph.plan()).items()}


@pytest.mark.parametrize("parallelism", [1, 3])
def test_the_place_of_an_operator_does_not_depend_on_the_number_of_subtasks(parallelism):
    assert places(parallelism) == places(2)
