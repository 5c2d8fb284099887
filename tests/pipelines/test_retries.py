"""`retry=Retry(...)`: calls of `map_async` and of sinks that are made again after an error."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from datetime import timedelta

import pytest

from sage_flow import LocalEnvironment, Retry, Sink
from sage_flow.errors import PipelineError
from sage_flow.testing import SimulationExecutor

MS = timedelta(milliseconds=1)


class Flaky:
    """Fails so many times for each record."""

    def __init__(self, failures, error=ConnectionError):
        self.failures, self.error = failures, error
        self.calls = Counter()

    def __call__(self, value):
        self.calls[value] += 1
        if self.calls[value] <= self.failures:
            raise self.error(f"{value} is away")
        return value

    async def wait(self, value):
        await asyncio.sleep(0)
        return self(value)


def environment(seed=1):
    return LocalEnvironment("retries", executor=SimulationExecutor(seed))


def test_a_call_of_map_async_is_made_again_until_it_does_not_fail():
    flaky, env = Flaky(2), environment()
    env.from_collection(range(5)).map_async(flaky.wait, retry=Retry(attempts=3)).collect("rows")
    assert env.execute(progress=False).collected["rows"] == list(range(5))
    assert set(flaky.calls.values()) == {3}


def test_a_function_that_returns_a_future_of_a_service_is_called_again():
    class Away:
        calls = 0

        def get(self, value):
            Away.calls += 1
            if Away.calls < 3:
                raise ConnectionError("away")
            return value

    env = environment()
    env.register_service("away", Away)
    asked = env.from_collection([7]).map_async(
        lambda value, ctx: ctx.service("away").get.remote(value), retry=Retry(on=ConnectionError)
    )
    asked.collect("rows")
    assert env.execute(progress=False).collected["rows"] == [7]


def test_a_sink_and_the_function_of_for_each_are_called_again():
    class Store(Sink):
        def write(self, value):
            flaky(value)

    flaky, other, env = Flaky(1), Flaky(1), environment()
    env.from_collection(range(3)).add_sink(Store, retry=Retry())
    env.from_collection(range(3)).for_each(other, retry=Retry())
    env.execute(progress=False)
    assert set(other.calls.values()) == {2}


def test_the_waits_double_and_take_time_of_the_job_only():
    env = environment()
    retry = Retry(attempts=4, wait=timedelta(minutes=1), max_wait=timedelta(minutes=2))
    env.from_collection([1]).for_each(Flaky(3), retry=retry)
    env.execute(progress=False)
    assert 5 * 60 <= env._executor.clock.now() <= 8 * 60  # 1 + 2 + 2 minutes, and up to one more of each


@pytest.mark.parametrize("how", ["map_async", "for_each"])
def test_the_error_after_the_last_attempt_is_that_of_the_user_with_the_number_of_attempts(how):
    flaky, env = Flaky(9), environment()
    source = env.from_collection([1])
    if how == "map_async":
        source.map_async(flaky.wait, retry=Retry(attempts=3, wait=0 * MS), name="ask").for_each(print)
    else:
        source.for_each(flaky, retry=Retry(attempts=3, wait=0 * MS), name="ask")
    with pytest.raises(ConnectionError, match="1 is away") as caught:
        env.execute(progress=False)
    notes = "\n".join(caught.value.__notes__)
    assert "retried   3 attempts failed, 0 s apart in all" in notes
    assert "operator  'ask'" in notes
    assert "record    1" in notes
    files = [entry.path.name for entry in caught.traceback]
    assert "tenacity" not in "".join(str(entry.path) for entry in caught.traceback), files
    assert flaky.calls[1] == 3


def test_an_error_that_is_not_named_is_not_tried_again():
    flaky, env = Flaky(1, ValueError), environment()
    env.from_collection([1]).for_each(flaky, retry=Retry(on=(ConnectionError, TimeoutError)))
    with pytest.raises(ValueError, match="away") as caught:
        env.execute(progress=False)
    assert flaky.calls[1] == 1
    assert "attempts" not in "\n".join(caught.value.__notes__)


def test_a_wrong_pipeline_is_not_tried_again():
    calls, env = [], environment()
    env.from_collection([1]).map_async(calls.append, retry=Retry()).for_each(print)
    with pytest.raises(PipelineError, match="must be `async def`, or return a ServiceFuture"):
        env.execute(progress=False)
    assert calls == [1]


def test_records_that_fail_in_the_end_pass_as_on_error_says():
    env = environment()
    asked = env.from_collection([1]).map_async(
        Flaky(9).wait, retry=Retry(attempts=2, wait=0 * MS), on_error="dead_letter"
    )
    asked.collect("rows")
    asked.dead_letters().collect("letters")
    env.from_collection([1]).for_each(Flaky(9), retry=Retry(attempts=2, wait=0 * MS), on_error="skip", name="write")
    result = env.execute(progress=False)
    assert [letter.error for letter in result.collected["letters"]] == ["ConnectionError: 1 is away"]
    assert result.skipped["write"] == 1


def test_a_cancel_does_not_wait_for_the_next_attempt():
    env = LocalEnvironment("retries")
    called, hour = threading.Event(), timedelta(hours=1)

    def fail(value):
        called.set()
        raise ConnectionError(value)

    env.from_collection([1]).for_each(fail, retry=Retry(wait=hour, max_wait=hour))
    job = env.submit()
    assert called.wait(60)
    job.cancel()
    assert job.wait(60).is_final


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"attempts": 1}, "attempts of Retry must be a number of calls from 2 on, not 1"),
        ({"attempts": 2.5}, "attempts of Retry"),
        ({"attempts": True}, "attempts of Retry"),
        ({"wait": -1 * MS}, "wait of Retry must be a timedelta, and not negative"),
        ({"wait": 0.1}, "wait of Retry must be a timedelta"),
        ({"wait": 2 * MS, "max_wait": MS}, "must not be shorter than its wait"),
        ({"on": ()}, "on of Retry must be a class of Exception"),
        ({"on": KeyboardInterrupt}, "on of Retry must be a class of Exception"),
        ({"on": "ConnectionError"}, "on of Retry must be a class of Exception"),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong, told):
    with pytest.raises(PipelineError, match=told):
        Retry(**wrong)


def test_a_number_is_no_retry():
    env = environment()
    with pytest.raises(PipelineError, match=r"retry of map_async must be a Retry, such as Retry\(attempts=5\), not 3"):
        env.from_collection([1]).map_async(Flaky(0).wait, retry=3)
