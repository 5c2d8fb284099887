"""Which run a job goes on with, and whether its leader may pass an end that is in the log."""

import pytest

from sage_flow.checkpoint.log import AttemptEntry, DoneEntry, JobEnd, OverEntry
from sage_flow.checkpoint.options import CheckpointOptions
from sage_flow.executors.checkpointed_run import open_run

NOW = 1_764_331_200_000


@pytest.fixture
def stopped(tmp_path):
    """A run that another start of the job has stopped."""
    options = CheckpointOptions(str(tmp_path))
    run = open_run(options, "job", "first", NOW)
    done = DoneEntry(("first/a", 2), 1, 7)
    run.log.create(0, AttemptEntry(("first/a", 1), 1))
    run.log.create(1, done)
    run.log.create(2, OverEntry(("first/a", 3), 1, JobEnd.STOPPED))
    return run, done


def test_a_new_start_gets_a_run_of_its_own(tmp_path, stopped):
    run = open_run(CheckpointOptions(str(tmp_path)), "job", "second", NOW)
    assert run.name > stopped[0].name
    assert not run.continues


def test_latest_goes_on_with_the_same_run(tmp_path, stopped):
    run = open_run(CheckpointOptions(str(tmp_path), restore="latest"), "job", "second", NOW)
    assert run.name == stopped[0].name
    assert run.continues


def test_a_second_process_of_a_job_whose_first_one_claimed_nothing_may_still_go_on(tmp_path, stopped):
    options = CheckpointOptions(str(tmp_path), restore="latest")
    open_run(options, "job", "second", NOW)  # and dies
    run = open_run(options, "job", "second", NOW)
    assert run.name == stopped[0].name
    assert run.continues


def test_a_second_process_of_a_job_that_has_ended_does_not_begin_it_again(tmp_path, stopped):
    options = CheckpointOptions(str(tmp_path), restore="latest")
    run = open_run(options, "job", "second", NOW)
    run.log.read()
    run.log.create(3, AttemptEntry(("second/b", 1), 2, stopped[1]))
    run.log.create(4, OverEntry(("second/b", 2), 2, JobEnd.CANCELLED))
    assert not open_run(options, "job", "second", NOW).continues


def test_jobs_of_other_names_have_other_runs(tmp_path, stopped):
    run = open_run(CheckpointOptions(str(tmp_path), restore="latest"), "other", "second", NOW)
    assert run.storage.location != stopped[0].storage.location
    assert not run.continues
