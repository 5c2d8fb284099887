"""The opcodes of the queue protocol."""

import pickle
import queue

import pytest

from sage_flow.channels import RPCQueueDescriptor, RPCQueueServer
from sage_flow.links.local_link import LocalLink
from sage_flow.queues.opcodes import Opcode

NUMBERS = {
    "ATTACH": 0, "PUT": 1, "RESERVE_ROOM": 2, "GET": 3, "ACKNOWLEDGE": 4, "REFUSE": 5, "WITHDRAW": 6, "LEAVE": 7,
    "CLOSE": 8, "STATISTICS": 9, "SIZE": 10, "RETURN_ROOM": 11, "FINISH": 12, "GIVE_BACK": 13,
    "ATTACHED": 20, "CONFLICT": 21, "ACCEPTED": 22, "ROOM": 23, "DELIVERY": 24, "NO_ROOM": 25, "NO_ITEM": 26,
    "WITHDRAWN": 27, "CLOSED": 28, "REPORT": 29, "ABANDONED": 30, "DROPPED": 31,
}  # fmt: skip


def test_the_numbers_of_a_protocol_version_do_not_change():
    assert {opcode.name: opcode.value for opcode in Opcode} == NUMBERS


def test_opcodes_of_both_sides_travel_as_plain_numbers(monkeypatch):
    sent, send = [], LocalLink.send
    monkeypatch.setattr(LocalLink, "send", lambda link, value, **how: sent.append(value) or send(link, value, **how))
    with RPCQueueServer("127.0.0.1", 0) as server:
        descriptor = RPCQueueDescriptor("127.0.0.1", server.port, key=server.key)
        descriptor.put_many(["a" * 300_000, "b"])
        assert descriptor.get_many(2)[1] == "b"
        with pytest.raises(queue.Empty):
            descriptor.get(timeout=0.001)
        descriptor.statistics()
        descriptor.close()
    opcodes = {message[1] for message in sent}
    assert {Opcode.ATTACH, Opcode.RESERVE_ROOM, Opcode.GET, Opcode.WITHDRAW, Opcode.DELIVERY, Opcode.REPORT} <= opcodes
    assert {type(opcode) for opcode in opcodes} == {int}
    assert b"Opcode" not in pickle.dumps([message[:2] for message in sent])
