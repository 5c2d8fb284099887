"""How records are spread over the channels of an edge."""

from fractions import Fraction

import pytest
from fake_port import FakePort
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import InternalError, InvalidKeyError
from sage_flow.keys import group_to_subtask, key_group
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator, Partitioning
from sage_flow.plan.location import Location
from sage_flow.plan.physical import REPLY, Edge
from sage_flow.runtime import outputs
from sage_flow.runtime.messages import EndOfInput, Reply, Ticket
from sage_flow.runtime.outputs import ChannelOutput, ReplyOutput

BY_LENGTH = Operator("key", kinds.KEY_BY, (len,), (False,), Location("job.py", 1))
TICKET = Ticket(7, 42, Fraction(1, 3), 5.0)


def output(partitioning, channels, *, key=None, index=0, max_parallelism=128):
    port = FakePort()
    edge = Edge(0, 0, 1, 0, None, partitioning, key)
    function = None if key is None else key.functions[0]
    return ChannelOutput(edge, list(range(channels)), port, index, max_parallelism, function), port


def send(out, records, ticket=None):
    for record in records:
        out.add(record)
    out.flush(ticket)


keys = st.one_of(st.text(max_size=3), st.integers(), st.none(), st.tuples(st.integers(0, 3), st.booleans()))


@given(st.lists(st.lists(keys, max_size=20), max_size=5), st.integers(2, 8), st.integers(8, 128))
def test_by_hash_a_record_goes_to_the_owner_of_its_key_group_in_order(batches, channels, max_parallelism):
    same = Operator("key", kinds.KEY_BY, (lambda value: value[0],), (False,), Location("job.py", 1))
    out, port = output(Partitioning.HASH, channels, key=same, max_parallelism=max_parallelism)
    numbered = [[(key, (b, n)) for n, key in enumerate(batch)] for b, batch in enumerate(batches)]
    for batch in numbered:
        send(out, batch)
    for channel in range(channels):
        assert port.records(channel) == [
            (value[0], value)
            for batch in numbered
            for value in batch
            if group_to_subtask(key_group(value[0], max_parallelism), channels, max_parallelism) == channel
        ]


def test_a_full_table_of_keys_starts_anew_and_routes_as_before(monkeypatch):
    out, port = output(Partitioning.HASH, 4, key=BY_LENGTH)
    words = ["x" * n for n in range(50)]
    send(out, words)
    before = [port.records(channel) for channel in range(4)]
    monkeypatch.setattr(outputs, "_KNOWN_KEYS", 5)
    out, port = output(Partitioning.HASH, 4, key=BY_LENGTH)
    send(out, words[:25])
    send(out, words[25:])
    assert [port.records(channel) for channel in range(4)] == before
    assert len(out._split._targets) <= 5


@pytest.mark.parametrize("key", [[1], float("nan")], ids=["unhashable", "nan"])
def test_a_key_that_cannot_place_its_record_is_refused_with_the_record(key):
    bad = Operator("key", kinds.KEY_BY, (lambda value: key,), (False,), Location("job.py", 1))
    out, _ = output(Partitioning.HASH, 2, key=bad)
    with pytest.raises(InvalidKeyError) as caught:
        send(out, ["the record"])
    assert caught.value.__notes__ == ["record    'the record'"]


def test_one_channel_gets_keyed_records_without_hashing():
    out, port = output(Partitioning.HASH, 1, key=BY_LENGTH)
    send(out, ["ab", "c"])
    assert port.records(0) == [(2, "ab"), (1, "c")]


@given(st.lists(st.lists(st.integers(), max_size=10), max_size=10), st.integers(2, 7), st.integers(0, 7))
def test_in_turn_record_n_goes_to_channel_n_however_the_records_come_in_batches(batches, channels, index):
    out, port = output(Partitioning.REBALANCE, channels, index=index)
    for batch in batches:
        send(out, batch)
    everything = [record for batch in batches for record in batch]
    for offset in range(channels):
        assert port.records((index + offset) % channels) == everything[offset::channels]


def test_a_broadcast_reaches_every_channel():
    out, port = output(Partitioning.BROADCAST, 3)
    send(out, [1, 2])
    assert [port.records(channel) for channel in range(3)] == [[1, 2]] * 3


@given(st.integers(1, 5000))
def test_long_batches_leave_in_frames_of_at_most_1024_records(count):
    out, port = output(Partitioning.FORWARD, 1)
    send(out, range(count), TICKET)
    assert port.records() == list(range(count))
    assert max(len(frame.records) for frame in port.sent) <= 1024
    assert all(len(frame.tickets) == len(frame.records) for frame in port.sent)


def test_what_was_sent_is_not_sent_again_and_nothing_makes_no_frame():
    out, port = output(Partitioning.FORWARD, 1)
    send(out, [1])
    send(out, [2])
    send(out, [])
    assert [frame.records for frame in port.sent] == [[1], [2]]


def test_the_buffer_stays_the_same_list():
    out, _ = output(Partitioning.FORWARD, 1)
    buffer = out.records
    send(out, [1])
    assert out.records is buffer == []


def test_a_flush_that_must_not_suspend_queues():
    out, port = output(Partitioning.REBALANCE, 2)
    out.add(1)
    out.flush(may_suspend=False)
    assert port.queued == [[1]]


def test_an_element_goes_to_every_channel():
    out, port = output(Partitioning.HASH, 3, key=BY_LENGTH)
    out.send_element(EndOfInput())
    assert [port.story(channel) for channel in range(3)] == [[EndOfInput()]] * 3


def test_forward_has_one_channel():
    with pytest.raises(InternalError, match="forward edge with 2 channels"):
        output(Partitioning.FORWARD, 2)


# --- replies ----------------------------------------------------------------------------------------------


def reply_output():
    port = FakePort()
    return ReplyOutput(Edge(0, 0, REPLY, 0, None, Partitioning.FORWARD), port), port


def test_a_reply_carries_the_shares_of_all_its_records():
    out, port = reply_output()
    send(out, ["a", "b"], TICKET)
    send(out, [], TICKET)
    assert port.replies == [(7, Reply(42, Fraction(2, 3), ("a", "b")))]


def test_a_reply_without_its_call_cannot_be():
    out, _ = reply_output()
    with pytest.raises(InternalError, match="ticket"):
        send(out, ["a"])
