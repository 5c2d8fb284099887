"""Records stay pickled on their way until somebody needs them, and what is wrong with them concerns nobody else."""

import gc
import threading

import pytest

from sage_flow.errors import CodecError
from sage_flow.runtime.messages import Credit, Data
from sage_flow.wire.packed import Packed
from tests.executors.exchanges import FailsToLoad, directory, open_end

__all__ = ["directory", "open_end"]


def test_many_records_stay_pickled_until_they_are_needed(open_end):
    one, two = open_end(1), open_end(2)
    sent = [{"number": n, "text": f"text {n}"} for n in range(1000)]
    cost = one.send(2, 0, Data(1, 0, sent, None))
    data = two.next()[1]
    assert isinstance(data.records, Packed)
    assert len(data.records) == 1000
    assert data.cost == cost
    assert data.unpacked() == sent
    assert data.unpacked() == sent


def test_many_records_of_a_class_that_cannot_be_imported_come_as_they_were_when_it_was_sent(open_end):
    one, two = open_end(1), open_end(2)
    for number in range(3):

        class Local:  # another one each time, which dies at once
            version = number

        one.send(2, 0, Data(1, number, [Local() for _ in range(100)]))
        del Local
        gc.collect()
    received = [two.next()[1] for _ in range(3)]
    assert [{record.version for record in data.unpacked()} for data in received] == [{0}, {1}, {2}]
    assert all(len({type(record) for record in data.unpacked()}) == 1 for data in received)


def test_many_arrays_are_received_without_a_copy(open_end):
    numpy = pytest.importorskip("numpy")
    one, two = open_end(1), open_end(2)
    arrays = [numpy.full(5_000, n) for n in range(100)]
    one.send(2, 0, Data(1, 0, arrays))
    received = two.next()[1].unpacked()
    assert [set(array) for array in received] == [{n} for n in range(100)]
    assert not any(array.flags.owndata for array in received)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([FailsToLoad()], "a record cannot be decoded"),
        ([*range(99), FailsToLoad()], "100 records cannot be decoded"),
        ([lambda: None, FailsToLoad()], "2 records cannot be decoded"),  # with something that travels by value
    ],
)
def test_records_that_cannot_be_decoded_concern_only_who_needs_them(open_end, records, text):
    one, two = open_end(1), open_end(2)
    one.send(2, 0, Data(1, 0, records))
    one.send(2, 0, Credit(1, 1, 1, 9))
    data = two.next()[1]
    assert len(data.records) == len(records)
    with pytest.raises(CodecError, match=f"^{text} .ValueError: invalid literal"):
        data.unpacked()
    assert two.next() == (0, Credit(1, 1, 1, 9))


def test_a_record_among_many_that_cannot_be_pickled_is_named(open_end):
    one, two = open_end(1), open_end(2)
    with pytest.raises(CodecError, match=r"cannot pickle a .*Data: records\[70\]\['lock'\] is a _thread\.lock"):
        one.send(2, 0, Data(1, 0, [{"lock": threading.Lock() if n == 70 else n} for n in range(100)]))
    one.send(2, 0, Credit(1, 1, 1, 9))
    assert two.next() == (0, Credit(1, 1, 1, 9))
