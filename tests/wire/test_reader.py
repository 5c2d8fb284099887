"""Messages survive any split of their bytes and any mixture of their fragments; nothing else gets through."""

import ctypes
import itertools
import pathlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.errors import ProtocolError
from sage_flow.wire import frames as wire
from sage_flow.wire.frames import DEFINITIONS, FRAGMENT_LIMIT, MESSAGE, STREAMS, begin, fragments, header
from sage_flow.wire.reader import FrameReader


def frame(payload, kind=MESSAGE):
    return header(kind, len(payload)) + payload


def split(stream, payload, kind=MESSAGE):
    """The frames of a payload in fragments."""
    return [begin(stream, kind, len(payload)), *(b"".join(pieces) for pieces in fragments(stream, [payload]))]


def fragment(stream, data):
    return header(wire.FRAGMENT, 4 + len(data)) + wire.FRAGMENT_HEAD.pack(stream) + data


def pieces_of(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def messages(payloads):
    return [(MESSAGE, payload) for payload in payloads]


SIZES = [70_000, 131_056, 131_057, FRAGMENT_LIMIT]
PAYLOADS = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([bytes([size % 251]) * size for size in SIZES])), max_size=5
)
LARGE = st.lists(st.sampled_from([FRAGMENT_LIMIT + 1, 600_000, 5_000_000, 1]), min_size=1, max_size=4)


@settings(deadline=None)
@given(PAYLOADS, st.lists(st.integers(min_value=0), max_size=12))
def test_payloads_survive_any_split_of_the_bytes(payloads, cuts):
    reader, received = FrameReader(), []
    for piece in pieces_of(b"".join(map(frame, payloads)), cuts):
        received += reader.feed(piece)
    assert received == messages(payloads)
    assert not reader.inside_a_message


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_payloads_survive_one_byte_at_a_time(payloads):
    reader = FrameReader()
    stream = b"".join(map(frame, payloads)) + b"".join(split(1, b"in fragments"))
    received = [payload for byte in stream for payload in reader.feed(bytes([byte]))]
    assert received == messages([*payloads, b"in fragments"])


@settings(deadline=None)
@given(PAYLOADS, LARGE, st.integers(1000, 400_000), st.randoms(use_true_random=False))
def test_messages_survive_any_mixture_of_their_fragments(small, large, most, random):
    payloads = [bytes([number + 1]) * size for number, size in enumerate(large)]
    lines = [split(number, payload) for number, payload in enumerate(payloads)] + [[frame(one)] for one in small]
    stream = b""
    while lines:
        line = random.choice(lines)
        stream += line.pop(0)
        lines = [line for line in lines if line]
    reader, received, rest = FrameReader(), [], memoryview(stream)
    while rest:  # as a socket does: it writes where the bytes belong
        space = reader.space()
        count = min(most, len(space), len(rest))
        space[:count], rest = rest[:count], rest[count:]
        received += reader.filled(count)
    assert sorted((kind, bytes(payload)) for kind, payload in received) == sorted(messages([*payloads, *small]))
    assert not reader.inside_a_message


def test_each_payload_has_memory_of_its_own():
    (_, first), (_, second) = FrameReader().feed(frame(b"one") + frame(b"two"))
    first[:] = b"..."
    assert second == b"two"


def test_what_comes_between_the_fragments_of_a_message_is_complete_before_it():
    reader = FrameReader()
    first, second = split(1, b"x" * (FRAGMENT_LIMIT + 1))[1:]
    assert reader.feed(begin(1, MESSAGE, FRAGMENT_LIMIT + 1) + first) == []
    assert reader.feed(frame(b"small") + frame(b"news", DEFINITIONS)) == [(MESSAGE, b"small"), (DEFINITIONS, b"news")]
    assert reader.feed(second) == [(MESSAGE, b"x" * (FRAGMENT_LIMIT + 1))]


def test_a_reader_says_whether_a_message_has_begun():
    reader = FrameReader()
    assert not reader.inside_a_message
    for piece in (frame(b"ab")[:3], frame(b"ab")[3:-1]):
        assert reader.feed(piece) == []
        assert reader.inside_a_message
    assert reader.feed(frame(b"ab")[-1:]) == messages([b"ab"])
    assert not reader.inside_a_message
    reader.feed(begin(1, MESSAGE, 2) + fragment(1, b"a"))
    assert reader.inside_a_message


def test_a_message_over_the_limit_is_refused():
    for data in (frame(b"01234567890"), begin(1, MESSAGE, 11), header(MESSAGE, 1 << 62)):
        with pytest.raises(ProtocolError, match=r"over the limit of 10|must not have"):
            FrameReader(limit=10).feed(data)
    assert FrameReader(limit=10).feed(frame(b"0123456789")) == messages([b"0123456789"])


def test_nobody_is_believed_a_length():
    data = b"".join(begin(stream, MESSAGE, 1 << 30) + fragment(stream, b"x" * 1000) for stream in range(STREAMS))
    before = resident_mb()
    reader = FrameReader()
    reader.feed(data)
    assert reader.inside_a_message
    assert resident_mb() - before < 3 * STREAMS  # a huge page each, and no more


def resident_mb():
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) >> 10


@pytest.mark.parametrize("size", [(4 << 20) - 1, 4 << 20, 5_000_001])
def test_a_large_message_can_be_written_to_and_is_aligned(size):
    sent = bytes(range(251)) * (size // 251) + b"x" * (size % 251)
    ((_, payload),) = FrameReader().feed(b"".join(split(1, sent)))
    assert payload == sent
    memoryview(payload)[-1] = 7
    assert payload[-1] == 7
    assert ctypes.addressof(ctypes.c_char.from_buffer(payload)) % 16 == 0


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "where a message should begin"),
        (
            wire.HEADER.pack(b"SGF", wire.WIRE_VERSION + 1, MESSAGE, 0),
            f"wire version {wire.WIRE_VERSION + 1}, this process speaks {wire.WIRE_VERSION}",
        ),
        (header(wire.HELLO, 0), "kind 1 after the handshake"),
        (header(99, 0), "kind 99 after the handshake"),
        (header(MESSAGE, FRAGMENT_LIMIT + 1), "kind 0 with 262145 bytes"),
        (header(wire.FRAGMENT, FRAGMENT_LIMIT + 5), "kind 8 with 262149 bytes"),
        (header(wire.FRAGMENT, 4) + bytes(4), "kind 8 with 4 bytes"),
        (header(wire.BEGIN, 15) + bytes(15), "kind 7 with 15 bytes"),
        (begin(1, MESSAGE, 0), "stream 1 of kind 0 and 0 bytes"),
        (begin(1, wire.FRAGMENT, 10), "stream 1 of kind 8"),
        (2 * begin(1, MESSAGE, 10), "stream 1 of kind 0 and 10 bytes beside 1 others"),
        (fragment(1, b"x"), "a fragment of 1 bytes that no message of stream 1 can have"),
        (begin(1, MESSAGE, 2) + fragment(2, b"x"), "no message of stream 2"),
        (begin(1, MESSAGE, 2) + fragment(1, b"xxx"), "a fragment of 3 bytes"),
        (b"".join(split(1, b"xx")) + fragment(1, b"x"), "no message of stream 1"),
        (b"".join(begin(stream, MESSAGE, 2) for stream in range(STREAMS + 2)), "beside 65 others"),
    ],
)
def test_what_is_not_in_order_is_refused(data, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        FrameReader().feed(frame(b"fine") + data)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_no_bytes_raise_anything_else(garbage):
    reader = FrameReader()
    try:
        for data in garbage:
            reader.feed(data)
    except ProtocolError:
        pass


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([MESSAGE, DEFINITIONS, wire.BEGIN, wire.FRAGMENT]), st.binary(max_size=40))))
def test_no_frames_raise_anything_else(frames):
    reader = FrameReader()
    try:
        for kind, payload in frames:
            reader.feed(frame(payload, kind))
    except ProtocolError:
        pass
