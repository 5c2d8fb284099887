"""A function is looked at until it has given LOOKS values; then the same loop calls it directly."""

import inspect

import pytest
from fake_port import bench

from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator
from sage_flow.plan.location import caller_location
from sage_flow.runtime.first_values import LOOKS, Look, check_value, looked_items


def operator(kind=kinds.MAP):
    return Operator("step", kind, (), (), caller_location())


async def later():
    return 1


class Depth:
    """Notes from how deep below the chain it is called."""

    def __init__(self):
        self.callers = []

    def __call__(self, value):
        self.callers.append(inspect.currentframe().f_back.f_code.co_name)
        return value


def union_of_two(env):
    return env.from_collection([]).union(env.from_collection([]))


def test_the_chain_calls_a_function_itself_once_its_first_values_have_been_looked_at():
    depth = Depth()
    made = bench(lambda env: union_of_two(env).map(depth, name="m").for_each(print), "m")
    made.give(made.ins[0], *range(LOOKS))
    made.give(made.ins[0], *range(10))
    assert depth.callers == ["__call__"] * LOOKS + ["chain"] * 10


def test_a_function_that_was_not_called_yet_is_looked_at_later():
    depth = Depth()
    made = bench(
        lambda env: union_of_two(env).filter(lambda n: n < 0, name="f").map(depth, name="m").for_each(print), "f"
    )
    made.give(made.ins[0], *range(10 * LOOKS))
    made.give(made.ins[0], *[-1] * LOOKS)
    made.give(made.ins[0], -1)
    assert depth.callers == ["__call__"] * LOOKS + ["chain"]


def test_what_raises_in_a_look_has_its_line_and_record():
    def fails(n):
        return 1 // n

    made = bench(lambda env: union_of_two(env).map(fails, name="m").for_each(print), "m")
    with pytest.raises(ZeroDivisionError) as caught:
        made.give(made.ins[0], 1, 0)
    assert caught.value.__notes__[1] == "record    0"


def test_a_look_ends_after_its_values_and_says_so_once():
    done = []
    look = Look(abs, lambda value, args: (value, args))
    look.on_done = lambda: done.append(True)
    assert [look(-n) for n in range(LOOKS)] == [(n, (-n,)) for n in range(LOOKS)]
    assert look.is_done
    assert look(-5) == 5
    assert done == [True]


def test_outputs_are_asked_for_one_by_one_while_they_are_looked_at():
    asked = []

    def outputs():
        for n in range(2 * LOOKS):
            asked.append(n)
            yield n

    items = looked_items(operator(kinds.FLAT_MAP), outputs())
    assert asked == []
    assert next(items) == 0
    assert asked == [0]
    assert list(items) == list(range(1, 2 * LOOKS))


def test_a_coroutine_that_is_refused_is_closed():
    promise = later()
    with pytest.raises(PipelineError, match="returned a coroutine"):
        check_value(operator(), promise)
    assert inspect.getcoroutinestate(promise) == inspect.CORO_CLOSED


@pytest.mark.parametrize("value", [None, 0, "x", [later], (n for n in ()).__class__, iter([1]), map(str, [1]), later])
def test_what_is_no_promise_passes(value):
    assert check_value(operator(), value) is value
