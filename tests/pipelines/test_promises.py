"""A promise is no value: a function whose first values are coroutines, futures or generators fails the job."""

import asyncio
import concurrent.futures
import os
from collections import deque

import pytest
from failing_pipelines import error_of, notes_of, numbers

from sage_flow import LocalEnvironment, PipelineService, Sink
from sage_flow.errors import PipelineError

HERE = os.path.basename(__file__)


async def send(*values):
    raise AssertionError("nobody waits for this")


async def several(*values):
    yield values


def one_by_one(*values):
    yield values


def future(*values):
    made = concurrent.futures.Future()
    made.set_result(True)
    return made


def task(*values):
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


class SendingSink(Sink):
    def write(self, value):
        return send(value)


# what a function returns: (the function, the name of its type, the cure in a map)
PROMISES = {
    "coroutine": (send, "coroutine", "use map_async"),
    "async generator": (several, "async generator", "returns a list, and use map_async"),
    "generator": (one_by_one, "generator", "use flat_map"),
    "concurrent future": (future, "Future", "return its result()"),
    "asyncio future": (task, "Future", "use map_async"),
}
# where one value is expected: (the step, the cure for a coroutine)
STEPS = {
    "map": (lambda s, f: s.map(lambda v: f(v), name="step"), "use map_async"),
    "filter": (lambda s, f: s.filter(lambda v: f(v), name="step"), "compute the condition in a map_async before"),
    "key_by": (lambda s, f: s.key_by(lambda v: f(v), name="step").map(str), "compute the key in a map_async before"),
    "reduce": (lambda s, f: s.key_by(lambda v: 0).reduce(lambda a, b: f(a, b), name="step"), "map_async before"),
    "fold": (lambda s, f: s.key_by(lambda v: 0).fold(0, lambda a, b: f(a, b), name="step"), "map_async before"),
    "sum": (lambda s, f: s.key_by(lambda v: 0).sum(lambda v: f(v), name="step"), "map_async before"),
    "min": (lambda s, f: s.key_by(lambda v: 0).min(lambda v: f(v), name="step"), "map_async before"),
    "max": (lambda s, f: s.key_by(lambda v: 0).max(lambda v: f(v), name="step"), "map_async before"),
    "connect": (
        lambda s, f: s.connect(s.filter(lambda v: False)).map(lambda v: f(v), str, name="step"),
        "use map_async",
    ),
    "an output of flat_map": (lambda s, f: s.flat_map(lambda v: [f(v)], name="step"), "use map_async"),
    "an output of process": (lambda s, f: s.process(lambda v: (f(v),), name="step"), "use map_async"),
    "an output of map_batches": (lambda s, f: s.map_batches(lambda b: [f(b)], name="step"), "use map_async"),
}


def the_error(env):
    error = error_of(env, PipelineError)
    assert "'step'" in str(error)
    assert HERE in str(error)
    assert "operator  'step'" in notes_of(error)
    assert "lets the job go on" not in notes_of(error)
    return str(error)


@pytest.mark.parametrize(("function", "name", "cure"), PROMISES.values(), ids=PROMISES)
def test_a_map_that_returns_a_promise_fails_with_its_operator_line_and_cure(function, name, cure):
    env = LocalEnvironment("test")
    numbers(env).map(lambda v: function(v), name="step").collect()
    text = the_error(env)
    assert f"returned a{'n' * (name[0] == 'a')} {name}" in text
    assert cure in text


@pytest.mark.parametrize("promise", [send, one_by_one, future], ids=["coroutine", "generator", "future"])
@pytest.mark.parametrize("parallelism", [1, 2])
@pytest.mark.parametrize(("step", "cure"), STEPS.values(), ids=STEPS)
def test_wherever_a_value_is_expected_a_promise_fails(step, cure, parallelism, promise):
    env = LocalEnvironment("test", parallelism)
    step(env.from_collection([1, 2, 3]), promise).collect()
    assert (cure if promise is send else "return") in the_error(env)


@pytest.mark.parametrize("promise", [send, one_by_one, future], ids=["coroutine", "generator", "future"])
def test_a_sink_that_returns_a_promise_fails(promise):
    env = LocalEnvironment("test")
    numbers(env).for_each(lambda v: promise(v), name="step")
    the_error(env)


def test_a_sink_of_the_user_whose_write_returns_a_coroutine_fails():
    env = LocalEnvironment("test")
    numbers(env).add_sink(SendingSink(), name="step")
    assert "do this in map_async, followed by a sink" in the_error(env)


@pytest.mark.parametrize("promise", [send, several, future], ids=["coroutine", "async generator", "future"])
@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize("verb", ["flat_map", "process"])
def test_a_promise_in_the_place_of_the_outputs_fails(verb, on_error, promise):
    env = LocalEnvironment("test")
    getattr(numbers(env), verb)(lambda v: promise(v), name="step", on_error=on_error).collect()
    assert "map_async" in the_error(env) or promise is future


class Adder:
    def add(self, n):
        return n + 1


def test_a_future_of_a_call_is_no_value(mode):
    env = mode.environment()
    env.register_service("adder", Adder)
    env.from_collection([1]).map(lambda n, ctx: ctx.service("adder").add.remote(n), name="step").collect()
    text = the_error(env)
    assert "returned a ServiceFuture" in text
    assert "use map_async" in text


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
@pytest.mark.parametrize("verb", ["map", "filter", "flat_map"])
def test_a_promise_is_no_fault_of_the_record_and_no_on_error_skips_it(verb, on_error):
    env = LocalEnvironment("test")
    step = getattr(numbers(env), verb)(lambda v: send(v), name="step", on_error=on_error)
    step.collect()
    if on_error == "dead_letter":
        step.dead_letters().collect()
    the_error(env)


def test_map_async_that_gives_a_promise_again_fails():
    async def forgets_to_await(v):
        return send(v)

    env = LocalEnvironment("test")
    env.from_collection([1]).map_async(forgets_to_await, name="step", on_error="skip").collect()
    assert "await it in the function" in the_error(env)


def test_the_caller_of_a_pipeline_service_gets_the_error_of_a_promise():
    env = LocalEnvironment("test")
    env.register_service("s", PipelineService(lambda requests: requests.map(lambda v: send(v), name="step")))
    numbers(env).map(lambda v, ctx: ctx.call_service("s", v)).collect()
    assert "'s/step'" in str(error_of(env, PipelineError))


def test_the_first_value_is_looked_at_whenever_it_comes():
    env = LocalEnvironment("test")
    env.from_collection(range(10_000)).filter(lambda n: n == 9_999).map(lambda v: send(v), name="step").collect()
    assert "record    9999" in notes_of(error_of(env, PipelineError))


def test_a_record_that_is_meant_to_be_a_generator_goes_in_a_tuple():
    env = LocalEnvironment("test")
    env.from_collection([2, 3]).map(lambda n: (iter_of(n),)).flat_map(lambda pair: pair[0]).collect("rows")
    assert env.execute().collected["rows"] == [0, 1, 0, 1, 2]


def iter_of(n):
    yield from range(n)


# --- neighbours: no outputs, characters, forgotten results ---------------------------------------------------


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("value", [None, 7])
def test_outputs_that_cannot_be_looped_over_say_what_to_return(value, first):
    env = LocalEnvironment("test")
    env.from_collection(range(5000)).flat_map(lambda n: [n] if n < first else value, name="step").collect()
    error = error_of(env, TypeError)
    assert "object is not iterable: the function of flat_map must return an iterable of outputs" in str(error)
    assert "for one output per record use map" in str(error)
    assert f"record    {first}" in notes_of(error)


def test_no_iterable_is_the_records_fault_and_may_be_skipped():
    env = LocalEnvironment("test")
    parsed = env.from_collection([1, 2, 3]).flat_map(
        lambda n: [n] if n != 2 else None, name="step", on_error="dead_letter"
    )
    parsed.collect("rows")
    parsed.dead_letters().collect("letters")
    collected = env.execute().collected
    assert collected["rows"] == [1, 3]
    assert "'NoneType' object is not iterable: the function of flat_map must return" in collected["letters"][0].error


def test_a_type_error_of_a_builtin_function_is_left_as_it_is():
    env = LocalEnvironment("test")
    env.from_collection([*range(1000), "x"]).flat_map(range, name="step").collect()
    assert str(error_of(env, TypeError)) == "'str' object cannot be interpreted as an integer"


@pytest.mark.parametrize("text", ["two words", b"two words"])
@pytest.mark.parametrize(
    "step",
    [
        lambda s, f: s.flat_map(f, name="step"),
        lambda s, f: s.flat_map(f, name="step", on_error="skip"),
        lambda s, f: s.process(f, name="step"),
        lambda s, f: s.map_batches(lambda batch: f(batch[0]), name="step"),
    ],
)
def test_the_outputs_of_a_text_are_not_its_characters(step, text):
    env = LocalEnvironment("test")
    step(env.from_collection([text]), lambda line: line).collect()
    assert "a single character" in the_error(env)


MUTABLE = {
    "list": (list, lambda so_far, v: so_far.append(v)),
    "dict": (dict, lambda so_far, v: so_far.update(a=v)),
    "set": (set, lambda so_far, v: so_far.add(v)),
    "deque": (lambda: deque(maxlen=3), lambda so_far, v: so_far.append(v)),
}


@pytest.mark.parametrize(("initial", "function"), MUTABLE.values(), ids=MUTABLE)
def test_a_fold_that_changes_its_value_and_does_not_return_it_fails(initial, function):
    env = LocalEnvironment("test")
    env.from_collection([1]).key_by(lambda v: 0).fold(initial, function, name="step").collect()
    assert "return the new value, even if it is the same object" in the_error(env)


def test_a_reduce_that_changes_its_value_and_does_not_return_it_fails():
    env = LocalEnvironment("test")
    records = env.from_collection([{"a": 1}, {"a": 2}])
    records.key_by(lambda v: 0).reduce(lambda a, b: a.update(b), name="step").collect()
    assert "returned None instead of the dict" in the_error(env)


def test_a_fold_that_forgets_to_return_in_one_branch_is_told_when_it_fails():
    env = LocalEnvironment("test")
    env.from_collection([1, -1, 2]).key_by(lambda v: 0).fold(0, lambda a, v: a + v if v > 0 else None).collect()
    assert "returned None for an earlier record of this key" in notes_of(error_of(env, TypeError))


def test_none_is_a_value_of_a_fold_like_any_other():
    env = LocalEnvironment("test")
    env.from_collection([1, None, 2]).key_by(lambda v: 0).fold(None, lambda last, v: v).collect("last")
    assert env.execute().collected["last"] == [(0, 1), (0, None), (0, 2)]
