"""Collections and iterables as sources."""

import collections
import copy
import subprocess
import sys
import threading
from types import SimpleNamespace

import cloudpickle
import pandas
import pyarrow
import pytest

from sage_flow.connectors import CollectionSource, IterableSource
from sage_flow.errors import PipelineError
from sage_flow.functions import END
from sage_flow.splits import FINISHED, WHOLE, SplitEnd

CTX = SimpleNamespace(subtask_index=0, parallelism=1)


def opened(source):
    copy = cloudpickle.loads(cloudpickle.dumps(source))
    copy.open(CTX)
    return copy


def batches(source):
    found = []
    while (batch := source.next_batch()) is not END:
        if batch != SplitEnd(WHOLE):
            found.append(batch)
    return found


def records(source):
    return [record for batch in batches(source) for record in batch]


# --- the registry ---------------------------------------------------------------------------------


def test_importing_the_connectors_imports_no_connector():
    code = (
        "import sys, sage_flow.connectors as c; "
        "assert not [m for m in sys.modules if m.startswith(c.__name__ + '.')], sys.modules; "
        "from sage_flow.connectors import IterableSource; "
        "assert [m for m in sys.modules if m.startswith(c.__name__ + '.')] == [c.__name__ + '.memory']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_registered_connector_can_be_imported_and_is_documented():
    import sage_flow.connectors as connectors

    for name in connectors.__all__:
        cls = getattr(connectors, name)
        assert cls.__name__ == name
        assert cls.__doc__


def test_an_unregistered_connector_is_an_import_error():
    with pytest.raises(ImportError, match="NoSuchSource"):
        from sage_flow.connectors import NoSuchSource  # noqa: F401


# --- collections ----------------------------------------------------------------------------------


def test_a_collection_gives_its_items_in_order_at_most_4096_at_a_time():
    assert [len(batch) for batch in batches(opened(CollectionSource(list(range(10_000)))))] == [4096, 4096, 1808]
    assert records(opened(CollectionSource(list(range(10_000))))) == list(range(10_000))


@pytest.mark.parametrize(
    "items",
    [[3, 1, 2], (3, 1, 2), range(5000), collections.deque([3, 1, 2]), memoryview(b"abc")],
    ids=lambda items: type(items).__name__,
)
def test_any_sequence_is_a_collection(items):
    source = CollectionSource(items)
    source.open(CTX)
    assert records(source) == list(items)


def test_a_collection_is_not_copied():
    source = CollectionSource(range(10**15))
    source.open(CTX)
    assert source.next_batch() == list(range(4096))


def test_falsy_items_are_ordinary_records():
    items = [None, 0, "", False, [], {}, 0.0]
    assert records(opened(CollectionSource(items))) == items


def test_an_empty_collection_ends_at_once():
    source = opened(CollectionSource([]))
    assert [source.next_batch(), source.next_batch()] == [SplitEnd(WHOLE), END]


def test_the_end_of_a_collection_stays_the_end():
    source = opened(CollectionSource([1]))
    assert [source.next_batch() for _ in range(4)] == [[1], SplitEnd(WHOLE), END, END]


def test_a_collection_continues_after_the_batches_handed_over():
    source = opened(CollectionSource(range(9000)))
    first, position, rest = source.next_batch(), source.snapshot(), records(source)
    again = opened(CollectionSource(range(9000)))
    again.restore(position)
    assert position == {WHOLE: 4096}
    assert records(again) == rest
    assert first + rest == list(range(9000))


def test_a_collection_that_shrank_cannot_continue():
    source = opened(CollectionSource([1, 2]))
    source.restore({WHOLE: 3})
    with pytest.raises(PipelineError, match="item 3 of a collection of 2"):
        source.next_batch()


def test_a_finished_collection_is_restored_as_finished():
    source = opened(CollectionSource([1, 2]))
    batches(source)
    assert source.snapshot() == {WHOLE: FINISHED}
    again = opened(CollectionSource([1, 2]))
    again.restore(source.snapshot())
    assert again.next_batch() is END


@pytest.mark.parametrize("make", [CollectionSource, IterableSource])
def test_what_is_in_memory_is_one_split_whose_position_is_an_index(make):
    source = opened(make(["a", "b", "c"]))
    assert list(source.splits()) == source.splits_read() == [WHOLE]
    reader = source.reader(WHOLE, 1)
    found = []
    while (batch := reader.next_batch()) is not END:
        found += batch
    assert (found, reader.position()) == (["b", "c"], 3)
    reader.close()


@pytest.mark.parametrize("make", [CollectionSource, IterableSource])
def test_one_of_several_subtasks_gets_what_is_in_memory_back(make):
    source = opened(make(list(range(10_000))))
    first = source.next_batch()
    position, rest = source.snapshot(), []
    for index in range(3):
        again = make(list(range(10_000)))
        again.open(SimpleNamespace(subtask_index=index, parallelism=3))
        again.restore(position)
        rest += records(again)
    assert first + rest == list(range(10_000))


@pytest.mark.parametrize("text", ["abc", b"abc", bytearray(b"abc")])
def test_a_text_is_no_collection(text):
    with pytest.raises(PipelineError, match=f"a {type(text).__name__} is one value.*put it in a list"):
        CollectionSource(text)


@pytest.mark.parametrize("items", [{1, 2}, iter([1]), (n for n in [1]), 7, None])
def test_what_is_no_sequence_is_refused_and_from_iterable_named(items):
    with pytest.raises(PipelineError, match=f"not a {type(items).__name__}; use from_iterable"):
        CollectionSource(items)


class Frame:
    """Of polars: a loop gives its columns."""

    def __iter__(self):
        return iter(["name"])

    def to_dicts(self):
        return [{"name": "a"}]


TABLES = [
    (pandas.DataFrame({"name": ["a"]}), 'frame.to_dict("records")'),
    (pyarrow.table({"name": ["a"]}), "table.to_pylist()"),
    (Frame(), "frame.to_dicts()"),
]


@pytest.mark.parametrize(("table", "cure"), TABLES, ids=lambda value: type(value).__name__)
def test_of_a_table_the_rows_are_asked_for_and_not_its_columns(table, cure):
    for make in (CollectionSource, IterableSource, lambda table: opened(IterableSource(lambda: table))):
        with pytest.raises(PipelineError) as caught:
            make(table)
        assert cure in str(caught.value)
        assert "use from_iterable" not in str(caught.value)


def test_of_a_dict_its_pairs_are_asked_for():
    with pytest.raises(PipelineError, match=r"not a dict; pass its pairs: list\(mapping.items\(\)\)"):
        CollectionSource({"a": 1})


# --- iterables ------------------------------------------------------------------------------------


def test_an_iterable_hands_out_each_record_before_it_asks_for_the_next():
    asked = []

    def numbers():
        for n in range(3):
            asked.append(n)
            yield n

    source = IterableSource(numbers())
    source.open(CTX)
    assert source.next_batch() == [0]
    assert asked == [0]
    source.close()


@pytest.mark.parametrize("iterable", [[None, 0, ""], {"a": 1}, range(3)], ids=repr)
def test_anything_that_can_be_looped_over_is_an_iterable(iterable):
    assert records(opened(IterableSource(iterable))) == list(iterable)


def test_a_text_is_not_read_character_by_character():
    for make in (lambda: IterableSource("abc"), lambda: opened(IterableSource(lambda: "abc"))):
        with pytest.raises(PipelineError, match=r"a str is one value.*put it in a list"):
            make()


async def numbers_to_await():
    yield 1


@pytest.mark.parametrize("given", [numbers_to_await, numbers_to_await()], ids=["function", "generator"])
def test_an_async_generator_is_refused_with_the_way_to_read_it(given):
    with pytest.raises(PipelineError, match=r"a async_generator.* is not iterable.*`blocking = True`"):
        opened(IterableSource(given))


@pytest.mark.parametrize("make", [lambda it: it, lambda it: lambda: it], ids=["given", "made by a function"])
def test_an_iterator_that_was_read_is_refused_by_every_later_source_and_run(make):
    iterator = iter([1, 2])
    first = IterableSource(make(iterator))
    first.open(CTX)
    assert records(first) == [1, 2]
    for source in (first, copy.copy(first), IterableSource(make(iterator))):
        with pytest.raises(PipelineError, match="a list_iterator can be read only once"):
            source.open(CTX)


def test_an_iterator_of_which_nothing_was_read_may_be_given_to_another_source():
    iterator = iter([1, 2])
    IterableSource(iterator)
    later = IterableSource(iterator)
    later.open(CTX)
    assert records(later) == [1, 2]


def test_a_class_with_only_getitem_is_an_iterable():
    class Squares:
        def __getitem__(self, index):
            if index == 4:
                raise IndexError
            return index * index

    assert records(opened(IterableSource(Squares()))) == [0, 1, 4, 9]


def test_a_factory_is_called_when_the_source_is_opened():
    calls = []

    def factory():
        calls.append(1)
        return [1, 2]

    source = IterableSource(factory)
    assert calls == []
    source.open(CTX)
    assert records(source) == [1, 2]
    assert calls == [1]


def test_a_factory_is_called_anew_by_every_copy():
    source = IterableSource(lambda: (n for n in range(3)))
    assert records(opened(source)) == records(opened(source)) == [0, 1, 2]


def test_a_callable_that_is_iterable_is_not_called():
    class Both(list):
        def __call__(self):
            raise AssertionError("called")

    source = IterableSource(Both([1, 2]))
    source.open(CTX)
    assert records(source) == [1, 2]


def test_what_is_neither_iterable_nor_callable_is_refused_when_built():
    with pytest.raises(PipelineError, match="a int is not iterable"):
        IterableSource(7)


def test_a_factory_that_gives_no_iterable_is_named():
    def make_nothing():
        return None

    with pytest.raises(PipelineError, match=r"make_nothing returned a NoneType, which is not iterable"):
        opened(IterableSource(make_nothing))


def test_an_error_of_the_factory_keeps_its_type():
    def factory():
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        opened(IterableSource(factory))


def test_an_error_of_a_generator_keeps_its_type():
    def numbers():
        yield 1
        raise KeyError("mine")

    source = opened(IterableSource(numbers))
    assert source.next_batch() == [1]
    with pytest.raises(KeyError, match="mine"):
        source.next_batch()


def test_the_end_of_an_iterable_stays_the_end():
    source = opened(IterableSource([1]))
    assert [source.next_batch() for _ in range(4)] == [[1], SplitEnd(WHOLE), END, END]


def test_an_iterable_continues_after_the_records_handed_out():
    source = opened(IterableSource(lambda: iter("abcd")))
    source.next_batch()
    source.next_batch()
    again = opened(IterableSource(lambda: iter("abcd")))
    again.restore(source.snapshot())
    assert again.snapshot() == {WHOLE: 2}
    assert records(again) == ["c", "d"]


def test_a_finished_iterable_is_restored_as_finished():
    source = opened(IterableSource([1, 2]))
    assert records(source) == [1, 2]
    again = opened(IterableSource([1, 2]))
    again.restore(source.snapshot())
    assert source.snapshot() == again.snapshot() == {WHOLE: FINISHED}
    assert again.next_batch() is END


def test_an_iterable_at_its_last_record_has_an_end_to_come():
    source = opened(IterableSource([1, 2]))
    source.restore({WHOLE: 2})
    assert [source.next_batch(), source.next_batch()] == [SplitEnd(WHOLE), END]


def test_an_iterable_that_gives_less_than_before_cannot_continue():
    source = opened(IterableSource([1, 2]))
    source.restore({WHOLE: 3})
    with pytest.raises(PipelineError, match="after record 3: the iterable gave only 2"):
        source.next_batch()


def test_a_factory_is_not_called_again_by_the_thread_whose_generator_was_closed():
    calls = []

    def numbers():
        calls.append(1)
        yield from range(3)

    source = IterableSource(numbers)
    source.open(CTX)
    source.next_batch()
    source.close()
    assert source.next_batch() is END
    assert calls == [1]


def test_close_closes_the_generator():
    closed = []

    def numbers():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    source = IterableSource(numbers)
    source.open(CTX)
    source.next_batch()
    source.close()
    assert closed == [True]


def test_close_of_what_cannot_be_closed_does_nothing():
    source = opened(IterableSource([1]))
    source.close()
    assert source.next_batch() == [1]


def test_close_while_the_generator_runs_in_another_thread_is_harmless():
    inside, go_on = threading.Event(), threading.Event()

    def numbers():
        inside.set()
        go_on.wait(10)
        yield 1

    source = IterableSource(numbers)
    source.open(CTX)
    got = []
    reader = threading.Thread(target=lambda: got.append(source.next_batch()))
    reader.start()
    assert inside.wait(10)
    source.close()
    go_on.set()
    reader.join(10)
    assert got == [[1]]


def test_another_error_of_close_is_raised():
    class Records:
        def __iter__(self):
            return self

        def __next__(self):
            return 1

        def close(self):
            raise ValueError("mine")

    source = IterableSource(Records())
    source.open(CTX)
    with pytest.raises(ValueError, match="mine"):
        source.close()


def test_collections_are_read_by_one_subtask_and_only_iterables_block():
    assert (CollectionSource.parallel, CollectionSource.blocking) == (False, False)
    assert (IterableSource.parallel, IterableSource.blocking) == (False, True)
