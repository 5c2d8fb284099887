"""The leader: what it wants of the log, which attempts it runs, and when the end of a job is decided."""

import pytest

from sage_flow.checkpoint.log import (
    AttemptEntry,
    CreateEntry,
    DoneEntry,
    FinalEntry,
    JobEnd,
    LogHistory,
    OverEntry,
    ReadLog,
)
from sage_flow.restart import FixedDelay, NoRestart
from sage_flow.runtime.leader import (
    CancelAttempt,
    CommitAll,
    CompleteCheckpoint,
    JobDecided,
    Leader,
    RestartJob,
    RunAttempt,
    StepDown,
)


class Log:
    """A log in memory. `write(decisions)` does what a leader wants of it, and returns what else it decided."""

    def __init__(self):
        self.entries = {}

    def write(self, leader, decisions):
        told, todo = [], list(decisions)
        while todo:
            decision = todo.pop(0)
            if isinstance(decision, ReadLog):
                todo += leader.on_read(LogHistory(dict(self.entries)))
            elif isinstance(decision, CreateEntry):
                self.entries.setdefault(decision.position, decision.entry)
                todo += leader.on_read(LogHistory(dict(self.entries)))
            else:
                told.append(decision)
        return told

    def kinds(self):
        return [type(self.entries[position]).__name__ for position in sorted(self.entries)]


@pytest.fixture(name="log")
def empty_log():
    return Log()


def leader_of(name="one", strategy=None, **options):
    return Leader(name, (strategy or NoRestart()).history(), **options)


def begun(log, **options):
    leader = leader_of(**options)
    assert log.write(leader, leader.start()) == [RunAttempt(log_attempts(log), None)]
    return leader


def log_attempts(log):
    return sum(isinstance(entry, AttemptEntry) for entry in log.entries.values())


def test_a_job_that_finishes_is_decided_then_committed_then_over(log):
    leader = begun(log)
    assert log.write(leader, leader.on_finished(("h1", "h2"))) == [CommitAll(("h1", "h2"))]
    assert log.write(leader, leader.on_committed()) == [JobDecided(JobEnd.FINISHED)]
    assert log.kinds() == ["AttemptEntry", "FinalEntry", "OverEntry"]


def test_a_job_that_fails_is_over_in_the_log_before_anybody_hears_of_it(log):
    leader = begun(log)
    (failed,) = log.write(leader, leader.on_failed("why", 0.0))
    assert (failed.end, failed.failure) == (JobEnd.FAILED, "why")
    assert log.entries[1].end is JobEnd.FAILED


def test_a_job_is_restarted_as_its_strategy_says_from_the_last_checkpoint(log):
    leader = begun(log, strategy=FixedDelay(1, delay_s=3.0))
    assert log.write(leader, leader.on_checkpoint(1)) == [CompleteCheckpoint(1)]
    assert log.write(leader, leader.on_failed("why", 0.0)) == [RestartJob(3.0)]
    (run,) = log.write(leader, leader.on_time())
    assert (run.attempt, run.restores.checkpoint) == (2, 1)
    (failed,) = log.write(leader, leader.on_failed("again", 1.0))
    assert failed.end is JobEnd.FAILED


def test_nothing_cancels_a_job_whose_end_may_be_in_the_log(log):
    leader = begun(log)
    deciding = list(leader.on_finished(()))
    assert list(leader.on_cancel("too late")) == []
    assert log.write(leader, deciding) == [CommitAll(())]
    assert list(leader.on_cancel("later still")) == []


def test_a_cancel_ends_the_attempt_and_then_the_job(log):
    leader = begun(log)
    assert list(leader.on_cancel("the user wants it")) == [CancelAttempt("the user wants it")]
    assert log.write(leader, leader.on_failed("cancelled", 0.0)) == [JobDecided(JobEnd.CANCELLED)]


def test_a_subtask_that_dies_in_its_commit_is_followed_by_an_attempt_that_only_commits(log):
    leader = begun(log)  # without a restart strategy
    log.write(leader, leader.on_finished(("h",)))
    assert log.write(leader, leader.on_failed("killed", 0.0)) == [RestartJob(1.0)]
    (run,) = log.write(leader, leader.on_time())
    assert (run.attempt, run.restores.handles) == (2, ("h",))
    assert log.write(leader, leader.on_committed()) == [JobDecided(JobEnd.FINISHED)]


def test_a_subtask_that_dies_while_the_end_is_decided_is_too_late_to_fail_the_job(log):
    leader = begun(log)
    deciding = list(leader.on_finished(("h",)))
    assert list(leader.on_failed("killed", 0.0)) == []
    assert log.write(leader, deciding) == [RestartJob(1.0)]


def test_a_job_that_cannot_be_published_is_told_so_and_stays_open_in_the_log(log):
    leader = begun(log, commit_tries=2)
    log.write(leader, leader.on_finished(("h",)))
    log.write(leader, leader.on_failed("disk full", 0.0))
    log.write(leader, leader.on_time())
    (told,) = log.write(leader, leader.on_failed("disk full", 0.0))
    assert (told.end, told.failure) == (JobEnd.NOT_PUBLISHED, "disk full")
    assert "OverEntry" not in log.kinds()
    later = leader_of("two")
    (run,) = log.write(later, later.start())
    assert isinstance(run.restores, FinalEntry)


def test_an_end_that_was_finished_before_a_checkpoint_was_recorded_is_decided_after_it(log):
    leader = begun(log)
    recording = list(leader.on_checkpoint(1))
    assert list(leader.on_finished(("h",))) == []
    assert log.write(leader, recording) == [CompleteCheckpoint(1), CommitAll(("h",))]


def test_a_checkpoint_can_be_given_up_until_it_was_tried(log):
    leader = begun(log)
    list(leader.on_checkpoint(1))
    assert leader.can_abort_checkpoint
    list(leader.on_read(LogHistory(dict(log.entries))))
    assert not leader.can_abort_checkpoint


def test_a_new_leader_goes_on_where_the_log_ends_and_the_old_one_steps_down(log):
    old = begun(log)
    log.write(old, old.on_checkpoint(1))
    new = leader_of("two")
    assert log.write(new, new.start()) == [RunAttempt(2, DoneEntry(("one", 2), 1, 1))]
    for event in (old.on_checkpoint(2), old.on_finished(()), old.on_failed("its actors are gone", 0.0)):
        told = log.write(old, event)
        if told:
            assert [type(decision) for decision in told] == [StepDown]
    assert log.kinds() == ["AttemptEntry", "DoneEntry", "AttemptEntry"]


def test_a_leader_of_a_job_that_is_over_has_nothing_to_do(log):
    leader = begun(log)
    log.write(leader, leader.on_failed("why", 0.0))
    later = leader_of("two")
    assert log.write(later, later.start()) == [JobDecided(JobEnd.FAILED, "why")]


def test_a_claim_is_composed_again_for_the_position_that_it_gets(log):
    first, second = leader_of("one"), leader_of("two")
    (create,) = [d for read in second.start() for d in second.on_read(LogHistory({}))]
    assert create == CreateEntry(0, AttemptEntry(("two", 1), 1))
    log.write(first, first.start())
    log.write(first, first.on_checkpoint(1))
    told = log.write(second, [create])  # position 0 is taken
    assert told == [RunAttempt(2, DoneEntry(("one", 2), 1, 1))]


def test_a_create_whose_answer_was_lost_is_found_by_its_number(log):
    leader = leader_of()
    list(leader.start())
    (create,) = leader.on_read(LogHistory({}))
    assert list(leader.on_read(LogHistory({0: create.entry}))) == [RunAttempt(1, None)]


def test_a_claim_at_a_position_that_was_free_again_is_made_again(log):
    """The log was read before entries were added, and one of them deleted."""
    old, new = begun(log), leader_of("two")
    list(new.start())
    (create,) = new.on_read(LogHistory(dict(log.entries)))
    assert create.position == 1
    log.write(old, old.on_checkpoint(1))
    log.write(old, old.on_checkpoint(2))
    del log.entries[1]
    (run,) = log.write(new, [create])
    assert (run.attempt, run.restores.checkpoint) == (3, 2)


def test_an_over_entry_says_how(log):
    leader = begun(log)
    log.write(leader, leader.on_cancel("stop"))
    log.write(leader, leader.on_failed("cancelled", 0.0))
    assert log.entries[1] == OverEntry(("one", 2), 1, JobEnd.CANCELLED)
