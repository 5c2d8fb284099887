"""`SplitSource`: who reads which split, in what order, and how a source continues where it was cut."""

import gzip
import threading
from types import SimpleNamespace

import cloudpickle
import pytest

from sage_flow import END, IDLE, LocalEnvironment, SplitReader, SplitSource
from sage_flow.connectors import CsvSource, JsonlSource, TextSource
from sage_flow.errors import PipelineError
from sage_flow.executors.feeder import Feeder
from sage_flow.functions import Malformed
from sage_flow.splits import FINISHED, SplitEnd


class Numbers(SplitSource):
    """Each split gives the numbers from 0 up to its name."""

    bounded = True

    def __init__(self, *splits, pause=False):
        self.names, self.pause = splits, pause

    def splits(self):
        return self.names

    def reader(self, split, position):
        return Numbered(int(split), position or 0, self.pause)


class Numbered(SplitReader):
    def __init__(self, end, at, pause):
        self.end, self.at, self.pause = end, at, pause
        self.thread = threading.get_ident()
        self.closed, self.paused_at = False, None

    def next_batch(self):
        assert threading.get_ident() == self.thread
        if self.pause and self.at % 2 == 1 and self.paused_at != self.at:
            self.paused_at = self.at
            return IDLE
        if self.at == self.end:
            return END
        self.at += 1
        return [(self.end, self.at - 1)]

    def position(self):
        return self.at

    def close(self):
        assert threading.get_ident() == self.thread
        assert not self.closed
        self.closed = True


def opened(source, index=0, parallelism=1):
    copy = cloudpickle.loads(cloudpickle.dumps(source))
    copy.open(SimpleNamespace(subtask_index=index, parallelism=parallelism))
    return copy


def steps(source):
    found = []
    while (batch := source.next_batch()) is not END:
        found.append(batch)
    return found


def rows(found):
    return [row for batch in found if isinstance(batch, list) for row in batch]


def test_every_pth_split_in_the_order_of_names_is_read_in_the_order_given():
    names = ["9", "2", "4", "1", "3"]
    assert [opened(Numbers(*names), index, 2).splits_read() for index in range(2)] == [["9", "1", "3"], ["2", "4"]]


def test_a_bounded_source_reads_its_splits_one_after_another():
    assert steps(opened(Numbers("2", "1"))) == [
        [(2, 0)],
        [(2, 1)],
        SplitEnd("2"),
        [(1, 0)],
        SplitEnd("1"),
    ]


def test_an_unbounded_source_reads_its_splits_in_turn():
    source = Numbers("2", "3")
    source.bounded = False
    assert rows(steps(opened(source))) == [(2, 0), (3, 0), (2, 1), (3, 1), (3, 2)]


def test_a_split_that_is_idle_does_not_hold_the_others():
    assert sorted(rows(steps(opened(Numbers("3", "4", pause=True))))) == [(3, n) for n in range(3)] + [
        (4, n) for n in range(4)
    ]


@pytest.mark.parametrize("bounded", [True, False])
def test_a_source_that_is_cut_anywhere_continues_with_the_same_rows(bounded):
    made = Numbers("3", "0", "2")
    made.bounded = bounded
    whole = steps(opened(made))
    for cut in range(len(whole) + 1):
        source = opened(made)
        before = [source.next_batch() for _ in range(cut)]
        position = cloudpickle.loads(cloudpickle.dumps(source.snapshot()))
        for parallelism in (1, 3):
            after = []
            for index in range(parallelism):
                again = opened(made, index, parallelism)
                again.restore(position)
                after += steps(again)
            assert sorted(rows(before) + rows(after)) == sorted(rows(whole))
        source.close()


def test_finished_splits_stay_in_the_position_even_if_they_do_not_exist_any_more():
    source = opened(Numbers("1", "2"))
    steps(source)
    assert source.snapshot() == {"1": FINISHED, "2": FINISHED}
    again = [opened(Numbers("2", "3"), index, 2) for index in range(2)]
    for one in again:
        one.restore(source.snapshot())
    kept = [one.snapshot() for one in again]
    assert kept[0].keys() | kept[1].keys() == {"1", "2"}
    assert not kept[0].keys() & kept[1].keys()
    assert rows(steps(again[0]) + steps(again[1])) == [(3, 0), (3, 1), (3, 2)]


def test_a_split_that_was_not_finished_must_exist():
    with pytest.raises(PipelineError, match="these splits do not exist any more: 7"):
        opened(Numbers("1")).restore({"7": 3})


def test_a_blocking_source_has_its_readers_in_one_thread(mode):
    class Blocking(Numbers):
        blocking = True

    env = mode.environment()
    env.from_source(Blocking("3", "2", "5")).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [(end, n) for end in (2, 3, 5) for n in range(end)]


def test_the_position_of_a_blocking_source_is_that_of_what_was_taken_not_of_what_was_read():
    source = opened(Numbers("3", "2"))
    feeder = Feeder(source, lambda: None)
    feeder.run()  # reads everything
    assert source.snapshot() == {"3": FINISHED, "2": FINISHED}
    assert feeder.snapshot() == {}
    assert feeder.next_batch() == [(3, 0), (3, 1), (3, 2)]
    assert feeder.snapshot() == {"3": 3}
    assert feeder.next_batch() == SplitEnd("3")
    assert feeder.snapshot() == {"3": FINISHED}
    assert feeder.next_batch() == [(2, 0), (2, 1)]
    assert feeder.snapshot() == {"3": FINISHED, "2": 2}
    again = opened(Numbers("3", "2"))
    again.restore(feeder.snapshot())
    assert rows(steps(again)) == []


# --- files ----------------------------------------------------------------------------------------

QUOTED = "n,text\n" + "".join(f'{n},"line {n}\nof ""two"" é, {"x" * (n % 50)}\n\n"\n' for n in range(3000))
PLAIN = "".join(f"line {n} é{'x' * (n % 50)}\r\n" for n in range(3000))
VALUES = "".join(f'{{"n": {n}, "é": "ü"}}\n\n' for n in range(3000))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", ""), ("utf-8", "\ufeff"), ("cp1252", ""), ("utf-16", ""), ("utf-16-le", "")]
)
@pytest.mark.parametrize(
    ("source", "text"), [(TextSource, PLAIN), (CsvSource, QUOTED), (JsonlSource, VALUES)], ids=["text", "csv", "jsonl"]
)
def test_a_file_that_is_cut_after_any_batch_continues_with_the_same_rows(source, text, encoding, mark, pack, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pack((mark + text).encode(encoding)))
    made = source(path, encoding=encoding)
    whole = steps(opened(made))
    reader, before = opened(made), []
    for _ in range(len(whole)):
        before.append(reader.next_batch())
        again = opened(made)
        again.restore(reader.snapshot())
        assert rows(before) + rows(steps(again)) == rows(whole)
    assert len(rows(whole)) == 3000


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_the_position_in_a_file_is_a_byte_offset(encoding, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(PLAIN.encode(encoding))
    source = opened(TextSource(path, encoding=encoding))
    done = 0
    while not isinstance(batch := source.next_batch(), SplitEnd):
        done += len("".join(line + "\r\n" for line in batch).encode(encoding))
        assert source.snapshot()[str(path)][0] == done
    assert done == path.stat().st_size


def test_what_a_restore_of_a_compressed_file_costs_is_logged(tmp_path, caplog):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"1\n2\n" * 1000))
    source = opened(TextSource(path))
    source.next_batch()
    again = opened(TextSource(path))
    again.restore(source.snapshot())
    with caplog.at_level("INFO", "sage_flow"):
        again.next_batch()
        again.next_batch()
    assert [record.message for record in caplog.records] == [
        f"{path} is compressed: to continue, 32 bytes of it are unpacked again"
    ]


def test_malformed_rows_lines_and_bytes_have_positions_too(tmp_path):
    cases = [
        (TextSource, b"a\n\xff\xe9b\nc\n", "\ufffd\ufffdb", 2),
        (JsonlSource, b'1\n{"a": \n\n3\n', '{"a": ', 2),
        (JsonlSource, b'1\n"\xff"\n3\n', '"\ufffd"', 2),
        (CsvSource, b'a,b\n1,2\n3\n"5\n",6\n', "3", 3),
        (CsvSource, b'a,b\n"1\n",2\n\n"3\n"\n5,6\n', '"3\n"', 5),
        (CsvSource, b'a,b\n1,2\n"3,4\n5,6\n', '"3,4', 3),
        (CsvSource, b"a,b\n1,2\n3,\xff\n5,6\n", "3,\ufffd", 3),
    ]
    for number, (source, data, text, line) in enumerate(cases):
        path = tmp_path / str(number)
        path.write_bytes(data)
        whole = steps(opened(source(path)))
        bad = [batch.record for batch in whole if isinstance(batch, Malformed)]
        assert bad == [(str(path), line, text)]
        assert len(rows(whole)) == 2
        reader, before = opened(source(path)), []
        for _ in range(len(whole)):
            before.append(reader.next_batch())
            again = opened(source(path))
            again.restore(reader.snapshot())
            assert rows(before) + rows(steps(again)) == rows(whole)


def test_an_environment_takes_the_class_of_a_split_source():
    class One(Numbers):
        def __init__(self):
            super().__init__("2")

    env = LocalEnvironment("test")
    env.from_source(One).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [(2, 0), (2, 1)]
