"""What a message takes that the engine does not have: a class, a row, and a handler where it is obeyed on delivery."""

from typing import Any, NamedTuple

import pytest

from sage_flow.executors.port import ON_DELIVERY
from sage_flow.executors.threads import LocalTransport
from sage_flow.runtime.message_table import Family, MessageRow, Receiver
from sage_flow.runtime.messages import (
    MESSAGES,
    by_caller,
    by_type,
)
from tests.executors.exchanges import directory, open_end
from tests.executors.test_port import port_of

__all__ = ["directory", "open_end"]  # fixtures


class Remind(NamedTuple):
    """Asks a subtask for what it forgot."""

    reply_to: int
    what: Any


@pytest.fixture
def remind():
    """The message, obeyed by ports on delivery; what they got is in the list."""
    got = []
    ports = frozenset({Receiver.PORT})
    MESSAGES.add(MessageRow(Remind, Family.COMMAND, ports, by_caller, copied=("what",)))
    ON_DELIVERY[Remind] = lambda port, message: got.append(message)
    yield got
    del ON_DELIVERY[Remind]
    MESSAGES.remove(Remind)


def test_a_new_message_crosses_between_processes(remind, open_end):
    one, two = open_end(1), open_end(2)
    one.send(2, 7, Remind(3, ["keys"]))
    assert two.next() == (7, Remind(3, ["keys"]))


def test_a_new_message_has_the_lane_of_its_row(remind):
    number, lane = MESSAGES.routes[Remind]
    assert MESSAGES.types[number] is Remind
    assert lane(7, Remind(3, "")) == lane(7, Remind(3, "more"))
    assert lane(7, Remind(3, "")) != lane(7, Remind(4, ""))


def test_a_new_message_is_obeyed_on_delivery_and_leaves_the_inbox_alone(remind):
    port = port_of().port
    port.deliver(Remind(3, "keys"))
    assert remind == [Remind(3, "keys")]
    assert port.take(0) == []


def test_the_objects_of_a_new_message_are_copied_between_threads(remind):
    mine, transport = ["keys"], LocalTransport()
    transport.register(7, remind.append)
    transport.send(7, Remind(3, mine))
    mine.append("hat")
    assert remind == [Remind(3, ["keys"])]


def test_without_its_row_it_is_no_message(open_end):
    with pytest.raises(Exception, match="a Remind is not a message"):
        open_end(1).send(2, 7, Remind(3, "keys"))


class Note(NamedTuple):
    """Waits for its subtask's turn."""

    text: str


def test_a_new_message_for_the_subtask_waits_in_its_inbox():
    MESSAGES.add(MessageRow(Note, Family.COMMAND, frozenset({Receiver.SUBTASK}), by_type))
    try:
        port = port_of().port
        port.deliver(Note("later"))
        assert port.take(0) == [Note("later")]
    finally:
        MESSAGES.remove(Note)


def test_ports_have_a_handler_for_what_they_obey_and_for_nothing_that_concerns_others():
    on_delivery, in_turn = MESSAGES.obeyed_by(Receiver.PORT), MESSAGES.obeyed_by(Receiver.SUBTASK)
    assert on_delivery <= set(ON_DELIVERY) <= on_delivery | in_turn
