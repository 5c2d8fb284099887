"""What `sage_flow.testing` offers for users' own tests."""

import pytest

import sage_flow
from sage_flow import LocalEnvironment
from sage_flow.errors import PipelineError, WorkerDied
from sage_flow.restart import FixedDelay
from sage_flow.testing import ABORT, END, KILL, PAUSE, Event, SourceAborted, TestSource


def test_a_test_source_gives_batches_between_its_signals():
    source = TestSource([1, 2, PAUSE, 3, END, 4])
    assert [source.next_batch() for _ in range(5)] == [[1, 2], sage_flow.IDLE, [3], sage_flow.END, sage_flow.END]


def test_a_test_source_goes_on_behind_its_position():
    source = TestSource([1, PAUSE, 2])
    source.next_batch()
    again = TestSource([1, PAUSE, 2])
    again.restore(source.snapshot())
    assert [again.next_batch() for _ in range(3)] == [sage_flow.IDLE, [2], sage_flow.END]


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
