"""A map whose function waits: bounded, ordered or not, also in the pipeline of a service."""

from __future__ import annotations

import asyncio
import threading

import pytest
from async_services import Adder

from sage_flow import LocalEnvironment, PipelineService, errors
from sage_flow.errors import PipelineError


def test_map_async_over_futures_and_coroutines(mode):
    async def double(n):
        await asyncio.sleep(0)
        return 2 * n

    env = mode.environment()
    env.register_service("adder", Adder)
    stream = env.from_collection(range(100)).rebalance()
    stream.map_async(lambda n, ctx: ctx.service("adder").add.remote(n)).collect("futures")
    stream.map_async(double, capacity=7).filter(lambda n: n % 4 == 0).collect("coroutines")
    result = env.execute(progress=False)
    assert sorted(result.collected["futures"]) == list(range(1, 101))
    assert sorted(result.collected["coroutines"]) == [2 * n for n in range(0, 100, 2)]
    assert result.counts["map_async-1"] == result.counts["map_async-2"] == 100


@pytest.mark.parametrize("ordered", [True, False])
def test_map_async_keeps_the_order_if_it_is_asked_to(mode, ordered):
    async def slower_at_first(n):
        await asyncio.sleep(0.02 if n == 0 else 0)
        return n

    env = mode.environment(parallelism=1)
    env.from_collection(range(20)).map_async(slower_at_first, ordered=ordered, capacity=20).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    assert sorted(rows) == list(range(20))
    assert (rows == list(range(20))) == ordered


def test_map_async_has_at_most_capacity_records_under_way(mode):
    running, most = [], []

    async def work(n):
        running.append(n)
        most.append(len(running))
        await asyncio.sleep(0.001)
        running.remove(n)
        return n

    if not mode.shares_memory:
        pytest.skip("the lists are shared with the test")
    env = mode.environment(parallelism=1)
    env.from_collection(range(50)).map_async(work, capacity=4).for_each(str)
    env.execute(progress=False)
    assert max(most) == 4


def test_results_leave_while_the_source_is_idle():
    """The next record comes only when the result of the one before has left."""
    arrived = threading.Event()

    def items():
        yield 1
        assert arrived.wait(60)
        yield 2

    async def same(n):
        await asyncio.sleep(0)
        return n

    rows = []
    env = LocalEnvironment("test")
    env.from_iterable(items).map_async(same).for_each(lambda n: (rows.append(n), arrived.set()))
    env.execute(progress=False)
    assert rows == [1, 2]


@pytest.mark.parametrize("on_error", ["skip", "dead_letter", "fail"])
def test_map_async_obeys_on_error(mode, on_error):
    async def odd_fails(n):
        await asyncio.sleep(0)
        if n % 2:
            raise ValueError(f"no {n}")
        return n

    env = mode.environment(parallelism=1)
    mapped = env.from_collection(range(6)).map_async(odd_fails, on_error=on_error)
    mapped.collect("rows")
    if on_error == "dead_letter":
        mapped.dead_letters().map(lambda letter: letter.record).collect("letters")
    if on_error == "fail":
        with pytest.raises(ValueError, match="no 1") as caught:
            env.execute(progress=False)
        assert any("record    1" in note for note in caught.value.__notes__)
        assert any("'map_async-1'" in note for note in caught.value.__notes__)
        return
    result = env.execute(progress=False)
    assert result.collected["rows"] == [0, 2, 4]
    assert (result.skipped or result.dead_letters) == {"map_async-1": 3}
    if on_error == "dead_letter":
        assert result.collected["letters"] == [1, 3, 5]


def test_a_record_that_takes_too_long_ends_in_timeout_error(mode):
    async def endless(n):
        await asyncio.Event().wait()

    env = mode.environment(parallelism=1)
    env.from_collection([1]).map_async(endless, timeout=0.02).for_each(str)
    with pytest.raises(TimeoutError, match=r"not done within 0\.02 s"):
        env.execute(progress=False)


def test_a_function_that_does_not_wait_is_refused_by_name():
    env = LocalEnvironment("test")
    env.from_collection([1]).map_async(lambda n: n).for_each(str)
    with pytest.raises(PipelineError, match=r"'map_async-1' .* must be `async def`, or return a ServiceFuture"):
        env.execute()


@pytest.mark.parametrize("options", [{"capacity": 0}, {"timeout": -1}, {"timeout": 0}])
def test_options_that_make_no_sense_are_refused_when_the_pipeline_is_built(options):
    async def same(n):
        return n

    with pytest.raises(PipelineError, match=next(iter(options))):
        LocalEnvironment("test").from_collection([1]).map_async(same, **options)


def test_map_async_in_the_pipeline_of_a_service(mode):
    """Its records carry shares of calls: split before it, filtered behind it, and failing in it."""

    async def work(n):
        await asyncio.sleep(0.001 * (n % 3))
        if n == 13:
            raise ValueError("thirteen")
        return n

    def body(requests):
        return requests.flat_map(lambda n: [n, -1]).map_async(work, capacity=2, ordered=False).filter(lambda n: n >= 0)

    def ask(n, ctx):
        try:
            return ctx.call_service("body", n)
        except (ValueError, errors.NoReply) as error:
            return type(error).__name__

    env = mode.environment()
    env.register_service("body", PipelineService(body, 2))
    env.from_collection(range(-2, 20)).rebalance().map(ask).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    expected = ["NoReply"] * 2 + ["ValueError"] + [n for n in range(20) if n != 13]
    assert sorted(rows, key=repr) == sorted(expected, key=repr)


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_map_async_calls_services_from_coroutines(mode):
    async def ask(n, ctx):
        first = await ctx.service("adder").add.remote(n)
        both = await asyncio.gather(*(ctx.service("adder").add.remote(first, more=more) for more in (10, 20)))
        return both

    env = mode.environment()
    env.register_service("adder", Adder)
    env.from_collection(range(10)).rebalance().map_async(ask).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [[n + 11, n + 21] for n in range(10)]


@pytest.mark.parametrize("options", [{}, {"timeout": 60}, {"on_error": "skip"}], ids=str)
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_ends_the_job_and_not_only_the_event_loop(mode, kind, options):
    async def leave(n):
        await asyncio.sleep(0)
        if n == 3:
            raise kind(4)
        return n

    env = mode.environment()
    env.from_collection(range(20)).map_async(leave, **options).collect()
    with pytest.raises(kind) as caught:
        env.execute(progress=False)
    assert caught.value.args == (4,)


def test_an_exit_in_a_coroutine_names_its_operator_and_record():
    async def leave(n):
        raise SystemExit(n)

    env = LocalEnvironment("test")
    env.from_collection([7]).map_async(leave, name="leaving").collect()
    with pytest.raises(SystemExit) as caught:
        env.execute(progress=False)
    notes = "\n".join(caught.value.__notes__)
    assert "operator  'leaving'" in notes
    assert "record    7" in notes


class Sleeps:
    async def go(self, value):
        await asyncio.sleep(1.0)
        return value


@pytest.mark.parametrize("ordered", [True, False])
def test_a_call_whose_time_passes_while_the_map_is_full_ends_in_its_timeout(mode, ordered):
    """It is ended by the port, under whose lock the map asks whether something is done."""
    env = mode.environment()
    env.register_service("slow", Sleeps, timeout=0.2)
    calls = env.from_collection([1, 2]).map_async(
        lambda v, ctx: ctx.service("slow").go.remote(v), capacity=1, ordered=ordered, on_error="dead_letter"
    )
    calls.collect("replies")
    calls.dead_letters().map(lambda letter: letter.error.split(":")[0]).collect("errors")
    result = env.execute(progress=False)
    assert result.collected == {"replies": [], "errors": ["ServiceTimeout"] * 2}
