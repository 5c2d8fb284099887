"""What the sinks of a subtask have prepared stays pending until it is committed: rules 1 and 2 of the protocol."""

import pytest

from sage_flow import LocalEnvironment, Sink
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.runtime.sinks import SinkOperator, SubtaskSinks


class Notes(Sink):
    """`fails`: so many commits."""

    def __init__(self):
        self.committed, self.known, self.aborts, self.fails = [], None, 0, 0

    def write(self, value):
        pass

    def prepare(self, checkpoint):
        return f"handle {checkpoint}"

    def commit(self, handle):
        if self.fails:
            self.fails -= 1
            raise OSError("the disk is full")
        self.committed.append(handle)

    def abort(self):
        self.aborts += 1

    def recover(self, handles):
        self.known = list(handles)


@pytest.fixture
def sink():
    return Notes()


@pytest.fixture
def sinks(sink):
    env = LocalEnvironment("job")
    env.from_collection([1]).add_sink(sink, name="sink")
    operator = env._graph.plan().chains[-1].operators[-1]
    return SubtaskSinks([SinkOperator(operator, sink)], 0, lambda error, operator: None)


def handle(checkpoint):
    return Prepared("sink", 0, f"handle {checkpoint}", checkpoint)


def test_rule_2_a_checkpoint_names_what_failed_ones_before_it_have_prepared(sinks):
    assert sinks.prepare(1) == (handle(1),)
    assert sinks.prepare(2) == (handle(1), handle(2))


def test_what_was_prepared_up_to_a_complete_checkpoint_is_committed_once(sinks, sink):
    for checkpoint in (1, 2, 3):
        sinks.prepare(checkpoint)
    sinks.commit_through(2)
    assert sink.committed == ["handle 1", "handle 2"]
    assert sinks.pending == (handle(3),)
    sinks.commit_through(3)
    assert sink.committed == ["handle 1", "handle 2", "handle 3"]


def test_what_was_prepared_at_the_end_waits_for_the_end_to_be_recorded(sinks, sink):
    sinks.prepare(1)
    sinks.prepare()
    sinks.commit_through(9)
    assert sink.committed == ["handle 1"]
    sinks.commit()
    assert sink.committed == ["handle 1", "handle 0"]


def test_rule_2_a_commit_that_fails_stays_pending_and_is_tried_with_the_next(sinks, sink):
    sinks.prepare(1)
    sink.fails = 1
    with pytest.raises(OSError, match="full"):
        sinks.commit_through(1)
    assert sinks.prepare(2) == (handle(1), handle(2))
    sinks.commit_through(2)
    assert sink.committed == ["handle 1", "handle 2"]


def test_rule_1_a_cancel_removes_nothing_that_a_checkpoint_may_name(sinks, sink):
    sinks.prepare(1)
    sinks.take_back(keeps_prepared=True)
    assert (sink.aborts, sink.known) == (1, None)


def test_without_checkpoints_a_cancel_removes_what_was_prepared(sinks, sink):
    sinks.prepare()
    sinks.take_back()
    assert (sink.aborts, sink.known) == (1, [])


def test_a_later_attempt_commits_what_its_checkpoint_names_and_removes_the_rest(sinks, sink):
    sinks.take_over([handle(1), handle(0)])
    assert sink.known == ["handle 1", "handle 0"]
    assert sink.committed == ["handle 1"]
    assert sinks.pending == (handle(0),)
