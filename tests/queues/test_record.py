"""Counts, rates and stories of queues."""

from sage_flow.queues.record import QueueRecord


def test_a_rate_is_that_of_the_last_ten_seconds():
    record = QueueRecord(100.0)
    for second in range(100, 130):
        record.put(second + 0.5, 7)
    told = record.statistics(129.9)
    assert told["puts"] == 210
    assert told["puts_per_s"] == 7
    assert record.statistics(134.9)["puts_per_s"] == 3.5
    assert record.statistics(1000.0)["puts_per_s"] == 0


def test_a_young_queue_is_not_divided_by_ten_seconds():
    record = QueueRecord(0.0)
    record.got(0.1, 30)
    record.got(2.0, 30)
    assert record.statistics(2.0)["gets_per_s"] == 30


def test_the_story_counts_from_the_beginning_of_the_queue():
    record = QueueRecord(5.0)
    record.note(6.5, "event")
    assert record.statistics(7.0)["story"] == ((0.0, "created"), (1.5, "event"))
