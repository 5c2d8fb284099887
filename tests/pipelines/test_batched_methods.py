"""Methods of services that answer their calls in batches."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from batching_services import LATE, Batching, BatchingLater, Doubler

from sage_flow import LocalEnvironment, Service, ServiceClient, batched, wait
from sage_flow.channels import PythonQueueDescriptor
from sage_flow.errors import PipelineError, ServiceError, ServiceTimeout


def run(mode, work, items=(1,), capacity=None, **services):
    env = LocalEnvironment("batches") if mode is None else mode.environment(parallelism=1)
    for name, (service, options) in services.items():
        env.register_service(name, service, **options)
    stream = env.from_collection(items)
    replies = stream.map(work) if capacity is None else stream.map_async(work, capacity=capacity)
    replies.collect("rows")
    return env.execute(progress=False).collected["rows"]


def outcome(future):
    error = future.exception()
    return future.result() if error is None else f"{type(error).__name__}: {error}"


def ask(mode, method, values):
    """The outcomes of calls of a method of `Batching` that are open at the same time."""

    def work(_, ctx):
        handle = getattr(ctx.service("batching"), method)
        futures = [handle.remote(value) for value in values]
        return [outcome(future) for future in futures]

    return run(mode, work, batching=(Batching, {}), doubler=(Doubler, {}))[0]


@pytest.mark.on_ray
def test_each_call_of_a_batched_method_gets_its_own_reply(mode):
    def work(n, ctx):
        return ctx.service("doubler").double.remote(n)

    assert run(mode, work, range(50), capacity=16, doubler=(Doubler, {})) == [2 * n for n in range(50)]


def test_a_batch_begins_when_it_has_max_size_calls(mode):
    replies = ask(mode, "whole", "abcdefgh")
    assert replies == [(value, list("abcd" if value in "abcd" else "efgh")) for value in "abcdefgh"]


def test_a_batch_begins_when_its_first_call_has_waited_for_max_wait(mode):
    assert ask(mode, "soon", "a") == [("a", ["a"])]


def test_a_reply_that_is_an_exception_fails_only_its_call():
    assert ask(None, "inverse", [1, 0, 2]) == [1.0, "ZeroDivisionError: no inverse of 0", 0.5]


def test_an_error_of_the_method_fails_the_calls_of_its_batch():
    assert ask(None, "fail", [1, 2]) == ["ValueError: no [1, 2]"] * 2


def test_too_few_replies_fail_the_batch_by_an_error_with_method_and_numbers():
    (told,) = set(ask(None, "too_few", [1, 2, 3]))
    assert "method 'too_few' got a batch of 3 and returned 2 replies" in told


def test_a_method_that_returns_no_list_fails_the_batch():
    (told,) = ask(None, "no_list", [1])
    assert "method 'no_list' got a batch of 1 and returned an object of type dict, not a list" in told


def test_a_batched_method_may_call_a_batched_method(mode):
    assert ask(mode, "ask", [1, 2]) == [2, 4]


def test_a_batched_method_may_be_a_coroutine(mode):
    def work(n, ctx):
        handle = ctx.service("later").double
        return [outcome(future) for future in [handle.remote(n), handle.remote(-1), handle.remote(7)]]

    rows = run(mode, work, [1, 2], later=(BatchingLater, {}))
    assert rows == [[2, "ValueError: -1 is negative", 14], [4, "ValueError: -1 is negative", 14]]


def test_plain_calls_are_answered_while_a_batch_waits(mode):
    def work(_, ctx):
        batching = ctx.service("batching")
        waiting = [batching.whole.remote(value) for value in "abc"]
        plain = batching.plain(1)
        return plain, waiting[0].done(), [batching.whole(value)[0] for value in "d"]

    assert run(mode, work, batching=(Batching, {}), doubler=(Doubler, {})) == [(1, False, ["d"])]


def test_wrong_arguments_fail_their_call_and_not_the_batch():
    def work(_, ctx):
        handle = ctx.service("doubler").double
        futures = [handle.remote(1), handle.remote(1, 2), handle.remote(number=1), handle.remote()]
        return [outcome(future) for future in futures]

    good, *bad = run(None, work, doubler=(Doubler, {}))[0]
    assert good == 2
    assert all("method 'double' takes one positional argument, not" in told for told in bad)


def test_an_error_names_service_method_and_size_of_the_batch():
    def work(_, ctx):
        futures = [ctx.service("batching").fail.remote(value) for value in (1, 2)]
        futures[0].result()

    with pytest.raises(ValueError, match=r"no \[1, 2\]") as caught:
        run(None, work, batching=(Batching, {}))
    notes = "\n".join(caught.value.__notes__)
    assert "service   'batching', method 'fail'" in notes
    assert "fail(...) with a batch of 2" in notes


def test_a_call_whose_time_has_passed_is_in_no_batch():
    seen = []

    class Slow(Service):
        @batched(max_size=3, max_wait=LATE)
        def see(self, values):
            seen.append(list(values))
            return values

    def work(_, ctx):
        slow = ctx.service("slow")
        late = slow.options(timeout=0.02).see.remote("late")
        error = late.exception()
        return type(error), [future.result() for future in [slow.see.remote("a"), slow.see.remote("b")]]

    assert run(None, work, slow=(Slow, {})) == [(ServiceTimeout, ["a", "b"])]
    assert seen == [["a", "b"]]


def test_a_call_that_was_cancelled_is_in_no_batch():
    def work(_, ctx):
        handle = ctx.service("batching").whole
        futures = [handle.remote(value) for value in "abc"]
        assert futures[1].cancel()
        futures = [handle.remote(value) for value in "de"]
        return futures[0].result()

    assert run(None, work, batching=(Batching, {})) == [("d", ["a", "c", "d", "e"])]


def test_calls_that_nobody_waits_for_are_answered_before_the_service_ends():
    seen = []

    class Noting(Service):
        @batched(max_size=100, max_wait=LATE)
        def note(self, values):
            seen.extend(values)
            return values

    def work(value, ctx):
        ctx.service("noting").note.remote(value)
        return value

    assert run(None, work, range(5), noting=(Noting, {})) == list(range(5))
    assert sorted(seen) == list(range(5))


def test_one_batch_runs_at_a_time_unless_concurrency_is_for_more():
    running, most = [], []

    class Watched(Service):
        @batched(max_size=2, max_wait=timedelta(0))
        def watch(self, values):
            running.append(None)
            most.append(len(running))
            time.sleep(0.002)
            running.pop()
            return values

    def work(_, ctx):
        wait([ctx.service("watched").watch.remote(value) for value in range(40)])

    run(None, work, watched=(Watched, {}))
    assert max(most) == 1
    most.clear()
    run(None, work, watched=(Watched, {"concurrency": 6}))
    assert 1 <= max(most) <= 3


def test_batches_are_counted():
    env = LocalEnvironment("counted")
    env.register_service("batching", Batching)
    env.from_collection(list("abcdefgh")).map_async(
        lambda v, ctx: ctx.service("batching").whole.remote(v), capacity=8
    ).collect()
    job = env.submit()
    job.result()
    told = job.metrics()["services"]["batching"]["whole"]
    assert (told["batches"], told["batched_calls"], told["calls"]) == (2, 8, 8)


def test_calls_by_descriptor_are_batched_too():
    requests = PythonQueueDescriptor(queue_id="batched")
    env = LocalEnvironment("by_descriptor")
    env.register_service("batching", Batching, requests=requests)
    client = ServiceClient(requests, timeout=20.0)

    def work(_):
        futures = [client.whole.remote(value) for value in "abcd"]
        return [future.result() for future in futures]

    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [[(value, list("abcd")) for value in "abcd"]]


def test_a_batched_method_called_directly_answers_one_value():
    batching = Batching()
    assert batching.whole("a") == ("a", ["a"])
    with pytest.raises(ZeroDivisionError, match="no inverse of 0"):
        batching.inverse(0)
    with pytest.raises(ServiceError, match="got a batch of 1 and returned 0 replies"):
        batching.too_few(1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_size": 0}, "max_size of @batched must be an int of at least 1, not 0"),
        ({"max_size": True}, "max_size"),
        ({"max_size": 2.0}, "max_size"),
        ({"max_wait": 0.005}, "max_wait of @batched must be a timedelta that is not negative, not 0.005"),
        ({"max_wait": timedelta(seconds=-1)}, "max_wait"),
    ],
)
def test_limits_that_are_none_are_refused(options, told):
    with pytest.raises(PipelineError, match=told):
        batched(**options)


def test_what_is_no_method_is_refused():
    with pytest.raises(PipelineError, match="@batched decorates a method"):
        batched()(3)


def test_batched_without_parentheses_is_refused_with_the_cure():
    for misplaced in (lambda self, values: values, 32):
        with pytest.raises(PipelineError, match=r"write @batched\(\) with parentheses.*@batched\(max_size=32\)"):
            batched(misplaced)
