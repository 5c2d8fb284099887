"""Whatever is put is got: every value, and large ones beside small ones."""

import pickle
import threading

import numpy as np
import pytest
from queue_peer import types_there
from test_queue_waiting import start, until

from sage_flow.errors import CodecError
from tests.wire.columns import KINDS as COLUMNS
from tests.wire.columns import column_kind

every_kind_of_columns = pytest.mark.parametrize("columns", COLUMNS)

VALUES = [None, False, True, 0, "", b"", (), [], {}, 1 << 100, float("inf"), "text", {"a": [1, (2, None)]}, {1, 2}]


class Point:
    """Importable, by name."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and self.x == other.x

    __hash__ = None


def test_every_value_comes_out_as_it_went_in(make):
    descriptor = make()
    for value in [*VALUES, Point(3)]:
        descriptor.put(value)
        got = descriptor.get()
        assert got == value
        assert type(got) is type(value)
    descriptor.put_many(VALUES)
    assert descriptor.get_many(100) == VALUES


def test_exceptions_are_values(make):
    descriptor = make()
    descriptor.put(ValueError("seven", 7))
    got = descriptor.get()
    assert type(got) is ValueError
    assert got.args == ("seven", 7)


def test_a_queue_inside_the_process_passes_the_object_itself_and_others_a_copy(make, kind):
    descriptor, value = make(), Point(1)
    descriptor.put(value)
    assert (descriptor.get() is value) == (not kind.copies_items)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (100, 100), (1000, 1000)])
def test_arrays(make, shape):
    descriptor = make()
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    descriptor.put(array)
    got = descriptor.get()
    np.testing.assert_array_equal(got, array)
    got[...] = 0  # it is ours, and writable


@every_kind_of_columns
def test_columns_come_out_as_they_went_in(make, columns):
    columns, value = column_kind(columns)
    descriptor = make()
    descriptor.put_many([value, "odd"])
    got = descriptor.get_many(2)
    assert columns.equal(got[0], value)
    assert got[1] == "odd"


@every_kind_of_columns
def test_columns_take_along_only_what_belongs_to_them(make_crossing, columns):
    _, value = column_kind(columns)
    descriptor = make_crossing()
    descriptor.put(value)
    assert descriptor.statistics()["bytes"] < 1.1 * value.nbytes + 2000


def test_an_array_may_be_changed_after_it_was_put(make_crossing):
    descriptor = make_crossing()
    array = np.zeros(1_000_000)
    descriptor.put(array)
    array[:] = 1
    assert not descriptor.get().any()


def test_classes_and_functions_that_cannot_be_imported_travel_by_value(make_crossing, crossing, peers):
    class Local:
        def __init__(self, number):
            self.number = number

    descriptor = make_crossing()
    descriptor.put_many([Local(1), Local(2)])
    descriptor.put(Local(3))
    descriptor.put(lambda n: n + 1)
    one, two, three, function = [descriptor.get() for _ in range(4)]
    assert [one.number, two.number, three.number, function(1)] == [1, 2, 3, 2]
    assert type(one) is type(two) is type(three) is Local
    descriptor.put_many([Local(1), Local(2)])
    assert peers[0].run(types_there, crossing, pickle.dumps(descriptor), 2) == (1, "Local")


def test_the_host_reads_nothing(make_crossing, tmp_path):
    class Mark:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    descriptor = make_crossing()
    descriptor.put(Mark())
    assert descriptor.qsize() == 1
    assert not (tmp_path / "mark").exists()


def test_what_cannot_be_pickled_is_named_and_nothing_is_put(make_crossing):
    descriptor = make_crossing()
    with pytest.raises(CodecError, match="lock"):
        descriptor.put(threading.Lock())
    with pytest.raises(CodecError, match=r"\[1\].*lock"):
        descriptor.put_many(["a", {"lock": threading.Lock()}])
    assert descriptor.empty()
    descriptor.put("b")
    assert descriptor.get() == "b"


def test_what_cannot_be_read_is_an_error_of_who_gets_it(make_crossing):
    class Unreadable:
        def __reduce__(self):
            return int, ("seven",)

    descriptor = make_crossing()
    descriptor.put(Unreadable())
    descriptor.put("next")
    with pytest.raises(CodecError, match="seven"):
        descriptor.get()
    assert descriptor.get() == "next"


def test_large_items_asks_for_room_and_small_ones_do_not_wait_for_them(make_crossing, crossing):
    descriptor = make_crossing(maxsize=2)
    large = np.ones(100 << 17)  # 100 MB
    descriptor.put(large)
    descriptor.put("small")
    waiting = start(descriptor.share().put, large)
    until(descriptor, waiting_putters=1)
    assert descriptor.statistics()["bytes"] < 110e6, "the second waits where it is"
    got = descriptor.get()
    assert got.nbytes == 100 << 20
    assert got[-1] == 1
    waiting.result()
    assert descriptor.get() == "small"
    np.testing.assert_array_equal(descriptor.get(), large)


def test_small_items_overtake_a_large_one_that_others_put(make_crossing):
    descriptor = make_crossing()
    large = start(descriptor.share().put, np.ones(100 << 17))
    for number in range(100):
        descriptor.put(number)
    large.result()
    items = [descriptor.get() for _ in range(101)]
    assert [item for item in items if isinstance(item, int)] == list(range(100))


def test_many_items_of_mixed_size_keep_their_order(make):
    descriptor = make()
    sizes = [10, 5000, 10, 200_000, 10, 10, 70_000] * 20
    descriptor.put_many([bytes(size) for size in sizes])
    got = []
    while len(got) < len(sizes):
        got += descriptor.get_many(7)
    assert [len(item) for item in got] == sizes
    assert descriptor.empty()
    assert not descriptor.statistics()["bytes"]
