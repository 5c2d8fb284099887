"""Sealed files: what comes back, and what is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.checkpoint import format as sealing
from sage_flow.checkpoint.format import FORMAT_VERSION, sealed, unsealed
from sage_flow.errors import CheckpointError


@given(st.binary())
def test_what_was_sealed_comes_back(payload):
    assert unsealed("chunk", sealed("chunk", payload), "f") == payload


@given(st.binary(max_size=40), st.data())
def test_a_file_with_a_flipped_bit_is_refused_by_name(payload, data):
    content = bytearray(sealed("chunk", payload))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CheckpointError, match=r"^/storage/f: "):
        unsealed("chunk", bytes(content), "/storage/f")


@given(st.binary(max_size=40), st.data())
def test_a_file_that_is_cut_off_anywhere_is_refused(payload, data):
    content = sealed("chunk", payload)
    with pytest.raises(CheckpointError, match=r"^f: is (cut off|empty)"):
        unsealed("chunk", content[: data.draw(st.integers(0, len(content) - 1))], "f")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 something else", "no file of sage_flow"),
        (sealed("chunk", b"1").replace(b"\r\n", b"\n"), "no file of sage_flow"),
        (sealed("chunk", b"1") + b"\n", "has bytes behind its end"),
        (sealed("log entry", b"1"), "is a log entry, where a chunk is expected"),
        (bytes(len(sealed("chunk", b"1"))), "no file of sage_flow"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused_with_the_reason(content, reason):
    with pytest.raises(CheckpointError, match=f"^f: .*{reason}.*; .*restore an older checkpoint"):
        unsealed("chunk", content, "f")


@pytest.mark.parametrize(
    ("version", "cure"),
    [(FORMAT_VERSION + 1, "that wrote it, or a later one$"), (FORMAT_VERSION - 1, "that wrote it$")],
)
def test_a_file_of_another_format_is_refused_with_both_versions(monkeypatch, version, cure):
    monkeypatch.setattr(sealing, "FORMAT_VERSION", version)
    content = sealed("chunk", b"1")
    monkeypatch.undo()
    expected = f"^f: has format {version}, .* reads format {FORMAT_VERSION}; use the version of sage_flow {cure}"
    with pytest.raises(CheckpointError, match=expected):
        unsealed("chunk", content, "f")


def test_the_layout_of_a_file_changes_only_with_its_version():
    assert FORMAT_VERSION == 2
    content = bytes.fromhex("73666c6f770d0a1a02000500030000000000000063") + b"hunk"
    assert sealed("chunk", b"abc")[: len(content)] == content
    assert len(sealed("chunk", b"abc")) == len(content) + 16 + 3
