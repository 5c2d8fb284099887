"""The time of a call begins when its service is open; opening has a limit of its own. In made-up seconds."""

from types import SimpleNamespace

from fake_port import plan_of

from sage_flow.errors import ServiceTimeout
from sage_flow.runtime.calls import CallTable
from sage_flow.runtime.opening import Openings, OpeningServices


class Model:
    pass


def table_of(open_timeout_s=300.0):
    openings = Openings({"model": SimpleNamespace(open_timeout_s=open_timeout_s)}, 0.0)
    return CallTable(openings), openings


def call(table, began=0.0, timeout_s=10.0, limit=None):
    made = table.open("model", "model.ask", began, began + timeout_s)
    if limit is not None:
        made.limit = limit
    return made


def open_at(table, openings, when):
    openings.note("model", when)
    table.on_opened("model", openings)


def why(made):
    assert isinstance(made.outcome.error, ServiceTimeout)
    return str(made.outcome.error)


def test_a_call_whose_service_is_opening_is_not_late():
    table, _ = table_of()
    made = call(table)
    for now in (10.0, 20.0, 150.0, 299.9):
        assert table.expire(now) == []
        assert now < table.next_deadline <= 300.0
    assert made.outcome is None


def test_its_time_begins_when_the_service_is_open():
    table, openings = table_of()
    made = call(table)
    table.expire(10.0)
    open_at(table, openings, 11.0)
    assert table.next_deadline == 21.0
    assert table.expire(20.9) == []
    assert table.expire(21.0) == [made]
    assert why(made) == "model.ask gave no reply within 10 s"


def test_a_service_that_was_open_before_the_call_moves_nothing():
    table, openings = table_of()
    open_at(table, openings, 1.0)
    made = call(table, began=5.0)
    assert table.next_deadline == 15.0
    assert table.expire(15.0) == [made]


def test_whoever_looks_when_the_time_would_be_over_never_looks_too_late():
    """A caller that nobody wakes sleeps until the deadline as it was: the service may open at any time before that."""
    table, openings = table_of()
    call(table, timeout_s=10.0)
    table.expire(10.0)
    sleeps_until = table.next_deadline
    open_at(table, openings, 10.001)
    assert sleeps_until <= table.next_deadline


def test_beyond_the_limit_a_call_is_told_that_the_service_is_still_opening_and_since_when():
    table, _ = table_of(open_timeout_s=11.0)
    made = call(table)
    assert table.expire(10.0) == []
    assert table.expire(11.0) == [made]
    assert why(made) == (
        "model.ask was not answered: service 'model' is still opening, since 11 s (open_timeout is 11 s)"
    )
    later = call(table, began=15.0, timeout_s=2.0)
    assert table.expire(17.0) == [later]
    assert "since 17 s" in why(later)


def test_a_call_that_helps_to_answer_another_one_has_no_more_time_than_that():
    table, openings = table_of()
    made, other = call(table, timeout_s=4.0, limit=4.0), call(table, timeout_s=3.0, limit=5.0)
    assert table.expire(4.0) == [made]
    assert "still opening, since 4 s (the call that is being answered has no more time)" in why(made)
    open_at(table, openings, 4.5)
    assert table.next_deadline == 5.0
    assert table.expire(5.0) == [other]
    assert "gave no reply within 3 s" in why(other)


def test_a_service_that_has_moved_opens_again():
    table, openings = table_of()
    open_at(table, openings, 1.0)
    openings.forget("model", 100.0)
    call(table, began=100.0)
    assert table.expire(110.0) == []
    assert table.expire(399.0) == []
    assert len(table.expire(400.0)) == 1


def test_deadlines_that_were_moved_leave_the_heap():
    table, openings = table_of()
    made = call(table, timeout_s=0.001)
    now = 0.0
    while now < 290.0:
        now = table.next_deadline
        assert table.expire(now) == []
    open_at(table, openings, now)
    assert len(table._deadlines) <= 3
    assert table.expire(now + 0.001) == [made]


def test_a_service_is_open_once_all_its_replicas_are():
    plan = plan_of(
        lambda env: (env.register_service("model", Model, parallelism=2), env.from_collection([]).collect("x"))
    )
    first, second = plan.addresses(plan.services["model"].chain)
    services = OpeningServices(plan)
    assert services.replicas(second) == [first, second]
    assert services.on_opened(first) is None
    assert services.on_opened(second) == "model"
