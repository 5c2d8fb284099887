"""What cannot run is refused, and so is a key that cannot be told apart: with name, place and cure."""

import functools
import os

import pytest
from failing_pipelines import error_of, notes_of, numbers

from sage_flow import Function, LocalEnvironment, PipelineService, Sink
from sage_flow.errors import InvalidKeyError, PipelineError
from sage_flow.testing import TestSource

HERE = os.path.basename(__file__)


# --- a pipeline that cannot run, known when it is written or submitted -------------------------------------


def two_operators_of_one_name(env):
    numbers(env).map(str, name="twin").map(len, name="twin").collect()


def other(env):
    return LocalEnvironment("other").from_collection([1])


async def sleepy(n):
    return n


class Sleepy(Function):
    async def __call__(self, n):
        return n


def shouting(n):
    yield str(n)


def a_key_that_nobody_uses(env):
    numbers(env).collect()
    numbers(env, "more").key_by(str, name="lost")


async def sleepy_numbers(n):
    yield n


class Scale:
    """Called for a record it makes an instance, which nobody calls."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, n):
        return n * self.factor


class Nullary:
    pass


class OpensInVain(Function):
    async def open(self, ctx):
        self.factor = 2

    def __call__(self, n):
        return n * self.factor


class SleepySink(Sink):
    async def write(self, n):
        pass


class SleepySource(TestSource):
    async def next_batch(self):
        return [1]


class SleepyService:
    async def open(self, ctx):
        self.ready = True

    def get(self, n):
        return n


def one_iterator_twice(env):
    iterator = iter([1, 2])
    env.from_iterable(iterator).collect()
    env.from_iterable(iterator).collect()


NOT_A_PIPELINE = {
    "map needs a function": (lambda env: numbers(env).map(3), ["'map-1'", HERE, "function", "3"]),
    "filter needs a function": (lambda env: numbers(env).filter(None), ["'filter-1'", HERE, "function"]),
    "process needs a function": (lambda env: numbers(env).process("x"), ["'process-1'", HERE, "function"]),
    "map_batches needs a function": (lambda env: numbers(env).map_batches(None), ["'map_batches-1'", HERE, "function"]),
    "for_each needs a function": (lambda env: numbers(env).for_each([]), ["'for_each-1'", HERE, "function", "[]"]),
    "reduce needs a function": (lambda env: numbers(env).key_by(str).reduce(None), ["'reduce-1'", HERE, "function"]),
    "fold needs a function": (lambda env: numbers(env).key_by(str).fold(0, None), ["'fold-1'", HERE, "function"]),
    "sum needs a function": (lambda env: numbers(env).key_by(str).sum("n"), ["'sum-1'", HERE, "function", "'n'"]),
    "both sides of connect need a function": (
        lambda env: numbers(env).connect(numbers(env, "more")).map(str, 3),
        ["'connect_map-1'", HERE, "function", "3"],
    ),
    "map does not wait for a coroutine": (lambda env: numbers(env).map(sleepy), ["'map-1'", HERE, "map_async"]),
    "for_each does not wait for a coroutine": (
        lambda env: numbers(env).for_each(sleepy),
        ["'for_each-1'", "map_async"],
    ),
    "an object does not wait for a coroutine": (lambda env: numbers(env).map(Sleepy()), ["'map-1'", "map_async"]),
    "a class does not wait for a coroutine": (lambda env: numbers(env).map(Sleepy), ["'map-1'", "map_async"]),
    "map does not wait for a partial of a coroutine function": (
        lambda env: numbers(env).map(functools.partial(sleepy)),
        ["'map-1'", HERE, "map_async"],
    ),
    "map never runs a generator": (lambda env: numbers(env).map(shouting), ["'map-1'", HERE, "yield", "flat_map"]),
    "map never runs a partial of a generator function": (
        lambda env: numbers(env).map(functools.partial(functools.partial(shouting))),
        ["'map-1'", HERE, "yield"],
    ),
    "connect never runs a generator": (
        lambda env: numbers(env).connect(numbers(env, "more")).map(str, shouting),
        ["'connect_map-1'", "yield"],
    ),
    **{
        f"{verb} does not read an async generator": (
            lambda env, verb=verb: getattr(numbers(env), verb)(sleepy_numbers),
            [f"'{verb}-1'", HERE, "async generator", "map_async"],
        )
        for verb in ("map", "flat_map", "process", "map_batches", "map_async", "for_each", "filter")
    },
    "a class whose instances are functions is no function": (
        lambda env: numbers(env).map(Scale),
        ["'map-1'", HERE, "make an instance of Scale for every record", "Scale(...)", "Function"],
    ),
    "a class that takes no record": (
        lambda env: numbers(env).map(Nullary),
        ["'map-1'", HERE, "Nullary is a class", "Nullary(...)", "Function"],
    ),
    "open is not waited for": (lambda env: numbers(env).map(OpensInVain), ["'map-1'", HERE, "OpensInVain.open()"]),
    "a sink does not wait for write": (
        lambda env: numbers(env).add_sink(SleepySink),
        ["'sink-1'", HERE, "map_async"],
    ),
    "a source does not wait for next_batch": (
        lambda env: env.from_source(SleepySource([])).collect(),
        ["'source-1'", HERE, "SleepySource.next_batch()"],
    ),
    "a service does not wait for open": (
        lambda env: env.register_service("s", SleepyService),
        ["service 's'", "open()"],
    ),
    "a class of pipelines is no service": (
        lambda env: env.register_service("p", PipelineService, lambda requests: requests),
        ["service 'p'", "register_service('p', PipelineService(build))"],
    ),
    "one iterator is not read by two sources": (
        one_iterator_twice,
        ["list_iterator can be read only once", "'iterable-1'", HERE, "use the stream of that source twice"],
    ),
    "for_each never runs a generator": (lambda env: numbers(env).for_each(shouting), ["'for_each-1'", HERE, "yield"]),
    "filter keeps all for a generator": (lambda env: numbers(env).filter(shouting), ["'filter-1'", "flat_map"]),
    "a generator is no key": (lambda env: numbers(env).key_by(shouting), ["'key_by-1'", "yield"]),
    "key_by needs a function": (lambda env: numbers(env).key_by("n"), ["'key_by-1'", HERE, "function"]),
    "a function of two values": (lambda env: numbers(env).map(lambda a, b: a), ["'map-1'", HERE, "1 value", "'b'"]),
    "a function of no value": (lambda env: numbers(env).map(lambda: 1), ["'map-1'", HERE, "1 value"]),
    "a reduce of one value": (
        lambda env: numbers(env).key_by(str).reduce(lambda a: a),
        ["'reduce-1'", HERE, "2 values"],
    ),
    "with_ctx without room": (
        lambda env: numbers(env).map(lambda n: n, with_ctx=True),
        ["'map-1'", HERE, "the context"],
    ),
    "an unknown on_error": (lambda env: numbers(env).map(str, on_error="ignore"), ["'map-1'", HERE, "skip", "ignore"]),
    "parallelism 0": (lambda env: numbers(env).map(str, parallelism=0), ["'map-1'", "at least 1", "0"]),
    "parallelism -1": (lambda env: numbers(env).map(str, parallelism=-1), ["'map-1'", "at least 1", "-1"]),
    "parallelism True": (lambda env: numbers(env).map(str, parallelism=True), ["'map-1'", "number", "True"]),
    "parallelism '2'": (lambda env: numbers(env).map(str, parallelism="2"), ["'map-1'", "number", "'2'"]),
    "parallelism 1.0": (lambda env: numbers(env).map(str, parallelism=1.0), ["'map-1'", "number", "1.0"]),
    "default parallelism 0": (lambda env: LocalEnvironment("job", 0), ["'job'", "at least 1"]),
    "batch_size 0": (lambda env: numbers(env).map_batches(list, batch_size=0), ["batch_size", "at least 1"]),
    "two operators of one name": (two_operators_of_one_name, ["'twin'", HERE, "name="]),
    "an empty name": (lambda env: numbers(env).map(str, name=""), ["non-empty", "''"]),
    "union with another environment": (lambda env: numbers(env).union(other(env)), ["two environments", "'other'"]),
    "connect with another environment": (
        lambda env: numbers(env).connect(other(env)),
        ["two environments", "'other'"],
    ),
    "union with a list": (lambda env: numbers(env).union([1]), ["DataStream", "[1]"]),
    "connect of keyed and unkeyed": (
        lambda env: numbers(env).key_by(str).connect(numbers(env, "more")),
        ["KeyedStream"],
    ),
    "a sinkless branch": (
        lambda env: (numbers(env).collect(), numbers(env, "more").map(str, name="lost")),
        ["'lost'", HERE, "collect"],
    ),
    "a key that nobody uses": (a_key_that_nobody_uses, ["'lost'", HERE, "returns"]),
    "a pipeline without a sink": (lambda env: numbers(env).map(str), ["no sink", "collect"]),
    "an empty pipeline": (lambda env: None, ["no sink", "collect"]),
    "dead letters that nobody reads": (
        lambda env: numbers(env).map(str, on_error="dead_letter").collect(),
        ["'map-1'", HERE, ".dead_letters()"],
    ),
    "forward between unequal parallelism": (
        lambda env: numbers(env).forward().map(str, parallelism=2, name="two").collect(),
        ["'two'", HERE, "forward()", "1 and 2"],
    ),
    "a parallel collection": (
        lambda env: env.from_source(TestSource([1]), parallelism=2, name="one").collect(),
        ["'one'", HERE, "at most 1", "2"],
    ),
    "a source that is none": (lambda env: env.from_source([1]), ["Source", "from_iterable"]),
    "a sink that is none": (lambda env: numbers(env).add_sink(print), ["Sink", "for_each"]),
    "an unknown emit": (lambda env: numbers(env).key_by(str).count(emit="all"), ["emit", "final", "'all'"]),
    "a nameless environment": (lambda env: LocalEnvironment(""), ["name", "non-empty"]),
    **{
        f"{aggregate} without key_by": (
            lambda env, aggregate=aggregate: getattr(numbers(env), aggregate),
            [f".{aggregate}()", ".key_by("],
        )
        for aggregate in ("reduce", "fold", "count", "sum", "min", "max")
    },
}


@pytest.mark.parametrize(("write", "fragments"), NOT_A_PIPELINE.values(), ids=NOT_A_PIPELINE)
def test_a_pipeline_that_cannot_run_is_refused_with_name_place_and_cure(write, fragments):
    env = LocalEnvironment("test")
    with pytest.raises(PipelineError) as caught:  # noqa: PT012 - when it is written, or when it is started
        write(env)
        env.execute()
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda env: numbers(env).map(str, paralelism=2),
        lambda env: numbers(env).key_by(str, parallelism=2),
        lambda env: numbers(env).key_by(str).count(on_error="skip"),
        lambda env: numbers(env).map_batches(list, max_records=3),
        lambda env: env.from_collection([1], parallelism=2),
        lambda env: env.execute(verbose=True),
        lambda env: LocalEnvironment("job", retries=2),
    ],
)
def test_an_unknown_keyword_fails_at_the_call(call):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        call(LocalEnvironment("test"))


def test_a_parallelism_that_is_refused_says_where_it_was_written():
    with pytest.raises(PipelineError) as caught:
        numbers(LocalEnvironment("test")).map(str, parallelism=0)
    assert any(frame.path.name == HERE for frame in caught.traceback)


# --- keys -------------------------------------------------------------------------------------------------


class Unlisted:
    pass


BAD_KEYS = {
    "list": (lambda n: [n], "list"),
    "list in a tuple": (lambda n: (n, [n]), "list"),
    "NaN": (lambda n: float("nan"), "NaN"),
    "NaN in a tuple": (lambda n: ("x", float("nan")), "NaN"),
    "dict": (lambda n: {n: n}, "dict"),
    "unlisted type": (lambda n: Unlisted(), "stable_hash.register"),
    "complex": (lambda n: 1j, "stable_hash.register"),
}
KEYED_STEPS = {
    "count": lambda keyed: keyed.count(name="step"),
    "reduce": lambda keyed: keyed.reduce(max, name="step"),
    "final": lambda keyed: keyed.sum(emit="final", name="step"),
    "state": lambda keyed: keyed.map(lambda n, ctx: ctx.state.value("v", 0).get(), name="step"),
    "list state": lambda keyed: keyed.map(lambda n, ctx: ctx.state.list("v").append(n), name="step"),
}


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("step", KEYED_STEPS.values(), ids=KEYED_STEPS)
@pytest.mark.parametrize(("key", "cure"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_key_without_a_stable_hash_is_an_error_at_every_parallelism(key, cure, step, parallelism):
    env = LocalEnvironment("test", parallelism)
    step(env.from_collection([4711]).key_by(key)).collect()
    error = error_of(env, InvalidKeyError)
    assert cure in str(error)
    assert "operator  '" in notes_of(error)
    assert HERE in notes_of(error)
    assert "4711" in notes_of(error)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_key_function_that_raises_is_blamed_with_its_record(parallelism):
    env = LocalEnvironment("test", parallelism)
    env.from_collection([4, 2, 0, 7]).key_by(lambda n: 1 // n, name="inverse").count().collect()
    error = error_of(env, ZeroDivisionError)
    assert "operator  'inverse' (key_by)" in notes_of(error)
    assert "record    0" in notes_of(error)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_users_own_type_error_is_not_taken_for_a_bad_key(parallelism):
    env = LocalEnvironment("test", parallelism)
    env.from_collection([1]).key_by(str).map(lambda n: {[]: n}).collect()
    assert "unhashable type: 'list'" in str(error_of(env, TypeError))
