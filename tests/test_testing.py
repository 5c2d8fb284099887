"""What `sage_flow.testing` offers for users' own tests."""

import pytest

import sage_flow
from sage_flow import LocalEnvironment
from sage_flow.testing import ABORT, END, PAUSE, Event, SourceAborted, TestSource


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
