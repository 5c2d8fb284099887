"""The session of a client at a hosted queue, event by event. `test_both_ends` has both ends against each other."""

import pytest

from sage_flow.queues.client_session import (
    Attached,
    ClientSession,
    LocalAnswer,
    Notify,
    QueueRequest,
    Redial,
    Send,
    Settle,
)
from sage_flow.queues.opcodes import ANYBODY, OWNER, Opcode

OLD, NEW = "the old connection", "the new one"


def attached(part=ANYBODY):
    session = ClientSession(("scope", "queue", 0, part), "s")
    session.attach(OLD)
    assert session.attached(OLD, "host", False, 0.0) == [Attached(OLD, False)]
    return session


def ask(session, *message, watcher=None):
    request = QueueRequest(next(session.numbers), message, 0.0)
    session.request(request, 0.0, watcher)
    return request


def put(session, watcher=None):
    return ask(session, Opcode.PUT, True, [((b"a",), 1, 1)], watcher is not None, watcher=watcher)


def get(session, holds=False):
    return ask(session, Opcode.GET, True, 1, holds)


def delivery(number):
    return number, [((b"a",), 0, 1, 0.0, 0)]


def attach_message(session, connection=NEW):
    """By name, what the ATTACH over the connection says."""
    names = ("opcode", "scope", "channel", "maxsize", "part", "host", "session", "received", "gets", "refused")
    return dict(zip((*names, "attempt", "epoch"), session.attach(connection).message, strict=True))


def come_back(session, known=True, host="host"):
    session.on_lost(OLD)
    session.attach(NEW)
    return session.attached(NEW, host, known, 5.0)


def settled(decisions):
    return [decision for decision in decisions if isinstance(decision, Settle)]


def sent(decisions):
    return [decision.message[0] for decision in decisions if isinstance(decision, Send)]


def test_an_answer_settles_its_request_once():
    session = attached()
    request = put(session)
    answer = (Opcode.ACCEPTED,)
    assert session.received(OLD, Opcode.ACCEPTED, request.number) == [Settle(request, answer)]
    assert session.received(OLD, Opcode.ACCEPTED, request.number) == []
    assert request.answer == answer


def test_without_a_connection_requests_wait_for_one_and_are_sent_with_their_age():
    session = ClientSession(("scope", "queue", 0, ANYBODY), "s")
    request = QueueRequest(1, (Opcode.PUT, True, [((b"a",), 1, 1)], False), 2.0)
    assert session.request(request, 2.0) == []
    session.attach(OLD)
    _, send = session.attached(OLD, "host", False, 5.0)
    assert send.message == (Opcode.PUT, 1, 1, True, [((b"a",), 1, 1)], False, 3.0)


def test_open_requests_are_made_again_and_answered_ones_are_not():
    session = attached()
    done, waiting = put(session), get(session)
    session.received(OLD, Opcode.ACCEPTED, done.number)
    (again, send) = come_back(session)
    assert again == Attached(NEW, True)
    assert (send.message[:2], send.is_repeated) == ((Opcode.GET, waiting.number), True)


def test_what_an_older_connection_brings_does_not_count():
    session = attached()
    request = get(session)
    session.on_lost(OLD)
    session.attach(NEW)
    assert session.received(OLD, Opcode.DELIVERY, request.number, *delivery(1)) == []
    assert session.attached(OLD, "host", True, 0.0) == []


def test_what_was_read_before_the_next_attach_counts_and_is_named_there():
    session = attached()
    request = get(session)
    session.on_lost(OLD)
    assert settled(session.received(OLD, Opcode.DELIVERY, request.number, *delivery(1)))
    assert attach_message(session)["received"] == 1


def test_a_lost_connection_is_dialed_by_the_threads_that_wait():
    session = attached()
    request = get(session)
    assert session.on_lost(OLD) == Redial([request], needs_thread=False, was_attached=True)
    assert session.on_lost(OLD) == Redial([request], needs_thread=False, was_attached=False)


def test_a_lost_connection_is_dialed_by_a_thread_of_its_own_while_items_are_held():
    session = attached()
    session.received(OLD, Opcode.DELIVERY, get(session, holds=True).number, *delivery(1))
    assert session.on_lost(OLD).needs_thread


def test_a_refused_delivery_is_named_at_the_next_attach_until_a_later_get_is_answered():
    session = attached()
    unwanted, wanted = get(session), get(session)
    session.abandon(unwanted)
    assert sent(session.received(OLD, Opcode.DELIVERY, unwanted.number, *delivery(1))) == [Opcode.REFUSE]
    session.received(OLD, Opcode.DELIVERY, wanted.number, *delivery(2))  # asked for before the refusal
    told = attach_message(session)
    assert (told["received"], told["refused"]) == (2, [1])
    session.attached(NEW, "host", True, 0.0)
    session.received(NEW, Opcode.DELIVERY, get(session).number, *delivery(3))
    assert attach_message(session, OLD)["refused"] == []


def test_room_for_a_put_that_was_abandoned_is_returned():
    session = attached()
    request = ask(session, Opcode.RESERVE_ROOM, True, 1)
    session.abandon(request)
    assert sent(session.received(OLD, Opcode.ROOM, request.number)) == [Opcode.RETURN_ROOM]


def test_a_put_is_in_doubt_only_if_it_was_sent_and_the_host_has_forgotten_the_session():
    session = attached()
    before = put(session)
    session.on_lost(OLD)
    after = put(session)
    session.attach(NEW)
    decisions = session.attached(NEW, "host", False, 0.0)
    assert settled(decisions) == [Settle(before, (LocalAnswer.IN_DOUBT,))]
    assert [decision.request for decision in decisions if isinstance(decision, Send)] == [after]


def test_a_put_that_the_connection_did_not_take_is_not_in_doubt():
    session = attached()
    request = QueueRequest(1, (Opcode.PUT, True, [((b"a",), 1, 1)], False), 0.0)
    (send,) = session.request(request, 0.0)
    session.not_sent(send)
    assert sent(come_back(session, known=False)) == [Opcode.PUT]


def test_items_of_a_session_that_the_host_has_forgotten_are_not_settled():
    session = attached()
    decisions = session.received(OLD, Opcode.DELIVERY, get(session, holds=True).number, *delivery(1))
    *_, generation = settled(decisions)[0].answer
    come_back(session, known=False)
    assert session.settle_item(generation, Opcode.FINISH, 1, 0) == []


def test_items_that_were_settled_without_a_connection_are_settled_at_the_next_one():
    session = attached()
    decisions = session.received(OLD, Opcode.DELIVERY, get(session, holds=True).number, *delivery(1))
    *_, generation = settled(decisions)[0].answer
    session.on_lost(OLD)
    assert session.settle_item(generation, Opcode.GIVE_BACK, 1, 0, True) == []
    session.attach(NEW)
    assert Send(NEW, (Opcode.GIVE_BACK, 1, 0, True)) in session.attached(NEW, "host", True, 0.0)


def test_a_host_that_was_started_anew_loses_the_queue():
    session = attached()
    request = put(session, watcher="watcher")
    decisions = come_back(session, host="another host")
    assert settled(decisions)[0].request is request
    assert Notify("watcher", True) in decisions
    assert session.lost
    assert "restarted" in session.closed


def test_a_queue_ends_with_the_session_of_its_owner():
    session = attached(OWNER)
    request = get(session)
    assert settled(come_back(session, known=False))[0].request is request
    assert session.closed
    assert not session.lost


def test_each_attach_has_a_number_and_names_the_one_that_created_the_session():
    session = attached()
    assert [attach_message(session, connection)["attempt"] for connection in (NEW, OLD, NEW)] == [2, 3, 4]
    assert attach_message(session)["epoch"] == 1
    session.attached(NEW, "host", False, 0.0)
    assert attach_message(session)["epoch"] == 5


@pytest.mark.parametrize(("opcode", "is_lost"), [(Opcode.ABANDONED, False), (Opcode.DROPPED, True)])
def test_who_watches_a_put_hears_what_becomes_of_its_item(opcode, is_lost):
    session = attached()
    request = put(session, watcher="watcher")
    session.received(OLD, Opcode.ACCEPTED, request.number)
    assert session.received(OLD, opcode, request.number) == [Notify("watcher", is_lost)]
    session.abandon(request)
    assert session.received(OLD, opcode, request.number) == []


def test_a_request_that_cannot_be_sent_has_failed_and_needs_no_connection():
    session = attached()
    error = ValueError("too long")
    request = put(session, watcher="watcher")
    assert session.fail(request, error) == [Settle(request, (LocalAnswer.FAILED, error))]
    session.on_lost(OLD)
    assert not session.needs_thread
