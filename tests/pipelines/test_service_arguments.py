"""Constructor arguments: services and functions work on copies of their own, in every mode."""

import threading

import pytest

from sage_flow import Function, LocalEnvironment, Source
from sage_flow.errors import PipelineError
from sage_flow.functions import END
from sage_flow.plan import kinds
from sage_flow.plan.arguments import arguments_of, with_own_arguments


class Shelf:
    def __init__(self, things, *, labels):
        self.things = things
        self.labels = labels

    def add(self, n):
        self.things.append(n)
        self.labels[n] = "added"
        return tuple(self.things), len(self.labels)


@pytest.mark.on_ray
def test_a_service_that_changes_its_arguments_does_not_change_the_programs_objects(mode):
    things, labels = ["first"], {"first": "given"}
    env = mode.environment(parallelism=1)
    env.register_service("shelf", Shelf, things, labels=labels)
    env.from_collection([1, 2]).map(lambda n, ctx: ctx.service("shelf").add(n)).collect("found")
    assert env.execute().collected["found"] == [(("first", 1), 2), (("first", 1, 2), 3)]
    assert (things, labels) == (["first"], {"first": "given"})


def test_every_run_of_a_job_begins_with_the_arguments_as_they_are_given(mode):
    env = mode.environment(parallelism=1)
    env.register_service("shelf", Shelf, ["first"], labels={})
    env.from_collection([1]).map(lambda n, ctx: ctx.service("shelf").add(n)).collect("found")
    assert [env.execute().collected["found"] for _ in "ab"] == [[(("first", 1), 1)]] * 2


def test_replicas_do_not_share_their_arguments(mode):
    env = mode.environment(parallelism=1)
    env.register_service("shelf", Shelf, [], labels={}, parallelism=3)
    calls = env.from_collection(range(30))
    calls.map(lambda n, ctx: (n, *ctx.service("shelf").options(key=n).add(n))).collect("found")
    found = env.execute().collected["found"]
    seen = {n: things for n, things, _ in found}
    replicas = {things[0] for things in seen.values()}
    assert len(replicas) == 3
    assert sum(max(len(things) for things in seen.values() if things[0] == first) for first in replicas) == 30


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        ((threading.Lock(),), {"labels": {}}, r"argument 1 cannot be copied: cannot pickle a _thread.lock"),
        (
            ([],),
            {"labels": {"x": [threading.Lock()]}},
            r"argument 'labels' cannot be copied: .*\['x'\]\[0\] is a _thread",
        ),
    ],
)
def test_an_argument_that_cannot_be_copied_is_named_before_anything_starts(mode, arguments, options, named):
    env = mode.environment()
    env.register_service("shelf", Shelf, *arguments, **options)
    env.from_collection([1]).for_each(print)
    with pytest.raises(PipelineError, match=named) as caught:
        env.submit()
    assert "service 'shelf'" in str(caught.value)
    assert "test_service_arguments.py" in str(caught.value)
    assert "in __init__() or open()" in str(caught.value)


def test_arguments_are_those_of_the_moment_when_the_job_starts():
    things = ["first"]
    env = LocalEnvironment("test")
    env.register_service("shelf", Shelf, things, labels={})
    env.from_collection([1]).for_each(print)
    plan = with_own_arguments(env._graph.plan())
    things.append("late")
    service = next(chain.head for chain in plan.chains if chain.head.kind is kinds.SERVICE)
    assert arguments_of(service) == ((["first"],), {"labels": {}})


def test_a_local_class_as_an_argument_stays_the_class_that_it_is():
    class Kind:
        pass

    class Service:
        def __init__(self, kind, many):
            self.kind = kind

        def is_one(self, value):
            return isinstance(value, self.kind)

    env = LocalEnvironment("test")
    env.register_service("kinds", Service, Kind, [])
    env.from_collection([1]).map(lambda _, ctx: ctx.service("kinds").is_one(Kind())).collect("found")
    assert env.execute().collected["found"] == [True]


class Counts(Function):
    def __init__(self, table):
        self.table = table

    def __call__(self, n):
        self.table.append(n)
        return n


class OwnSource(Source):
    def __init__(self, left):
        self.left = left

    def next_batch(self):
        return [self.left.pop()] if self.left else END


def test_functions_and_sources_that_change_their_arguments_do_not_change_the_programs_objects(mode):
    table, left = [], [1, 2, 3]
    env = mode.environment(parallelism=1)
    env.from_source(OwnSource(left)).map(Counts(table)).collect("rows")
    assert env.execute().collected["rows"] == [3, 2, 1]
    assert (table, left) == ([], [1, 2, 3])
