"""How the time of a subtask is divided."""

from sage_flow.runtime.work_time import Wait, WorkClock, WorkTimes, mean_of


def test_what_is_no_wait_is_busy_time():
    clock = WorkClock(10.0)
    clock.begin(Wait.IDLE, 12.0)
    clock.end(15.0)
    assert clock.times(16.0) == WorkTimes(busy_s=3.0, idle_s=3.0)


def test_a_wait_under_way_counts_up_to_now():
    clock = WorkClock(0.0)
    clock.begin(Wait.CREDIT, 1.0)
    assert clock.times(5.0) == WorkTimes(busy_s=1.0, credit_s=4.0)
    assert clock.times(7.0) == WorkTimes(busy_s=1.0, credit_s=6.0)


def test_a_wait_inside_another_one_belongs_to_that():
    clock = WorkClock(0.0)
    assert clock.begin(Wait.CREDIT, 0.0)
    assert not clock.begin(Wait.CALLS, 1.0)
    clock.end(4.0)
    assert clock.times(4.0) == WorkTimes(credit_s=4.0)


def test_the_mean_of_several_threads_adds_up_to_the_time_that_has_passed():
    first, second = WorkClock(0.0), WorkClock(0.0)
    first.begin(Wait.CALLS, 2.0)
    assert mean_of([first.times(4.0), second.times(4.0)]) == WorkTimes(busy_s=3.0, calls_s=1.0)
    assert mean_of([]) == WorkTimes()
