"""Values come back equal; what cannot be imported travels once, as news; errors name the culprit."""

import gc
import pickle
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.errors import CodecError
from sage_flow.wire.codec import Decoder, Encoder, copy_value
from sage_flow.wire.frames import pack_definitions


class Connection:
    """An encoder and its decoder; the bytes of each message, and of the news before it, are kept."""

    def __init__(self, **options):
        self.encoder, self.decoder, self.blocks, self.news = Encoder(**options), Decoder(), [], []

    def send(self, value, **options):
        block = self.post(value, **options)
        return self.decoder.decode(bytearray(block))

    def post(self, value, *, oldest=None, **options):
        """The block of `value`, which does not arrive yet; its news do."""
        block = b"".join(self.encoder.encode(value, **options))
        news = b"".join(self.encoder.news(oldest))
        if news:
            self.decoder.learn(bytearray(news))
        self.blocks.append(block)
        self.news.append(news)
        return block


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.lists(values, max_size=4))
def test_values_come_back_equal(messages):
    connection = Connection()
    assert [connection.send(message) for message in messages] == messages


@pytest.mark.parametrize("size", [0, 4095, 4096, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_sizes_around_every_limit_come_back_equal(size, kind):
    value = [1, "é" * size if kind is str else kind(size), 2]
    assert Connection().send(value) == value


def test_plain_values_are_nothing_but_a_pickle():
    (piece,) = Encoder().encode({"carrier": "US"})
    assert piece == pickle.dumps({"carrier": "US"}, protocol=5)


def test_messages_do_not_share_a_memo():
    connection, record = Connection(), {"a": "text"}
    assert connection.send([record, record]) == connection.send([record, record])
    assert connection.blocks[0] == connection.blocks[1]


def test_a_large_bytearray_may_change_after_it_was_encoded():
    value = bytearray(b"x" * 200_000)
    pieces = Encoder().encode([value])
    value.clear()
    assert Decoder().decode(b"".join(pieces)) == [b"x" * 200_000]


# Definitions.


def local_class():
    @dataclass
    class Flight:
        carrier: str

    return Flight


def test_instances_of_a_local_class_share_one_class():
    flight, connection = local_class(), Connection()
    first, second = connection.send([flight("US"), flight("AA")]), connection.send(flight("UA"))
    assert [first[0].carrier, first[1].carrier, second.carrier] == ["US", "AA", "UA"]
    assert type(first[0]) is type(first[1]) is type(second)


def test_a_definition_travels_once():
    flight, connection = local_class(), Connection()
    for _ in range(3):
        connection.send(flight("US"))
    assert len(connection.news[0]) > 1000
    assert connection.news[1:] == [b"", b""]
    assert len(set(connection.blocks)) == 1
    assert len(connection.blocks[0]) < 200


def test_a_lambda_is_one_object_for_the_whole_connection():
    connection, double = Connection(), lambda x: 2 * x
    first, second = connection.send(double), connection.send({"f": double})["f"]
    assert first is second
    assert first is not double
    assert first(21) == 42


def test_a_class_of_main_travels_by_value():
    main_class = type("Flight", (), {"__module__": "__main__", "__qualname__": "Flight"})
    connection = Connection()
    assert connection.send(main_class()).__class__ is connection.send(main_class)
    assert b"cloudpickle" in connection.news[0]


def test_what_can_be_imported_travels_by_name():
    connection = Connection()
    sent = [Connection, copy_value, threading.Thread, type(None), type(...), int, Point(1, 2), list[int]]
    assert connection.send(sent) == sent
    assert connection.news == [b""]


def test_a_failed_message_has_defined_nothing():
    flight, connection = local_class(), Connection()
    with pytest.raises(CodecError):
        connection.send([flight("US"), threading.Lock()])
    assert connection.send(flight("US")).carrier == "US"


def test_a_message_over_the_limit_has_defined_nothing():
    flight, connection = local_class(), Connection(limit=20_000)
    with pytest.raises(CodecError, match=r"a list takes .* over the limit of 20000"):
        connection.send([flight("US"), b"x" * 20_000])
    assert connection.send(flight("US")).carrier == "US"


def test_a_small_limit_counts_for_small_messages_too():
    with pytest.raises(CodecError, match="over the limit of 10"):
        Encoder(limit=10).encode("0123456789")


def test_definitions_are_forgotten_when_their_sender_forgets_them():
    connection = Connection()
    received = weakref.ref(connection.send(lambda: None))
    gc.collect()
    assert received() is not None
    connection.send("the next message says so")
    gc.collect()
    assert received() is None


def test_a_small_message_may_overtake_the_one_that_defined_its_class():
    flight, connection = local_class(), Connection()
    large = connection.post([flight("US"), b"x" * 1_000_000])
    small = connection.decoder.decode(connection.post(flight("AA"), oldest=1))
    assert small.carrier == "AA"
    assert type(connection.decoder.decode(large)[0]) is type(small)


def test_the_death_of_a_definition_is_no_news_while_a_message_that_may_refer_to_it_is_under_way():
    flight, connection = local_class(), Connection()
    first = connection.post(flight("US"))
    second = connection.post([flight("AA")], oldest=1)
    del flight
    gc.collect()
    connection.post("small", oldest=1)
    connection.post("small", oldest=2)
    assert connection.decoder.decode(first).carrier == "US"
    assert connection.decoder.decode(second)[0].carrier == "AA"
    assert connection.news[2:] == [b"", b""]
    connection.post("now all before the death are written", oldest=3)
    assert connection.news[-1]
    assert not connection.decoder._definitions


def test_a_definition_that_dies_between_its_message_and_the_news_is_kept_for_it():
    connection = Connection()
    block = b"".join(connection.encoder.encode([lambda: 1]))
    gc.collect()
    connection.decoder.learn(bytearray(b"".join(connection.encoder.news(None))))
    assert connection.decoder.decode(block)[0]() == 1


def test_news_unpickle_nothing():
    connection = Connection()
    connection.decoder.learn(bytearray(b"".join(pack_definitions([(1, b"no pickle")], []))))
    assert connection.send("fine") == "fine"


def test_a_new_lambda_per_record_does_not_pile_up():
    connection = Connection()
    for number in range(50):
        assert connection.send(lambda number=number: number)() == number
    assert len(connection.decoder._definitions) <= 2
    assert len(connection.encoder._known) <= 2


class SendsWhilePickled:
    def __init__(self, connection, definition):
        self.connection, self.definition = connection, definition

    def __reduce__(self):
        self.connection.inner = self.connection.send(["inner", self.definition])
        return str, ("outer",)


def test_pickling_may_send_on_the_same_connection():
    connection, double = Connection(), lambda x: 2 * x
    outer = connection.send([double, SendsWhilePickled(connection, double), double])
    assert outer[1] == "outer"
    assert outer[0] is outer[2]
    assert [outer[0](1), connection.inner[1](1), connection.send(double)(1)] == [2, 2, 2]
    assert len(connection.decoder._definitions) == 1  # of its two numbers one is given up


# Errors.

Point = namedtuple("Point", "x y")


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, inside):
        self.inside = inside


def with_attribute(value):
    error = ValueError("carries a lock")
    error.lock = value
    return error


def closure_over(lock):
    return lambda: lock


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (LOCK, "cannot pickle a _thread.lock (TypeError"),
        ({"lock": LOCK}, "cannot pickle a dict: ['lock'] is a _thread.lock (TypeError: cannot pickle"),
        ([1, {"a": (2, LOCK)}], "[1]['a'][1] is a _thread.lock"),
        (Point(1, LOCK), "y is a _thread.lock"),
        (Slotted([LOCK]), "inside[0] is a _thread.lock"),
        (with_attribute(LOCK), "lock is a _thread.lock"),
        (closure_over(LOCK), "closure 'lock' is a _thread.lock"),
        (closure_over({"a": LOCK}), "closure 'lock'['a'] is a _thread.lock"),
        ([partial(max, LOCK)], "[0].args[0] is a _thread.lock"),
        ((Slotted(LOCK).__init__,), "[0].__self__.inside is a _thread.lock"),
        ({LOCK: 1}, "is a _thread.lock"),
        ((number for number in ()), "cannot pickle a generator"),
    ],
)
def test_an_error_names_what_cannot_be_pickled(value, text):
    for encode in (Encoder().encode, copy_value) if not callable(value) else (Encoder().encode,):
        with pytest.raises(CodecError) as caught:
            encode(value)
        assert text in str(caught.value)


def test_an_error_names_the_subject_it_was_given():
    with pytest.raises(CodecError, match=r"Point: y\[0\] is a _thread.lock"):
        Encoder().encode((7, 0, 1, [LOCK]), subject=Point(1, [LOCK]))


def test_a_cycle_does_not_hide_the_culprit():
    parent = {"child": {}}
    parent["child"].update(parent=parent, lock=LOCK)
    with pytest.raises(CodecError, match=r"\['child'\]\['lock'\] is a _thread.lock"):
        Encoder().encode(parent)


class Moody:
    def __init__(self):
        self.lock = LOCK

    def __getattribute__(self, name):
        if name == "lock":
            raise RuntimeError("not now")
        return super().__getattribute__(name)


def test_a_value_that_does_not_want_to_be_looked_at_is_the_culprit_itself():
    with pytest.raises(CodecError, match=r"cannot pickle a .*Moody \(TypeError"):
        Encoder().encode(Moody())


@pytest.mark.parametrize("block", [b"", b"\x80", b"\x80\x05garbage", bytes(40), b"hello"])
def test_bytes_that_are_no_block_are_an_error(block):
    with pytest.raises(CodecError):
        Decoder().decode(block)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(garbage):
    try:
        Decoder().decode(b"\0" + garbage)
    except CodecError:
        pass


class FailsToLoad:
    def __reduce__(self):
        return int, ("not a number",)


def test_a_value_that_cannot_be_read_back_is_an_error():
    with pytest.raises(CodecError, match="ValueError: invalid literal"):
        Connection().send(FailsToLoad())
    with pytest.raises(CodecError, match=r"the copy of a .*FailsToLoad cannot be decoded"):
        copy_value(FailsToLoad())


def test_a_number_without_a_definition_is_an_error():
    encoder, double = Encoder(), lambda x: 2 * x
    encoder.encode(double)
    encoder.news(None)
    with pytest.raises(CodecError, match="KeyError"):
        Decoder().decode(b"".join(encoder.encode(double)))


# Copies.


@pytest.mark.parametrize("value", [None, True, 10**30, 1.5, "text", b"bytes", (), (1, ("a", None))])
def test_immutable_values_are_not_copied(value):
    assert copy_value(value) is value


@settings(deadline=None)
@given(values)
def test_copies_are_equal(value):
    assert copy_value(value) == value


def test_copies_share_nothing_mutable():
    value = ([1], {"a": [2]}, bytearray(b"3"))
    copy = copy_value(value)
    assert copy == value
    assert all(a is not b for a, b in zip(copy, value))
    assert copy[1]["a"] is not value[1]["a"]


class Text(str):
    pass


def test_a_subclass_of_an_immutable_type_is_copied():
    text = Text("x")
    text.mutable = [1]
    copy = copy_value((text,))[0]
    assert copy == "x"
    assert copy is not text
    assert copy.mutable == [1]


def test_a_copied_array_shares_no_memory():
    numpy = pytest.importorskip("numpy")
    for size in (10, 10_000):
        array = numpy.zeros(size)
        copy = copy_value([array])[0]
        assert (copy == array).all()
        assert not numpy.shares_memory(copy, array)


def test_classes_and_functions_stay_the_same_in_a_copy():
    flight, double = local_class(), lambda x: 2 * x
    copy = copy_value([flight("US"), flight("US"), flight, double, double])
    assert copy[0] == copy[1] == flight("US")
    assert copy[0] is not copy[1]
    assert copy[2] is flight
    assert copy[3] is copy[4] is double
    main_class = type("Flight", (), {"__module__": "__main__", "__qualname__": "Flight"})
    assert type(copy_value(main_class())) is main_class
