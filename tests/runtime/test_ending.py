"""Who holds up the end of a job: asked after a while, and told apart from those that wait themselves."""

import math

from sage_flow.runtime.ending import ANSWER_S, Blocked, EndWatch
from sage_flow.runtime.messages import Located


def watch(*addresses, at=0.0):
    made = EndWatch(30.0)
    for address in addresses:
        made.begin(address, at)
    return made


def answered(made, now, *answers):
    """The verdict when these have answered."""
    asked = made.look(now)
    for address, left_s, *places in answers:
        assert address in asked
        made.on_located(Located(address, left_s, tuple(places)))
    return made.verdict(now)


def test_nobody_is_asked_before_the_grace_time_is_over():
    made = watch(1, at=5.0)
    assert made.next_look == 35.0
    assert made.look(34.9) == ()
    assert made.look(35.0) == (1,)


def test_what_is_in_user_code_that_nobody_waits_for_is_blocked():
    assert answered(watch(1, 2), 30.0, (1, -math.inf, "job.py:3 in get"), (2, -math.inf)) == (
        Blocked(1, ("job.py:3 in get",)),
    )


def test_what_somebody_waits_for_gets_that_time_and_another_while():
    made = watch(1)
    assert answered(made, 30.0, (1, 100.0, "job.py:3 in get")) == ()
    assert made.next_look == 160.0


def test_a_subtask_that_waits_for_another_one_is_not_blocked_while_that_may_go_on():
    made = watch(1, 2)
    assert answered(made, 30.0, (1, 100.0, "job.py:3 in get"), (2, -math.inf)) == ()
    assert made.next_look == 60.0
    assert answered(made, 60.0, (2, -math.inf)) == ()
    assert answered(made, 90.0, (2, -math.inf)) == ()


def test_subtasks_that_wait_for_nothing_that_could_come_are_blocked():
    assert answered(watch(1, 2), 30.0, (1, -math.inf), (2, -math.inf)) == (Blocked(1, ()), Blocked(2, ()))


def test_who_gives_no_answer_is_blocked():
    made = watch(1, 2)
    made.look(30.0)
    made.on_located(Located(2, -math.inf, ()))
    assert made.verdict(30.0) == ()
    assert made.next_look == 30.0 + ANSWER_S
    assert made.verdict(30.0 + ANSWER_S) == (Blocked(1, None),)


def test_what_has_ended_meanwhile_is_not_blocked():
    made = watch(1)
    made.look(30.0)
    made.over(1)
    assert made.verdict(40.0) == ()
    assert made.next_look == math.inf
    assert 1 not in made


def test_the_next_step_of_an_end_has_a_grace_time_of_its_own():
    made = watch(1)
    made.begin(1, 20.0)
    assert made.next_look == 50.0
    made.look(50.0)
    made.begin(1, 50.0)  # it went on just then
    made.on_located(Located(1, -math.inf, ("old",)))
    assert made.verdict(50.0) == ()
    assert made.next_look == 80.0


def test_a_job_that_is_cancelled_has_no_normal_end():
    made = watch(1)
    made.on_cancel(math.inf)
    assert made.next_look == math.inf


def test_the_time_that_a_subtask_needs_to_start_is_not_the_time_of_its_end():
    made = EndWatch(30.0, not_started=[1])
    made.begin(1, 0.0)
    assert made.next_look == math.inf
    made.start(1, 100.0)
    assert made.next_look == 130.0


def test_a_subtask_that_starts_before_its_end_begins_is_not_ending():
    made = EndWatch(30.0, not_started=[1])
    made.start(1, 100.0)
    assert made.next_look == math.inf


def test_after_a_cancel_nothing_ends_and_all_that_are_left_are_asked_once():
    made = EndWatch(30.0, not_started=[2])
    made.begin(2, 0.0)
    made.on_cancel(5.0)
    made.start(2, 1.0)
    made.begin(1, 1.0)
    assert 1 not in made
    assert made.next_look == 5.0
    assert made.look_once((1, 2), 4.9) == ()
    assert made.look_once((1, 2), 5.0) == (1, 2)
    assert made.look_once((1, 2), 6.0) == ()
    assert made.next_look == 5.0 + ANSWER_S


def test_before_a_restart_answers_are_waited_for_only_as_long_as_the_cancel_says():
    made = EndWatch(30.0)
    made.on_cancel(1.0, answer_s=0.5)
    assert made.look_once((1, 2), 1.0) == (1, 2)
    made.on_located(Located(1, 0.0, ("job.py:3 in f",)))
    assert not made.is_answered(1.4)
    assert made.is_answered(1.5)
    assert made.answers() == {1: ("job.py:3 in f",), 2: None}
