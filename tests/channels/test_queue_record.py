"""Counts, rates and stories of queues."""

from sage_flow.channels.queue_record import QueueRecord


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


def test_the_story_is_bounded_and_ends_with_the_last_event():
    record = QueueRecord(5.0)
    for number in range(1000):
        record.tell(6.5, f"event {number}")
    assert len(record.story()) == 32
    assert record.story()[-1] == "1.500 s event 999"
