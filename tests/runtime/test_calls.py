"""Open calls: shares that sum to 1, and what comes of them."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import NoReply, ProtocolError, ServiceError, ServiceTimeout, ServiceUnavailable
from sage_flow.runtime.calls import CallTable, Outcome
from sage_flow.runtime.messages import Reply

trees = st.recursive(st.sampled_from(["output", "filtered"]), lambda sub: st.lists(sub, min_size=1, max_size=5))


def replies_of(tree, share=Fraction(1)):
    """The replies of a record that a service's pipeline splits as the tree says."""
    if isinstance(tree, str):
        return [(share, (tree,) if tree == "output" else ())]
    return [reply for branch in tree for reply in replies_of(branch, share / len(tree))]


@given(trees, st.randoms(use_true_random=False))
def test_a_call_is_complete_exactly_when_all_its_shares_are_back(tree, random):
    replies = replies_of(tree)
    random.shuffle(replies)
    table = CallTable()
    call = table.open("svc", "svc.process", 0.0, 10.0)
    for share, outputs in replies[:-1]:
        assert not table.on_reply(Reply(call.id, share, outputs), 0.5)
        assert call.outcome is None
    share, outputs = replies[-1]
    assert table.on_reply(Reply(call.id, share, outputs), 0.5)
    outcome = call.outcome
    match sum(len(outputs) for _, outputs in replies):
        case 0:
            assert isinstance(outcome.error, NoReply)
        case 1:
            assert outcome == Outcome(value="output")
        case many:
            assert isinstance(outcome.error, ServiceError)
            assert f"{many} outputs for one request" in str(outcome.error)


@given(trees, st.data())
def test_an_error_decides_a_call_at_once_whatever_else_is_under_way(tree, data):
    replies = replies_of(tree)
    before = data.draw(st.integers(0, len(replies) - 1))
    table = CallTable()
    call = table.open("svc", "svc.process", 0.0, 10.0)
    for share, outputs in replies[:before]:
        table.on_reply(Reply(call.id, share, outputs), 0.5)
    assert table.on_reply(Reply(call.id, 0, (), "packed"), 0.5)
    for share, outputs in replies[before:]:
        assert not table.on_reply(Reply(call.id, share, outputs), 0.5)
    assert call.outcome == Outcome(remote_error="packed")


@given(st.lists(st.sampled_from(["open", "reply", "end", "expire", "fail all"]), max_size=60), st.data())
def test_what_is_in_flight_is_what_was_opened_and_has_no_outcome(events, data):
    table = CallTable()
    opened, now = [], 0.0
    for event in events:
        now += 1.0
        waiting = [call for call in opened if call.outcome is None]
        if event == "open":
            service = data.draw(st.sampled_from(["a", "b"]))
            opened.append(table.open(service, service, now, now + data.draw(st.integers(1, 9))))
        elif event == "fail all":
            assert table.fail_all(ServiceUnavailable("gone"), now) == waiting
        elif event == "expire":
            late = table.expire(now)
            assert set(late) == {call for call in waiting if call.deadline <= now}
            assert all(isinstance(call.outcome.error, ServiceTimeout) for call in late)
        elif opened:
            call = data.draw(st.sampled_from(opened))
            if event == "reply":
                assert table.on_reply(Reply(call.id, 1, (call.id,)), now) is (call if call in waiting else None)
            else:
                assert table.end(call, Outcome(value="ended"), now) == (call in waiting)
        waiting = [call for call in opened if call.outcome is None]
        for service in ("a", "b"):
            assert table.in_flight(service) == sum(call.service == service for call in waiting)
        assert table.next_deadline == min((call.deadline for call in waiting), default=math.inf)
        counted = table.statistics().values()
        assert sum(s.calls for s in counted) == len(opened) - len(waiting)
        assert sum(s.in_flight for s in counted) == len(waiting)


def test_several_outputs_are_a_list_for_a_service_that_said_so():
    table = CallTable()
    call = table.open("svc", "svc.process", 0.0, 1.0, many=True)
    table.on_reply(Reply(call.id, Fraction(1, 2), (1,)), 0.5)
    table.on_reply(Reply(call.id, Fraction(1, 2), (2,)), 0.5)
    assert call.outcome == Outcome(value=[1, 2])
    one = table.open("svc", "svc.process", 0.0, 1.0, many=True)
    table.on_reply(Reply(one.id, 1, (1,)), 0.5)
    assert one.outcome == Outcome(value=[1])
    none = table.open("svc", "svc.process", 0.0, 1.0, many=True)
    table.on_reply(Reply(none.id, 1, ()), 0.5)
    assert isinstance(none.outcome.error, NoReply)


def test_statistics_tell_calls_from_errors_and_how_long_both_took():
    table = CallTable()
    for ms in range(1, 101):
        call = table.open("svc", "svc.get", 0.0, 1.0)
        table.on_reply(Reply(call.id, 1, (None,), "packed" if ms > 90 else None), ms / 1000)
    table.open("svc", "svc.get", 0.0, 1.0)
    told = table.statistics()["svc.get"]
    assert (told.calls, told.errors, told.in_flight) == (100, 10, 1)
    assert told.latency.percentile(50) == pytest.approx(0.050, rel=0.1)
    assert told.latency.percentile(99) == pytest.approx(0.099, rel=0.1)


def test_none_is_an_ordinary_reply():
    table = CallTable()
    call = table.open("svc", "svc.get", 0.0, 1.0)
    table.on_reply(Reply(call.id, 1, (None,)), 0.5)
    assert call.outcome == Outcome(value=None)


def test_a_late_reply_finds_no_call_and_is_ignored():
    table = CallTable()
    call = table.open("svc", "svc.get", 0.0, 1.0)
    table.expire(2.0)
    assert not table.on_reply(Reply(call.id, 1, ("late",)), 0.5)
    assert table.open("svc", "svc.get", 0.0, 1.0).id != call.id  # so that it cannot be taken for another one's


def test_shares_above_one_are_a_fault_of_the_engine():
    table = CallTable()
    call = table.open("svc", "svc.get", 0.0, 1.0)
    table.on_reply(Reply(call.id, Fraction(2, 3), ()), 0.5)
    with pytest.raises(ProtocolError, match=r"svc\.get sum to 4/3"):
        table.on_reply(Reply(call.id, Fraction(2, 3), ()), 0.5)


def test_calls_that_have_ended_do_not_stay_behind_an_older_one_that_is_open():
    table = CallTable()
    oldest = table.open("svc", "svc.wait", 0.0, 1.0)
    for number in range(10_000):
        call = table.open("svc", "svc.get", 0.0, 2.0 + number)
        table.end(call, Outcome(value=number), 0.0)
    assert len(table._deadlines) <= 100
    assert table.next_deadline == 1.0
    assert table.expire(1.0) == [oldest]
    assert table.next_deadline == math.inf


def test_deadlines_of_open_calls_are_kept_when_those_of_ended_ones_go():
    table = CallTable()
    calls = [table.open("svc", "svc.get", 0.0, float(1_000 - number)) for number in range(1_000)]
    for call in calls[::2]:
        table.end(call, Outcome(value=None), 0.0)
    for call in calls[1:700:2]:
        table.end(call, Outcome(value=None), 0.0)
    assert [call.deadline for call in table.expire(1_000.0)] == [float(n) for n in range(1, 300, 2)]
