"""Frames survive any split of their bytes; anything that is not one is refused."""

import ast
import itertools
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.channels import wire
from sage_flow.channels.wire import FrameReader, header, is_stream, pack_block, unpack_block
from sage_flow.errors import CodecError, ProtocolError


@pytest.mark.parametrize("name", ["codec", "culprit", "handshake", "wire"])
def test_the_form_of_messages_is_decided_without_io_threads_or_clocks(name):
    tree = ast.parse(pathlib.Path(wire.__file__).with_name(f"{name}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"socket", "selectors", "threading", "time", "os", "ray"}


def frame(payload):
    return header(wire.MESSAGE, len(payload)) + payload


def pieces_of(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


payload_lists = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"m" * 70_000, b"l" * 131_056, b"x" * 131_057, b"h" * 300_000])),
    max_size=5,
)


@settings(deadline=None)
@given(payload_lists, st.lists(st.integers(min_value=0), max_size=12))
def test_payloads_survive_any_split_of_the_bytes(payloads, cuts):
    reader, received = FrameReader(), []
    for piece in pieces_of(b"".join(map(frame, payloads)), cuts):
        received += reader.feed(piece)
    assert received == payloads
    assert not reader.inside_a_frame


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_payloads_survive_one_byte_at_a_time(payloads):
    reader = FrameReader()
    received = [payload for byte in b"".join(map(frame, payloads)) for payload in reader.feed(bytes([byte]))]
    assert received == payloads


@settings(deadline=None)
@given(payload_lists, st.integers(1000, 100_000))
def test_a_socket_may_write_where_the_bytes_belong(payloads, most):
    stream, reader, received = memoryview(b"".join(map(frame, payloads))), FrameReader(), []
    while stream:
        space = reader.space()
        count = min(most, len(space), len(stream))
        space[:count], stream = stream[:count], stream[count:]
        received += reader.filled(count)
    assert received == payloads


def test_each_payload_has_memory_of_its_own():
    first, second = FrameReader().feed(frame(b"one") + frame(b"two"))
    first[:] = b"..."
    assert second == b"two"


def test_a_reader_says_whether_a_frame_has_begun():
    reader = FrameReader()
    assert not reader.inside_a_frame
    for piece in (frame(b"ab")[:3], frame(b"ab")[3:-1]):
        assert reader.feed(piece) == []
        assert reader.inside_a_frame
    assert reader.feed(frame(b"ab")[-1:]) == [b"ab"]
    assert not reader.inside_a_frame


def test_a_length_over_the_limit_is_refused_before_anything_is_allocated():
    with pytest.raises(ProtocolError, match="over the limit of 10"):
        FrameReader(limit=10).feed(header(wire.MESSAGE, 1 << 62))
    assert FrameReader(limit=10).feed(frame(b"0123456789")) == [b"0123456789"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "where a message should begin"),
        (wire.HEADER.pack(b"SGF", wire.WIRE_VERSION + 1, wire.MESSAGE, 0), "wire version 2"),
        (header(wire.HELLO, 0), "after the handshake"),
    ],
)
def test_what_is_not_a_message_is_refused(data, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        FrameReader().feed(frame(b"fine") + data)


@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=3),
    st.lists(st.binary(max_size=70), max_size=4),
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
)
def test_a_block_gives_back_its_parts(stream, buffers, dead):
    block = b"".join(pack_block(stream, buffers, dead))
    assert not is_stream(block)
    stream_back, buffers_back, dead_back = unpack_block(memoryview(block))
    assert (bytes(stream_back), list(map(bytes, buffers_back)), list(dead_back)) == (b"".join(stream), buffers, dead)


def test_buffers_of_a_block_are_aligned():
    pieces = pack_block([b"abc"], [b"x", b"yz"], [7])
    for buffer in (b"x", b"yz"):
        assert len(b"".join(pieces[: pieces.index(buffer)])) % 16 == 0


@given(st.data())
def test_a_block_of_another_length_is_refused(data):
    block = b"".join(pack_block([b"stream"], [b"buffer", b"b"], [1]))
    cut = data.draw(st.integers(0, len(block) - 1))
    for wrong in (block[:cut], block + b"x"):
        with pytest.raises(CodecError):
            unpack_block(memoryview(wrong))
