"""jobs/nexmark/canonical.py: results that are equal have equal lines, and others have not."""

import hashlib

import pytest

from nexmark.canonical import canonical_line, canonical_lines, digest


def row(**columns):
    return {"auction": 7, "bidder": 8, "price": 9, "channel": "Apple", "channel_id": "0", **columns}


def test_a_line_is_compact_and_its_keys_are_sorted():
    line = canonical_line("q21", dict(reversed(row(channel_id=None, channel="café").items())))
    assert line == '{"auction":7,"bidder":8,"channel":"café","channel_id":null,"price":9}'


@pytest.mark.parametrize("wrong", [{"auction": 7}, {"auction": 7, "price": 9, "ts": 1}, {"auction": 7, "prize": 9}])
def test_a_row_with_other_columns_is_refused(wrong):
    with pytest.raises(ValueError, match="a row of q2 has the columns auction, price, not auction"):
        canonical_line("q2", wrong)


@pytest.mark.parametrize("value", [1.0, True, [1]])
def test_a_value_that_is_no_int_text_or_none_is_refused(value):
    with pytest.raises(TypeError, match="price of a row of q2 is"):
        canonical_line("q2", {"auction": 7, "price": value})


def test_lines_are_in_the_order_of_their_bytes():
    lines = canonical_lines("q21", [row(channel=channel) for channel in ("é", "a", "\U0001f600", "\uffee", "B", "b")])
    assert lines == sorted(lines, key=str.encode)
    assert len(lines) == 6


def test_a_digest_is_that_of_the_sorted_lines():
    assert digest(["b", "a"]) == digest(["a\n", "b\n"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert digest([]) == hashlib.sha256(b"").hexdigest()


def test_a_row_that_occurs_twice_counts_twice():
    assert digest(["a", "a"]) != digest(["a"])
