"""The names of collected rows are their own: they label rows, and no operator."""

import pytest

from sage_flow import LocalEnvironment, PipelineService
from sage_flow.errors import PipelineError


def test_rows_and_an_operator_may_have_one_name(mode):
    env = mode.environment()
    words = env.from_collection(["a", "b", "a"]).key_by(str)
    words.count(name="counts").collect("counts")
    result = env.execute()
    assert sorted(result.collected["counts"]) == [("a", 1), ("a", 2), ("b", 1)]
    assert (result.counts["counts"], result.counts["collect-1"]) == (3, 3)


def test_counts_has_the_number_of_rows_by_their_label():
    env = LocalEnvironment()
    env.from_collection(range(5)).filter(bool).collect("rows")
    result = env.execute()
    assert result.counts == {"collection-1": 5, "filter-1": 4, "collect-1": 4, "rows": 4}


def test_the_count_of_an_operator_hides_that_of_rows_of_its_name():
    env = LocalEnvironment()
    numbers = env.from_collection(range(5), name="numbers")
    numbers.filter(bool).collect("numbers")
    result = env.execute()
    assert (result.counts["numbers"], len(result.collected["numbers"])) == (5, 4)


def test_rows_without_a_label_have_the_name_of_their_operator():
    env = LocalEnvironment()
    numbers = env.from_collection([1])
    numbers.map(str).collect("collect-2")
    numbers.collect()
    numbers.collect()
    assert env.execute().collected == {"collect-2": ["1"], "collect-3": [1], "collect-4": [1]}


def test_two_collect_sinks_of_one_label_are_refused_with_both_places():
    env = LocalEnvironment()
    numbers = env.from_collection([1])
    texts = numbers.map(str)
    numbers.collect("rows")
    with pytest.raises(
        PipelineError, match=r"'rows' \(.*test_collect.py:\d+ and .*test_collect.py:\d+\).*another name"
    ):
        texts.collect("rows")
    texts.collect("other")
    assert env.execute().collected == {"rows": [1], "other": ["1"]}


def test_rows_of_a_service_have_its_name_before_theirs():
    def body(requests):
        requests.collect("seen")
        return requests.map(str)

    env = LocalEnvironment()
    for name in ("one", "two"):
        env.register_service(name, PipelineService(body))
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("one", n)).collect("seen")
    assert env.execute().collected == {"one/seen": [1], "two/seen": [], "seen": ["1"]}


@pytest.mark.parametrize("name", ["", 3])
def test_a_label_is_a_text(name):
    with pytest.raises(PipelineError, match="name must be a non-empty str"):
        LocalEnvironment().from_collection([1]).collect(name)
