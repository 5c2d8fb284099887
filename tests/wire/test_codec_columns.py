"""Columns of memory cross without a copy on the way in, and take along only what belongs to them."""

import pytest

from sage_flow.wire.codec import Decoder, Encoder, copy_value
from tests.wire.columns import column_kind, every_kind


def crossed(value, **options):
    """(the value on the other side, the bytes it took)"""
    block = bytearray(b"".join(Encoder().encode(value, **options)))
    return Decoder().decode(block), block


@every_kind
def test_columns_come_back_equal_and_are_views_of_the_message(kind):
    numpy = pytest.importorskip("numpy")
    columns, value = column_kind(kind)
    (odd, received), block = crossed(["odd", value])
    assert odd == "odd"
    assert columns.equal(received, value)
    start = numpy.frombuffer(block, "u1").__array_interface__["data"][0]
    found = columns.buffers(received)
    assert found
    for address, size in found:
        assert start <= address <= address + size <= start + len(block)
        assert address % 8 == 0


@every_kind
def test_columns_take_little_more_than_their_bytes(kind):
    _, value = column_kind(kind)
    _, block = crossed(value)
    assert len(block) < 1.1 * value.nbytes + 2000


@every_kind
def test_a_copy_shares_no_memory(kind):
    columns, value = column_kind(kind)
    copy = copy_value([value])[0]
    assert columns.equal(copy, value)
    mine = columns.buffers(value)
    for start, size in columns.buffers(copy):
        assert all(start + size <= other or other + length <= start for other, length in mine)


def test_an_empty_slice_comes_back():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    _, table = column_kind("arrow table")
    for value in (table.slice(5, 0), table.to_batches()[0].slice(5, 0), pyarrow.table({})):
        assert crossed(value)[0].equals(value)


def test_a_slice_keeps_the_metadata_of_its_schema():
    _, table = column_kind("arrow slice")
    value = table.replace_schema_metadata({"unit": "EUR"})
    assert crossed(value)[0].schema.metadata == {b"unit": b"EUR"}


def test_the_slices_of_a_table_do_not_take_it_along_each():
    _, table = column_kind("arrow table")
    blocks = [crossed(batch)[1] for batch in table.to_batches(max_chunksize=1000)]
    assert sum(map(len, blocks)) < 1.5 * table.nbytes


def test_an_array_is_sent_without_a_copy_unless_asked_for():
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(10_000)
    shared = Encoder().encode(array)
    copied = Encoder().encode(array, copy_buffers=True)
    array[:] = 1
    assert Decoder().decode(b"".join(shared))[0] == 1
    assert Decoder().decode(b"".join(copied))[0] == 0


def test_an_array_that_was_received_may_be_written_to_unless_the_sender_s_was_read_only():
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(10_000)
    assert crossed(array)[0].flags.writeable
    array.setflags(write=False)
    assert not crossed(array)[0].flags.writeable


def test_many_small_arrays_stay_in_the_stream():
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(3, index) for index in range(1000)]
    assert len(Encoder().encode(arrays)) < 5
    assert all((a == b).all() for a, b in zip(crossed(arrays)[0], arrays))
