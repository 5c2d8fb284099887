"""Calls that do not wait."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest
from async_services import Adder, Gate

from sage_flow import LocalEnvironment, Service, ServiceFuture, errors, wait
from sage_flow.errors import PipelineError


def run(mode, work, items=range(5), **services):
    """The rows of `work(value, ctx)` over the items, with these services."""
    env = mode.environment()
    for name, service in services.items():
        env.register_service(name, service)
    env.from_collection(items).rebalance().map(work).collect("rows")
    return sorted(env.execute(progress=False).collected["rows"], key=repr)


def test_a_future_gives_the_reply(mode):
    def work(n, ctx):
        futures = [ctx.service("adder").add.remote(n, more=more) for more in range(4)]
        return [future.result() for future in futures]

    assert run(mode, work, adder=Adder) == [[n, n + 1, n + 2, n + 3] for n in range(5)]


def test_the_short_form_gives_a_future_too(mode):
    assert run(mode, lambda n, ctx: ctx.call_service_async("adder", n, method="add").result(), adder=Adder) == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip


def test_a_future_raises_what_the_service_raised(mode):
    def work(n, ctx):
        future = ctx.service("adder").fail.remote(n)
        error = future.exception()
        return type(error).__name__, str(error), future.done()

    assert run(mode, work, [7], adder=Adder) == [("ValueError", "no 7", True)]


@pytest.mark.on_ray
def test_wait_for_some_and_for_all(mode):
    def work(n, ctx):
        futures = [ctx.service("adder").add.remote(i) for i in range(6)]
        some, rest = wait(futures, count=2)
        assert len(some) >= 2
        assert len(some) + len(rest) == 6
        done, open_ones = wait(futures)
        assert (done, open_ones) == (futures, [])
        return sum(future.result() for future in done)

    assert run(mode, work, [0], adder=Adder) == [21]


def test_a_future_that_nobody_looks_at_is_answered_all_the_same(tmp_path):
    path = tmp_path / "noted"

    class Writer(Service):
        def note(self, n):
            with path.open("a") as file:
                file.write(f"{n}\n")

    env = LocalEnvironment("test")
    env.register_service("writer", Writer)
    env.from_collection(range(50)).map(lambda n, ctx: ctx.service("writer").note.remote(n) and n).for_each(str)
    env.execute()
    assert path.read_text().split() == [str(n) for n in range(50)]


def test_a_future_whose_time_runs_out_ends_in_service_timeout(mode):
    def work(n, ctx):
        future = ctx.service("gate").options(timeout=0.05).wait.remote()
        return type(future.exception()).__name__

    assert run(mode, work, [1], gate=Gate) == ["ServiceTimeout"]


def test_result_gives_up_after_its_own_time_and_the_call_goes_on(mode):
    def work(n, ctx):
        gate = ctx.service("gate")
        future = gate.wait.remote()
        try:
            future.result(timeout_s=0.02)
        except errors.ServiceTimeout:
            return "the call timed out"
        except TimeoutError:
            pass
        gate.open_it()
        return future.result()

    env = mode.environment(parallelism=1)
    env.register_service("gate", Gate, concurrency=2)
    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == ["through"]


@pytest.mark.on_ray
def test_a_cancelled_request_that_was_not_started_never_is(mode):
    """The service answers one at a time, and is busy until the gate opens."""

    def work(n, ctx):
        gate = ctx.service("gate")
        busy, unwanted = gate.wait.remote(), gate.open_it.remote()
        cancelled = unwanted.cancel()
        again = unwanted.cancel()
        with pytest.raises(CancelledError):
            unwanted.result()
        error = busy.exception(timeout_s=None)
        return cancelled, again, type(error).__name__

    env = mode.environment(parallelism=1)
    env.register_service("gate", Gate, timeout=0.2)
    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [(True, False, "ServiceTimeout")]


def test_beyond_max_pending_remote_waits_and_nothing_is_lost(mode):
    def work(n, ctx):
        futures = [ctx.service("adder").add.remote(i) for i in range(50)]
        return [future.result() for future in futures] == list(range(1, 51))

    env = mode.environment(parallelism=1)
    env.register_service("adder", Adder, max_pending=3)
    env.from_collection(range(3)).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [True] * 3


def test_futures_of_different_operators_cannot_be_waited_for_together():
    held = []
    env = LocalEnvironment("test")
    env.register_service("adder", Adder)
    first = env.from_collection([1]).map(lambda n, ctx: held.append(ctx.service("adder").add.remote(n)) or n)
    first.rebalance().map(lambda n, ctx: wait([*held, ctx.service("adder").add.remote(n)]), parallelism=2).for_each(str)
    with pytest.raises(PipelineError, match="different operators"):
        env.execute()


WRONG = {
    "more than there are": (lambda futures: wait(futures, count=3), "between 0 and 2, not 3"),
    "one of none": (lambda futures: wait([], count=1), "between 0 and 0, not 1"),
    "fewer than none": (lambda futures: wait(futures, count=-1), "between 0 and 2, not -1"),
    "replies": (lambda futures: wait([futures[0].result()]), "not 'through'"),
    "a negative time for many": (lambda futures: wait(futures, timeout_s=-1), "timeout_s is -1"),
    "a negative time for one": (lambda futures: futures[0].result(-0.5), "timeout_s is -0.5"),
    "a text": (lambda futures: futures[0].result("1"), "timeout_s is '1'"),
}


@pytest.mark.parametrize(("look", "text"), WRONG.values(), ids=WRONG)
def test_what_can_never_be_waited_for_is_refused_at_once(look, text):
    def work(n, ctx):
        futures = [ctx.service("gate").wait.remote() for _ in range(2)]
        ctx.service("gate").open_it()
        with pytest.raises(PipelineError, match=text):
            look(futures)
        return [future.result() for future in futures]

    env = LocalEnvironment("test")
    env.register_service("gate", Gate, concurrency=3)
    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [["through", "through"]]


def test_a_future_says_what_it_is():
    told = []
    env = LocalEnvironment("test")
    env.register_service("adder", Adder)

    def work(n, ctx):
        future = ctx.service("adder").add.remote(n)
        future.result()
        told.append((repr(future), repr(ctx.service("adder").add), isinstance(future, ServiceFuture)))

    env.from_collection([1]).for_each(work)
    env.execute()
    assert told == [("<ServiceFuture of adder.add, done>", "<method 'add' of ServiceHandle('adder')>", True)]
