"""The forms of blocks, definitions and fragments; anything that is none is refused."""

import ast
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import CodecError
from sage_flow.wire import frames as wire
from sage_flow.wire.frames import (
    FRAGMENT_LIMIT,
    fragments,
    is_stream,
    pack_block,
    pack_definitions,
    unpack_block,
    unpack_definitions,
)


@pytest.mark.parametrize("name", ["codec", "culprit", "handshake", "lanes", "reader", "frames"])
def test_the_form_of_messages_is_decided_without_io_threads_or_clocks(name):
    tree = ast.parse(pathlib.Path(wire.__file__).with_name(f"{name}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"socket", "selectors", "threading", "time", "os", "ray"}


@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=3),
    st.lists(st.binary(max_size=70), max_size=4),
)
def test_a_block_gives_back_its_parts(stream, buffers):
    block = b"".join(pack_block(stream, buffers))
    assert not is_stream(block)
    stream_back, buffers_back = unpack_block(memoryview(block))
    assert (bytes(stream_back), list(map(bytes, buffers_back))) == (b"".join(stream), buffers)


def test_buffers_of_a_block_are_aligned():
    pieces = pack_block([b"abc"], [b"x", b"yz"])
    for buffer in (b"x", b"yz"):
        assert len(b"".join(pieces[: pieces.index(buffer)])) % 16 == 0


@given(st.data())
def test_a_block_of_another_length_is_refused(data):
    block = b"".join(pack_block([b"stream"], [b"buffer", b"b"]))
    cut = data.draw(st.integers(0, len(block) - 1))
    for wrong in (block[:cut], block + b"x"):
        with pytest.raises(CodecError):
            unpack_block(memoryview(wrong))


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=30)), max_size=4),
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
    st.data(),
)
def test_definitions_come_back_and_no_other_length_is_accepted(definitions, dead, data):
    payload = b"".join(pack_definitions(definitions, dead))
    assert unpack_definitions(memoryview(payload)) == (definitions, tuple(dead))
    cut = data.draw(st.integers(0, len(payload) - 1))
    for wrong in (payload[:cut], payload + b"x"):
        with pytest.raises(CodecError):
            unpack_definitions(memoryview(wrong))


@given(st.lists(st.sampled_from([0, 3, 262_143, 262_144, 700_000]), max_size=6))
def test_fragments_carry_all_and_are_not_longer_than_they_may(sizes):
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    frames = list(fragments(7, pieces))
    assert all(0 < sum(map(len, frame[1:])) <= FRAGMENT_LIMIT for frame in frames)
    assert b"".join(piece for frame in frames for piece in frame[1:]) == b"".join(pieces)


def test_fragments_copy_nothing():
    piece = bytearray(600_000)
    frames = list(fragments(7, [memoryview(piece)]))
    piece[0] = piece[-1] = 1
    assert frames[0][1][0] == frames[-1][-1][-1] == 1
