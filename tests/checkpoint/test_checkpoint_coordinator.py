"""When a checkpoint is complete, and with which parts."""

from sage_flow.checkpoint.coordinator import Begin, CheckpointCoordinator, Record, StoredPart
from sage_flow.checkpoint.metadata import SubtaskPart


def stored(address, *, is_finished=False, cut=0):
    part = SubtaskPart(address, (f"op-{address}",), 0, 1, is_finished, (), 0)
    return StoredPart(part, cut=cut)


def begun(*participants):
    coordinator = CheckpointCoordinator(1.0, 60.0, 0.0, None, participants, 1, 0.0)
    assert list(coordinator.on_time(1.0)) == [Begin(1, False)]
    return coordinator


def test_the_end_of_a_subtask_that_has_met_no_barrier_is_its_part():
    coordinator = begun(1)
    end = stored(1, is_finished=True)
    assert list(coordinator.on_finished(1, end, 1.1)) == [Record(1, (end,))]


def test_the_end_of_a_subtask_does_not_take_the_place_of_a_part_that_is_still_being_stored():
    coordinator = begun(1)
    assert list(coordinator.on_finished(1, stored(1, is_finished=True, cut=1), 1.1)) == []
    part = stored(1)
    assert list(coordinator.on_snapshot(1, 1, part, 1.2)) == [Record(1, (part,))]
