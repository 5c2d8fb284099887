"""A failing job ends with its own error, closes what was opened and publishes nothing."""

import os

import pytest
from failing_pipelines import (
    Boom,
    WatchedBatches,
    WatchedFlatMap,
    WatchedMap,
    WatchedProcess,
    WatchedSink,
    WatchedSource,
    error_of,
    fresh_diary,  # noqa: F401 - a fixture
    notes_of,
    one_process,
)

from sage_flow import LocalEnvironment, Source
from sage_flow.errors import PipelineError
from sage_flow.testing import ABORT, SourceAborted, TestSource

HERE = os.path.basename(__file__)


def watched_pipeline(env, diary, fails):
    """One of everything, with shuffles between; the operator that fails is named `<name>`."""
    stream = env.from_source(WatchedSource(diary, "source", fails), name="source")
    stream = stream.rebalance().map(WatchedMap(diary, "map", fails), name="map")
    stream = stream.rebalance().flat_map(WatchedFlatMap(diary, "flat_map", fails), name="flat_map")
    stream = stream.key_by(lambda n: n % 5).process(WatchedProcess(diary, "process", fails), name="process")
    stream = stream.map_batches(WatchedBatches(diary, "map_batches", fails), batch_size=3, name="map_batches")
    stream.rebalance().add_sink(WatchedSink(diary, "sink", fails), name="sink")


# --- a failing job ends, closes, publishes nothing ---------------------------------------------------------

FAILURES = {  # method that raises -> operator that is blamed
    "next_batch": "source",
    "map": "map",
    "flat_map": "flat_map",
    "process": "process",
    "map_batches": "map_batches",
    "write": "sink",
    "open": None,
    "close": None,
    "commit": "sink",
}


@pytest.mark.parametrize("method", FAILURES)
def test_whatever_fails_ends_the_job_with_its_own_error_and_closes_what_was_opened(mode, diary, method):
    env = mode.environment("watched")
    watched_pipeline(env, diary, [method])
    error = error_of(env, Boom)
    assert str(error) == method
    assert f"operator  '{FAILURES[method] or ''}" in notes_of(error)
    assert "subtask " in notes_of(error)
    assert "job 'watched'" in notes_of(error)
    if method in ("map", "flat_map", "process", "write"):
        assert "record    17" in notes_of(error)
    assert diary.who("open") == diary.who("close")
    assert set(diary.who("open").values()) <= {1}
    assert not diary.lines("commit")
    assert max(diary.who("call").values(), default=1) == 1  # no record is run again to find the culprit


@pytest.mark.parametrize("name", ["source", "map", "flat_map", "process", "map_batches", "sink"])
@pytest.mark.parametrize("method", ["open", "close"])
def test_a_life_cycle_that_fails_names_its_operator(diary, name, method):
    classes = {
        "source": WatchedSource,
        "map": WatchedMap,
        "flat_map": WatchedFlatMap,
        "process": WatchedProcess,
        "map_batches": WatchedBatches,
        "sink": WatchedSink,
    }
    env = LocalEnvironment("test")
    fails = {name: [method]}
    stream = env.from_source(WatchedSource(diary, "source", fails.get("source", ())), name="source")
    for step in ("map", "flat_map", "process", "map_batches"):
        stream = getattr(stream, step)(classes[step](diary, step, fails.get(step, ())), name=step)
    stream.add_sink(WatchedSink(diary, "sink", fails.get("sink", ())), name="sink")
    error = error_of(env, Boom)
    assert f"operator  {name!r}" in notes_of(error)
    assert HERE in notes_of(error)
    assert diary.who("open") == diary.who("close")
    assert not diary.lines("commit")


def test_when_closing_fails_too_the_first_error_is_told_and_sinks_are_still_aborted(diary):
    env = LocalEnvironment("test")
    stream = env.from_collection(range(40)).map(WatchedMap(diary, "map", ["map", "close"]))
    stream.add_sink(WatchedSink(diary, "sink"))
    assert str(error_of(env, Boom)) == "map"
    assert diary.who("open") == diary.who("close") == {"map 0": 1, "sink 0": 1}
    assert diary.lines("abort") == ["abort sink"]


def test_a_sink_that_fails_to_close_is_aborted(diary):
    env = LocalEnvironment("test")
    env.from_collection([1]).add_sink(WatchedSink(diary, "sink", ["close"]))
    error_of(env, Boom)
    assert diary.lines("abort") == ["abort sink"]
    assert not diary.lines("commit")


def test_a_sink_is_not_committed_when_another_branch_fails(diary):
    env = LocalEnvironment("test")
    source = env.from_collection(range(3000))
    source.add_sink(WatchedSink(diary, "good"))
    source.rebalance().map(lambda n: 1 // (2999 - n), parallelism=2).for_each(str)
    error_of(env, ZeroDivisionError)
    assert diary.lines("abort") == ["abort good"]
    assert not diary.lines("commit")


@one_process
def test_an_at_least_once_sink_that_cannot_publish_is_named_and_no_other_publishes_twice(mode, diary):
    env = mode.environment("test")
    numbers = env.from_collection(range(20))
    numbers.add_sink(WatchedSink(diary, "bad", ["commit"]), name="bad", parallelism=1)
    numbers.rebalance().add_sink(WatchedSink(diary, "good"), name="good", parallelism=2)
    error = error_of(env, Boom)
    assert "operator  'bad'" in notes_of(error)
    assert diary.who("commit").items() <= {"good 0": 1, "good 1": 1}.items()  # those that had begun


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_file_sinks_publish_nothing_when_the_job_fails(mode, tmp_path):
    env = mode.environment()
    source = env.from_collection(range(100))
    source.map(str).write_text(tmp_path / "all.txt")
    source.map(lambda n: {"n": n}).write_jsonl(tmp_path / "all.jsonl", parallelism=2)
    source.map(lambda n: 1 // (99 - n)).for_each(str)
    error_of(env, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


# --- sources ----------------------------------------------------------------------------------------------


@pytest.mark.on_ray
def test_a_source_that_raises_midway_names_itself(mode):
    env = mode.environment()
    env.from_source(TestSource([1, 2, 3, ABORT]), name="broken").collect()
    error = error_of(env, SourceAborted)
    assert "after 3 items" in str(error)
    assert "operator  'broken' (source)" in notes_of(error)
    assert "on_error" not in notes_of(error)  # no policy skips a source's error


class WrongBatch(Source):
    def __init__(self, batch, blocking=False):
        self.batch = batch
        self.blocking = blocking

    def next_batch(self):
        return self.batch


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("batch", [(1, 2), None, 5, "text"], ids=repr)
def test_next_batch_must_return_a_list(batch, blocking):
    env = LocalEnvironment("test", cancel_grace_s=0.5)
    env.from_source(WrongBatch(batch, blocking), name="wrong").collect()
    with env.submit() as job, pytest.raises(PipelineError) as caught:
        job.result(timeout=60)
    for fragment in ("'wrong'", HERE, "list, IDLE or END", type(batch).__name__):
        assert fragment in str(caught.value)


def test_a_generator_that_raises_midway_names_its_source():
    def broken():
        yield from range(10)
        raise Boom("generator")

    env = LocalEnvironment("test")
    env.from_iterable(broken, name="broken").collect()
    error = error_of(env, Boom)
    assert "operator  'broken' (source)" in notes_of(error)
