"""Open calls: shares that sum to 1, and what comes of them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.channels.frame import Reply
from sage_flow.errors import NoReply, ProtocolError, ServiceError, ServiceUnavailable
from sage_flow.runtime.calls import CallTable, Outcome

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
    call = table.open("svc", "svc.process", 10.0)
    for share, outputs in replies[:-1]:
        assert not table.on_reply(Reply(call, share, outputs))
        assert table.outcome(call) is None
    share, outputs = replies[-1]
    assert table.on_reply(Reply(call, share, outputs))
    outcome = table.outcome(call)
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
    call = table.open("svc", "svc.process", 10.0)
    for share, outputs in replies[:before]:
        table.on_reply(Reply(call, share, outputs))
    assert table.on_reply(Reply(call, 0, (), "packed"))
    for share, outputs in replies[before:]:
        assert not table.on_reply(Reply(call, share, outputs))
    assert table.outcome(call) == Outcome(remote_error="packed")


@given(st.lists(st.sampled_from(["open", "reply", "close", "fail all"]), max_size=60), st.data())
def test_what_is_in_flight_is_what_was_opened_and_has_no_outcome(events, data):
    table = CallTable()
    model = {}  # call -> (service, whether it has its outcome)
    for event in events:
        if event == "open":
            service = data.draw(st.sampled_from(["a", "b"]))
            model[table.open(service, service, 1.0)] = (service, False)
        elif event == "fail all":
            table.fail_all("a", ServiceUnavailable("gone"))
            model = {call: (service, done or service == "a") for call, (service, done) in model.items()}
        elif model:
            call = data.draw(st.sampled_from(sorted(model)))
            if event == "reply":
                assert table.on_reply(Reply(call, 1, (call,))) == (not model[call][1])
                model[call] = (model[call][0], True)
            else:
                table.close(call)
                del model[call]
        for service in ("a", "b"):
            open_calls = [1 for of, done in model.values() if of == service and not done]
            assert table.in_flight(service) == len(open_calls)


def test_none_is_an_ordinary_reply():
    table = CallTable()
    call = table.open("svc", "svc.get", 1.0)
    table.on_reply(Reply(call, 1, (None,)))
    assert table.outcome(call) == Outcome(value=None)


def test_a_late_reply_finds_no_call_and_is_ignored():
    table = CallTable()
    call = table.open("svc", "svc.get", 1.0)
    table.close(call)
    assert not table.on_reply(Reply(call, 1, ("late",)))
    assert table.open("svc", "svc.get", 1.0) != call  # so that it cannot be taken for another one's


def test_shares_above_one_are_a_fault_of_the_engine():
    table = CallTable()
    call = table.open("svc", "svc.get", 1.0)
    table.on_reply(Reply(call, Fraction(2, 3), ()))
    with pytest.raises(ProtocolError, match=r"svc\.get sum to 4/3"):
        table.on_reply(Reply(call, Fraction(2, 3), ()))


def test_calls_of_a_service_that_is_gone_end_and_others_do_not():
    table = CallTable()
    answered, waiting, other = (table.open(service, service, 1.0) for service in ("a", "a", "b"))
    table.on_reply(Reply(answered, 1, (5,)))
    gone = ServiceUnavailable("gone")
    assert table.fail_all("a", gone)
    assert not table.fail_all("a", gone)
    assert table.outcome(answered) == Outcome(value=5)
    assert table.outcome(waiting) == Outcome(error=gone)
    assert table.outcome(other) is None
