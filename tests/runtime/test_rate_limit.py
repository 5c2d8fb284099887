"""`max_rate`: how many records a source gives, by a clock that the test moves."""

from __future__ import annotations

import threading

import pytest
from fake_port import bench

from sage_flow import END, LocalEnvironment, RuntimeContext, Source
from sage_flow.connectors import IterableSource
from sage_flow.errors import PipelineError
from sage_flow.executors.feeder import Feeder
from sage_flow.runtime.messages import Drain
from sage_flow.runtime.rate_limit import RateLimit
from sage_flow.runtime.subtask import Done, WaitForMessage
from sage_flow.testing import Event, SimulationExecutor, TestSource


def given_in(rate, seconds, wakes):
    """How many records of endless ones are given within some seconds, if the subtask is woken as it asks."""
    limit, now, given = RateLimit(rate), 0.0, 0
    for _ in range(wakes):
        count = limit.take(1000, now)
        given += count
        if count < 1000:
            now = max(now, limit.next_at)
        if now > seconds:
            return given
    raise AssertionError(f"more than {wakes} wakes")


@pytest.mark.parametrize("rate", [0.5, 1, 7, 100, 12_345, 1_000_000])
def test_no_more_records_are_given_than_the_rate_allows_and_nearly_as_many(rate):
    given = given_in(rate, 10.0, wakes=30_000)
    assert given <= 10 * rate + 1
    assert given >= 0.98 * 10 * rate


def test_a_quick_source_is_not_woken_for_each_record():
    assert given_in(10_000, 10.0, wakes=1_100) >= 98_000


def test_a_source_that_stood_still_catches_up_by_a_tenth_of_a_second_at_most():
    limit = RateLimit(1000)
    assert limit.take(1000, 0.0) == 1
    assert limit.take(1000, 60.0) == 101
    assert limit.take(1000, 60.0) == 0


def source_of(items, parallel=False, **options):
    def write(env):
        source = env.from_source(TestSource(items, parallel=parallel), name="step", **options)
        source.rebalance().for_each(print, parallelism=3)

    return bench(write, "step")


def given(made):
    return made.port.records()


def test_a_subtask_waits_until_its_next_record_and_never_asks_in_between():
    made = source_of("abcd", max_rate=0.5)
    assert made.run() == WaitForMessage(2.0)
    assert given(made) == ["a"]
    made.port.clock.advance(1.9)
    assert made.run() == WaitForMessage(2.0)
    made.port.clock.advance(0.1)
    assert made.run() == WaitForMessage(4.0)
    assert given(made) == ["a", "b"]


def test_the_end_of_a_source_does_not_wait_for_the_rate():
    made = source_of("a", max_rate=0.001)
    assert made.run() == Done()


def test_subtasks_share_the_rate():
    made = source_of([*"abcd", *(Event(n, "other") for n in range(4))], parallel=True, max_rate=1, parallelism=2)
    assert made.run() == WaitForMessage(2.0)


def test_a_checkpoint_is_cut_while_a_source_waits_and_keeps_what_was_read():
    made = source_of("abcd", max_rate=0.5)
    made.run()
    assert made.subtask.can_be_cut
    assert made.subtask.parts()["step"].rests != {}


def test_a_source_with_positions_ends_where_it_is_when_it_is_drained():
    made = source_of("abcd", max_rate=1)
    made.run()
    made.subtask.on_message(Drain())
    assert made.run() == Done()
    assert given(made) == ["a"]


class Taking(Source):
    """What it has given is nowhere else."""

    def __init__(self):
        self.left = ["a", "b", "c"]

    def next_batch(self):
        taken, self.left = self.left[:2], self.left[2:]
        return taken or END


def test_any_other_source_gives_what_it_has_read_when_it_is_drained():
    made = bench(
        lambda env: env.from_source(Taking, name="step", max_rate=1).rebalance().for_each(print, parallelism=3), "step"
    )
    made.run()
    made.subtask.on_message(Drain())
    assert made.run() == WaitForMessage(1.0)
    made.port.clock.advance(1.0)
    assert made.run() == Done()
    assert given(made) == ["a", "b"]


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), True, "10", 10**400])
def test_a_rate_that_is_no_positive_number_is_refused_where_it_is_written(rate):
    env = LocalEnvironment("rates")
    with pytest.raises(
        PipelineError, match=r"max_rate of 'collection-1' \(.*test_rate_limit.py:\d+\) must be a number"
    ):
        env.from_collection([1], max_rate=rate)
    with pytest.raises(PipelineError, match="of records per second above 0"):
        env.from_source(TestSource([1]), max_rate=rate)


def test_every_source_takes_a_rate_and_the_plan_shows_it():
    env = LocalEnvironment("rates")
    env.from_iterable([1], max_rate=2.5, name="slow").for_each(print)
    assert "max_rate=2.5" in env.explain()


def test_no_more_is_read_ahead_than_may_be_given_in_a_second():
    given_out = []

    def numbers():
        for number in range(1000):
            given_out.append(number)
            yield number

    source = IterableSource(numbers)
    source.open(RuntimeContext("job", "source", 0, 1))
    feeder = Feeder(source, lambda: None, rate=2.5)
    thread = threading.Thread(target=feeder.run, daemon=True)
    thread.start()
    while not feeder._feeder_waits:
        thread.join(0.001)
    assert given_out == [0, 1, 2, 3]  # the last one waits for its place
    feeder.stop()
    thread.join()


@pytest.mark.parametrize("kind", ["collection", "iterable"])
def test_a_job_takes_the_time_that_the_rate_says(kind):
    executor = SimulationExecutor(3)
    env = LocalEnvironment("rates", executor=executor)
    source = env.from_collection if kind == "collection" else env.from_iterable
    source(range(20), max_rate=4).rebalance().map(lambda n: n).collect("rows")
    assert env.execute(progress=False).collected["rows"] == list(range(20))
    assert 4.75 <= executor.clock.now() < 5.5
