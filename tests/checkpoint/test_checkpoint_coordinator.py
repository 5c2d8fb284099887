"""When a checkpoint is complete, and with which parts."""

import math

import pytest

from sage_flow.checkpoint.coordinator import (
    Aborted,
    Begin,
    CheckpointCoordinator,
    Complete,
    CutTimes,
    NoMoreCheckpoints,
    Record,
    StoredPart,
)
from sage_flow.checkpoint.metadata import SubtaskPart
from sage_flow.checkpoint.prepared import Prepared


def stored(address, *, is_finished=False, cut=0):
    part = SubtaskPart(address, (f"op-{address}",), 0, 1, is_finished, (), 0)
    return StoredPart(part, cut=cut)


def begun(*participants, min_pause=0.0, tolerable=None):
    coordinator = CheckpointCoordinator(1.0, 60.0, min_pause, tolerable, participants, 1, 0.0)
    assert list(coordinator.on_time(1.0)) == [Begin(1, False)]
    return coordinator


def test_the_end_of_a_subtask_that_has_met_no_barrier_is_its_part():
    coordinator = begun(1)
    end = stored(1, is_finished=True)
    assert list(coordinator.on_finished(1, end, 1.1)) == [Record(1, 1.0, (end,))]


def test_the_end_of_a_subtask_does_not_take_the_place_of_a_part_that_is_still_being_stored():
    coordinator = begun(1)
    assert list(coordinator.on_finished(1, stored(1, is_finished=True, cut=1), 1.1)) == []
    part = stored(1)
    assert list(coordinator.on_snapshot(1, 1, part, 1.2)) == [Record(1, 1.0, (part,))]


def test_a_checkpoint_is_recorded_when_all_have_stored_their_parts_and_complete_when_that_is_in_the_log():
    coordinator = begun(1, 2)
    assert list(coordinator.on_snapshot(2, 1, stored(2), 1.1)) == []
    (record,) = coordinator.on_snapshot(1, 1, stored(1), 1.2)
    assert record == Record(1, 1.0, (stored(1), stored(2)))
    assert coordinator.is_recording
    assert list(coordinator.on_recorded(1, 1.3)) == [Complete(1, False)]
    assert coordinator.next_look == 2.0


def test_the_next_one_waits_for_the_pause():
    coordinator = begun(1, min_pause=5.0)
    list(coordinator.on_snapshot(1, 1, stored(1), 1.1))
    list(coordinator.on_recorded(1, 1.5))
    assert coordinator.next_look == 6.5


def test_what_takes_too_long_is_aborted_and_each_failure_doubles_the_pause():
    coordinator, begins = begun(1), []
    now = 1.0
    for number in (1, 2, 3):
        now = coordinator.next_look
        (aborted,) = coordinator.on_time(now)
        assert aborted == Aborted(number, "it was not complete after 60 s")
        begins.append(coordinator.next_look - now)
        assert list(coordinator.on_time(coordinator.next_look)) == [Begin(number + 1, False)]
    assert begins == [1.0, 2.0, 4.0]


def test_a_part_for_an_aborted_checkpoint_is_passed_over():
    coordinator = begun(1, 2)
    assert list(coordinator.on_declined(2, 1, "no", 1.1)) == [Aborted(1, "no")]
    assert list(coordinator.on_snapshot(1, 1, stored(1), 1.2)) == []
    assert list(coordinator.on_time(coordinator.next_look)) == [Begin(2, False)]
    assert list(coordinator.on_snapshot(1, 1, stored(1), 9.0)) == []


@pytest.mark.parametrize("event", ["timeout", "decline"])
def test_rule_3_nothing_aborts_a_checkpoint_that_is_being_recorded(event):
    coordinator = begun(1)
    list(coordinator.on_snapshot(1, 1, stored(1), 1.1))
    late = coordinator.on_time(1e6) if event == "timeout" else coordinator.on_declined(1, 1, "no", 1.2)
    assert list(late) == []
    assert coordinator.next_look == math.inf
    assert list(coordinator.on_recorded(1, 1e6)) == [Complete(1, False)]


def test_metadata_that_could_not_be_stored_fails_the_checkpoint():
    coordinator = begun(1)
    list(coordinator.on_snapshot(1, 1, stored(1), 1.1))
    assert list(coordinator.on_not_recorded(1, "the disk is full", 1.2)) == [Aborted(1, "the disk is full")]
    assert coordinator.records[-1].why == "the disk is full"


def test_more_failures_in_a_row_than_are_tolerated_are_told_and_a_success_forgets_them():
    coordinator = begun(1, tolerable=1)
    assert list(coordinator.on_declined(1, 1, "no", 1.1)) == [Aborted(1, "no")]
    list(coordinator.on_time(coordinator.next_look))
    list(coordinator.on_snapshot(1, 2, stored(1), 3.0))
    list(coordinator.on_recorded(2, 3.1))
    for number in (3, 4):
        list(coordinator.on_time(coordinator.next_look))
        failed = list(coordinator.on_declined(1, number, "no", 9.0))
    assert failed == [Aborted(4, "no"), NoMoreCheckpoints(2, "no")]


def test_a_stop_begins_the_last_one_at_once_or_behind_the_one_under_way():
    idle = CheckpointCoordinator(60.0, 60.0, 0.0, None, [1], 1, 0.0)
    assert list(idle.on_stop(0.5)) == [Begin(1, True)]
    busy = begun(1)
    assert list(busy.on_stop(1.1)) == []
    list(busy.on_snapshot(1, 1, stored(1), 1.2))
    assert list(busy.on_recorded(1, 1.3)) == [Complete(1, False), Begin(2, True)]
    list(busy.on_snapshot(1, 2, stored(1), 1.4))
    assert list(busy.on_recorded(2, 1.5)) == [Complete(2, True)]
    assert busy.next_look == math.inf


def test_a_last_checkpoint_that_fails_is_tried_again():
    coordinator = CheckpointCoordinator(1.0, 60.0, 0.0, None, [1], 1, 0.0)
    list(coordinator.on_stop(0.5))
    assert list(coordinator.on_declined(1, 1, "no", 0.6)) == [Aborted(1, "no")]
    assert list(coordinator.on_time(coordinator.next_look)) == [Begin(2, True)]


def test_a_job_that_ends_begins_no_further_checkpoint():
    coordinator = CheckpointCoordinator(1.0, 60.0, 0.0, None, [1], 1, 0.0)
    coordinator.on_end()
    assert coordinator.next_look == math.inf
    assert list(coordinator.on_time(5.0)) == []


def test_rule_2_a_finished_subtask_takes_part_in_later_ones_with_what_it_has_not_published():
    coordinator = begun(1, 2)
    handles = (Prepared("sink", 0, "old", 1), Prepared("sink", 0, "last"))
    part = stored(1, is_finished=True)
    list(coordinator.on_finished(1, StoredPart(part.part, handles), 1.1))
    list(coordinator.on_snapshot(2, 1, stored(2), 1.2))
    list(coordinator.on_recorded(1, 1.3))
    coordinator.on_committed(1, 1)
    list(coordinator.on_time(coordinator.next_look))
    (record,) = coordinator.on_snapshot(2, 2, stored(2), 2.1)
    assert record.snapshots[0].prepared == (Prepared("sink", 0, "last"),)


def test_the_record_of_a_checkpoint_has_the_longest_times_and_who_was_last():
    coordinator = begun(1, 2)
    list(coordinator.on_snapshot(2, 1, StoredPart(stored(2).part, timing=CutTimes(0.5, 0.1, 0.2)), 1.1))
    list(coordinator.on_snapshot(1, 1, StoredPart(stored(1).part, timing=CutTimes(0.1, 0.3, 0.1)), 1.2))
    list(coordinator.on_recorded(1, 1.5))
    (told,) = coordinator.records
    assert (told.timing, told.slowest, told.took_s) == (CutTimes(0.5, 0.3, 0.2), 1, 0.5)


def test_after_the_end_of_the_job_a_part_that_comes_late_records_nothing():
    coordinator = begun(1)
    coordinator.on_end()
    assert list(coordinator.on_snapshot(1, 1, stored(1), 1.1)) == []
    assert not coordinator.is_recording
