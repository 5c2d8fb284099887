"""What `sage_flow.testing` offers for users' own tests."""

from types import SimpleNamespace

import pytest

import sage_flow
from sage_flow import LocalEnvironment
from sage_flow.errors import PipelineError, WorkerDied
from sage_flow.restart import FixedDelay
from sage_flow.splits import FINISHED
from sage_flow.testing import ABORT, END, KILL, PAUSE, Event, SourceAborted, SplitEnd, SplitWatermark, TestSource


def test_a_test_source_gives_batches_between_its_signals():
    source = TestSource([1, 2, PAUSE, 3, END, 4])
    assert [source.next_batch() for _ in range(5)] == [[1, 2], sage_flow.IDLE, [3], sage_flow.END, sage_flow.END]


def test_a_test_source_goes_on_behind_its_position():
    source = TestSource([1, PAUSE, 2])
    source.next_batch()
    again = TestSource([1, PAUSE, 2])
    again.restore(source.snapshot())
    assert [again.next_batch() for _ in range(3)] == [sage_flow.IDLE, [2], sage_flow.END]


SCRIPT = [
    Event(1, "a"),
    Event(2, "b"),
    PAUSE,
    SplitWatermark(5, "a"),
    Event(3, "a"),
    SplitEnd("a"),
    Event(4, "c"),
    Event(5, "b"),
]


def opened(index=0, parallelism=1):
    source = TestSource(SCRIPT, parallel=True)
    source.open(SimpleNamespace(subtask_index=index, parallelism=parallelism, attempt=1))
    return source


def values(source):
    found = []
    while (batch := source.next_batch()) is not END:
        found += batch if isinstance(batch, list) else []
    return found


def test_the_position_of_a_test_source_is_the_number_of_items_of_each_split():
    source = opened()
    found = [(source.next_batch(), source.snapshot()) for _ in range(6)]
    assert found == [
        ([1], {"a": 1}),
        ([2], {"a": 1, "b": 1}),
        (sage_flow.IDLE, {"a": 1, "b": 1}),
        (SplitWatermark(5, "a"), {"a": 2, "b": 1}),
        ([3], {"a": 3, "b": 1}),
        (SplitEnd("a"), {"a": FINISHED, "b": 1}),
    ]


@pytest.mark.parametrize("cut", range(9))
@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_test_source_that_is_cut_anywhere_goes_on_with_the_same_records(cut, parallelism):
    source, before = opened(), []
    for _ in range(cut):
        batch = source.next_batch()
        before += batch if isinstance(batch, list) else []
    after = []
    for index in range(parallelism):
        again = opened(index, parallelism)
        again.restore(source.snapshot())
        assert "a" not in again.splits_read() or cut < 6
        after += values(again)
    assert sorted(before + after) == [1, 2, 3, 4, 5]
    if parallelism == 1:
        assert before + after == [1, 2, 3, 4, 5]


def test_a_split_of_a_test_source_has_a_reader():
    reader = opened().reader("a", 1)
    assert [reader.next_batch() for _ in range(3)] == [SplitWatermark(5, "a"), [3], SplitEnd("a")]
    assert (reader.next_batch(), reader.position()) == (END, 4)


def test_a_test_source_that_aborts_fails_its_job_in_every_mode(mode):
    env = mode.environment()
    env.from_source(TestSource([1, 2, ABORT, 3])).collect("rows")
    with pytest.raises(SourceAborted, match="after 2 items"):
        env.execute()


def test_kill_ends_the_worker_process_of_the_source():
    env = LocalEnvironment("test", executor="processes")
    env.from_source(TestSource([1, KILL, 2])).collect("rows")
    with pytest.raises(WorkerDied, match="SIGKILL"):
        env.execute(progress=False)


def test_each_attempt_obeys_its_own_kill():
    env = LocalEnvironment("test", executor="processes", restart=FixedDelay(2, delay_s=0.01))
    env.from_source(TestSource([1, KILL, 2, KILL, 3])).map(lambda n, ctx: (n, ctx.attempt)).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("executor", ["threads", sage_flow.testing.SimulationExecutor(1)])
def test_kill_is_an_error_in_the_programs_own_process(executor):
    env = LocalEnvironment("test", executor=executor)
    env.from_source(TestSource([1, KILL, 2])).collect("rows")
    with pytest.raises(PipelineError, match="KILL would end the program itself"):
        env.execute(progress=False)


def test_end_is_the_one_that_sources_return():
    class Once(sage_flow.Source):
        def next_batch(self):
            return END

    env = LocalEnvironment("test")
    env.from_source(Once).collect("rows")
    assert env.execute().collected["rows"] == []


def test_a_record_of_a_test_source_that_has_a_split_method_is_of_the_whole():
    source = TestSource(["a b", Event("c", "first"), END])
    assert source.splits_read() == ["", "first"]
