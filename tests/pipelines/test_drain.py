"""Draining: the sources end, what they gave flows to its end, and the job has finished."""

import itertools
import threading

import pytest

from sage_flow import IDLE, JobStatus, Service, Source


class Endless(Source):
    """Counts for ever, in steps of ten, `idle` times idle between them."""

    def __init__(self, idle=0):
        self.next, self.idle, self.rest = 0, idle, 0

    def next_batch(self):
        if self.rest:
            self.rest -= 1
            return IDLE
        self.rest = self.idle
        self.next += 10
        return list(range(self.next - 10, self.next))


class ThenIdle(Source):
    """Three records, and nothing more for ever."""

    has_given = False

    def next_batch(self):
        if self.has_given:
            return IDLE
        self.has_given = True
        return [0, 1, 2]


def then_blocks():
    yield from range(3)
    threading.Event().wait()


def threaded(mode):
    if mode.name.startswith("simulation"):
        pytest.skip("in the simulation no time passes while a source reads")
    return mode.environment()


def given(job, source, count):
    """Wait until the source has given as many records."""
    while job.metrics()["operators"][source].emitted < count:
        assert not job.status.is_final
        threading.Event().wait(0.01)


@pytest.mark.on_ray
def test_what_an_endless_source_gave_comes_through_to_the_last_record(mode, tmp_path):
    env = mode.environment()
    stream = env.from_source(Endless(idle=3), name="source").rebalance().map(lambda n: n, name="step")
    stream.rebalance().collect("rows")
    stream.map(str).write_text(tmp_path / "rows.txt")
    with env.submit() as job:
        given(job, "source", 30)
        assert job.drain() is JobStatus.FINISHED
    result = job.result()
    rows = list(range(result.counts["source"]))
    assert len(rows) >= 30
    assert sorted(result.collected["rows"]) == rows
    assert sorted(map(int, (tmp_path / "rows.txt").read_text().split())) == rows  # published


@pytest.mark.parametrize("capacity", [1, 100])
def test_a_source_that_is_faster_than_its_sink_loses_nothing(mode, capacity):
    env = threaded(mode)

    async def slow(n):
        return n

    env.from_source(Endless(), name="source").rebalance().map_async(slow, capacity=capacity, parallelism=1).collect(
        "rows"
    )
    with env.submit() as job:
        given(job, "source", 10)
        assert job.drain() is JobStatus.FINISHED
    assert job.result().collected["rows"] == list(range(job.result().counts["source"]))


def test_an_idle_source_ends_and_what_was_held_back_is_given_out(mode):
    env = mode.environment()
    numbers = env.from_source(ThenIdle(), name="source")
    numbers.key_by(lambda n: n % 2).count(emit="final").collect("counts")
    numbers.map_batches(lambda batch: [sum(batch)], parallelism=1).collect("sums")
    with env.submit() as job:
        given(job, "source", 3)
        assert job.drain() is JobStatus.FINISHED
    assert sorted(job.result().collected["counts"]) == [(0, 2), (1, 1)]
    assert job.result().collected["sums"] == [3]


def test_a_source_that_never_comes_back_is_not_waited_for(mode):
    env = threaded(mode)
    env.from_iterable(then_blocks, name="source").collect("rows")
    with env.submit() as job:
        given(job, "source", 3)
        assert job.drain() is JobStatus.FINISHED
    assert job.result().collected["rows"] == [0, 1, 2]
    assert job.result().stuck == []


def test_an_iterable_that_never_ends_is_cut_behind_what_was_read(mode):
    env = threaded(mode)
    env.from_iterable(itertools.count, name="source").rebalance().collect("rows")
    with env.submit() as job:
        given(job, "source", 10)
        assert job.drain() is JobStatus.FINISHED
    assert sorted(job.result().collected["rows"]) == list(range(job.result().counts["source"]))


class Closes(Service):
    def __init__(self, path):
        self.path = path

    def double(self, n):
        return 2 * n

    def close(self):
        self.path.write_text("closed")


def test_services_answer_to_the_end_and_are_closed(mode, tmp_path):
    env = mode.environment()
    env.register_service("svc", Closes, tmp_path / "svc")
    env.from_source(Endless(idle=3), name="source").map(lambda n, ctx: ctx.service("svc").double(n)).collect("rows")
    with env.submit() as job:
        given(job, "source", 10)
        assert job.drain() is JobStatus.FINISHED
    result = job.result()
    assert sorted(result.collected["rows"]) == [2 * n for n in range(result.counts["source"])]
    assert (tmp_path / "svc").read_text() == "closed"


@pytest.mark.on_ray
def test_a_job_that_is_drained_at_once_has_finished(mode):
    env = mode.environment()
    env.from_source(Endless(idle=1), name="source").rebalance().collect("rows")
    with env.submit() as job:
        assert job.drain() is JobStatus.FINISHED
        assert job.drain() is JobStatus.FINISHED
    assert sorted(job.result().collected["rows"]) == list(range(job.result().counts["source"]))


def test_draining_a_job_whose_sources_end_by_themselves_changes_nothing(mode):
    for _ in range(5):
        env = mode.environment()
        env.from_collection([1, 2]).rebalance().collect("rows")
        with env.submit() as job:
            assert job.drain() is JobStatus.FINISHED
        assert job.result().collected["rows"] in ([], [1, 2])


def test_a_job_that_fails_while_it_is_drained_has_failed(mode):
    env = mode.environment()
    env.from_source(ThenIdle(), name="source").map_batches(lambda batch: 1 // 0).collect("rows")
    with env.submit() as job:
        given(job, "source", 3)
        assert job.drain() is JobStatus.FAILED
    with pytest.raises(ZeroDivisionError):
        job.result()


def test_a_job_that_was_cancelled_stays_so(mode):
    env = mode.environment()
    env.from_source(Endless(idle=3)).collect("rows")
    with env.submit() as job:
        assert job.cancel() is JobStatus.CANCELLED
        assert job.drain() is JobStatus.CANCELLED
