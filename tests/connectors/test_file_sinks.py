"""Text, CSV and JSON-lines files as sinks, and the screen."""

import dataclasses
import gzip
import os
import stat
import tempfile
import types
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.connectors import CsvSink, CsvSource, JsonlSink, JsonlSource, PrintSink, TextSink, TextSource
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import END, RuntimeContext
from tests.connectors.publication import commit

FILE_SINKS = [TextSink, CsvSink, JsonlSink]


@dataclasses.dataclass(frozen=True)
class Flight:
    carrier: str
    miles: int


@dataclasses.dataclass(frozen=True)
class Trip:
    flights: tuple[Flight, ...]


def context(index=0, parallelism=1, job_id="test-1", attempt=1):
    return RuntimeContext("test", "sink", index, parallelism, job_id=job_id, attempt=attempt)


def opened(sink, *args, **kwargs):
    copy = cloudpickle.loads(cloudpickle.dumps(sink))
    copy.open(context(*args, **kwargs))
    return copy


def write(sink, records, *args, **kwargs):
    sink = opened(sink, *args, **kwargs)
    try:
        for record in records:
            sink.write(record)
    finally:
        sink.close()
    commit(sink)


def opened_parts(path, *texts, **kwargs):
    """The closed sinks of a run with a subtask for each text; nothing is published."""
    sinks = [opened(TextSink(path), index, len(texts), **kwargs) for index in range(len(texts))]
    for sink, text in zip(sinks, texts, strict=True):
        sink.write(text)
        sink.close()
    return sinks


def write_parts(path, *texts, **kwargs):
    for sink in opened_parts(path, *texts, **kwargs):
        commit(sink)


def refused(sink, error, *records):
    """Write `records`, of which the last must raise `error`; return its text."""
    sink = opened(sink)
    try:
        for record in records[:-1]:
            sink.write(record)
        with pytest.raises(error) as caught:
            sink.write(records[-1])
    finally:
        sink.close()
        sink.abort()
    return str(caught.value)


def read(source):
    source.open(context())
    found = []
    while (batch := source.next_batch()) is not END:
        found += batch if isinstance(batch, list) else []
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- publishing -----------------------------------------------------------------------------------


def test_nothing_has_the_name_of_the_file_before_commit(tmp_path):
    sink = opened(TextSink(tmp_path / "out.txt"))
    sink.write("a")
    sink.close()
    [temporary] = names(tmp_path)
    assert temporary.startswith(".out.txt.")
    commit(sink)
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "a\n"


def test_all_is_in_the_file_after_close(tmp_path):
    sink = opened(TextSink(tmp_path / "out.txt"))
    sink.write("a")
    sink.close()
    [temporary] = tmp_path.iterdir()
    assert temporary.read_text() == "a\n"


@pytest.mark.parametrize(("name", "unpack"), [("out.txt", bytes), ("out.txt.gz", gzip.decompress)])
def test_close_forces_all_of_it_to_the_disk(name, unpack, tmp_path, monkeypatch):
    on_disk = []

    def fsync(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            [temporary] = tmp_path.iterdir()
            on_disk.append(unpack(temporary.read_bytes()))

    monkeypatch.setattr("os.fsync", fsync)
    write(TextSink(tmp_path / name), ["a"])
    assert on_disk == [b"a\n"]


@pytest.mark.parametrize("name", ["out.txt", "out.txt.gz"])
def test_abort_removes_what_was_written_and_keeps_an_older_file(name, tmp_path):
    (tmp_path / name).write_text("old")
    sink = opened(TextSink(tmp_path / name))
    sink.write("new")
    sink.close()
    sink.abort()
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


def test_commit_replaces_an_older_file(tmp_path):
    (tmp_path / "out.txt").write_text("old")
    write(TextSink(tmp_path / "out.txt"), ["new"])
    assert (tmp_path / "out.txt").read_text() == "new\n"


@pytest.mark.parametrize("sink", FILE_SINKS)
@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_an_empty_result_is_an_empty_file(sink, name, tmp_path):
    write(sink(tmp_path / name), [])
    assert names(tmp_path) == [name]
    assert read(TextSource(tmp_path / name)) == []


def test_several_subtasks_write_a_file_each(tmp_path):
    write_parts(tmp_path / "out.v1.txt", "0", "1", "2")
    assert names(tmp_path) == [f"out.v1-0000{index}-of-00003.txt" for index in range(3)]
    assert read(TextSource(tmp_path / "*.txt")) == ["0", "1", "2"]


def test_the_files_of_several_subtasks_keep_both_endings(tmp_path):
    write(JsonlSink(tmp_path / "out.jsonl.gz"), [1], 1, 2)
    assert names(tmp_path) == ["out-00001-of-00002.jsonl.gz"]
    assert read(JsonlSource(tmp_path / "*.gz")) == [1]


def test_two_runs_at_once_do_not_share_a_temporary_file(tmp_path):
    first, second = (opened(TextSink(tmp_path / "out.txt"), job_id=job) for job in ("test-1", "test-2"))
    assert len(names(tmp_path)) == 2
    for sink, text in ((first, "first"), (second, "second")):
        sink.write(text)
        sink.close()
    commit(first)
    second.abort()
    assert (tmp_path / "out.txt").read_text() == "first\n"


def test_close_commit_and_abort_may_come_twice(tmp_path):
    sink = opened(TextSink(tmp_path / "out.txt"))
    for _ in range(2):
        sink.close()
    for _ in range(2):
        commit(sink)
    sink.abort()
    assert names(tmp_path) == ["out.txt"]


def test_a_sink_that_was_never_opened_can_be_closed_committed_and_aborted(tmp_path):
    sink = TextSink(tmp_path / "out.txt")
    sink.close()
    commit(sink)
    sink.abort()
    assert names(tmp_path) == []


def test_a_sink_that_could_not_be_opened_can_be_closed_and_aborted(tmp_path):
    sink = TextSink(tmp_path / ("x" * 250))
    with pytest.raises(InputError, match="name too long"):
        sink.open(context(parallelism=2))
    sink.close()
    sink.abort()
    assert names(tmp_path) == []


def test_abort_is_content_if_the_temporary_file_is_gone(tmp_path):
    sink = opened(TextSink(tmp_path / "out.txt"))
    sink.close()
    next(tmp_path.iterdir()).unlink()
    sink.abort()
    assert names(tmp_path) == []


def test_making_a_sink_makes_no_file(tmp_path):
    CsvSink(tmp_path / "out.csv", fieldnames=["a"])
    assert names(tmp_path) == []


def test_a_path_that_ends_in_gz_is_gzipped(tmp_path):
    write(TextSink(tmp_path / "out.txt.gz"), ["a", "b"])
    assert gzip.decompress((tmp_path / "out.txt.gz").read_bytes()) == b"a\nb\n"


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(TextSink("~/out.txt"), ["a"])
    assert names(tmp_path) == ["out.txt"]


def test_a_relative_path_stays_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = TextSink("out.txt")
    monkeypatch.chdir("/")
    write(sink, ["a"])
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("sink", FILE_SINKS)
def test_a_directory_that_does_not_exist_is_refused_when_the_sink_is_made(sink, tmp_path):
    with pytest.raises(InputError, match=r"no/out: there is no directory .*no; make it first"):
        sink(tmp_path / "no" / "out")


@pytest.mark.parametrize("sink", FILE_SINKS)
def test_a_directory_is_refused_as_a_file_when_the_sink_is_made(sink, tmp_path):
    with pytest.raises(InputError, match="is a directory; name a file in it"):
        sink(tmp_path)
    with pytest.raises(InputError, match="is a directory; name a file in it"):
        sink(f"{tmp_path}/new/")


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, None, b"a", ["a"]])
def test_text_is_str_only(value, tmp_path):
    message = refused(TextSink(tmp_path / "out.txt"), TypeError, value)
    assert f"not {type(value).__name__}; map the records to str first" in message


@pytest.mark.parametrize("value", ["a\nb", "a\n", "a\r", "\r\n"])
def test_text_with_a_newline_is_refused(value, tmp_path):
    assert "a newline would split" in refused(TextSink(tmp_path / "out.txt"), ValueError, value)


def test_text_that_begins_with_a_byte_order_mark_is_refused(tmp_path):
    assert "U+FEFF" in refused(TextSink(tmp_path / "out.txt"), ValueError, "\ufeffa")


def test_a_refused_record_leaves_no_trace(tmp_path):
    sink = opened(JsonlSink(tmp_path / "out.jsonl"))
    sink.write(1)
    with pytest.raises(TypeError):
        sink.write([2, {3}])
    sink.write(4)
    sink.close()
    commit(sink)
    assert (tmp_path / "out.jsonl").read_text() == "1\n4\n"


# --- CSV ------------------------------------------------------------------------------------------


def test_the_first_record_names_the_columns(tmp_path):
    write(CsvSink(tmp_path / "out.csv"), [{"a": 1, "b": None}, {"b": "x", "a": 2}])
    assert (tmp_path / "out.csv").read_bytes() == b"a,b\r\n1,\r\n2,x\r\n"


def test_fieldnames_name_and_order_the_columns(tmp_path):
    write(CsvSink(tmp_path / "out.csv", fieldnames=["b", "a"]), [{"a": 1, "b": 2}])
    assert (tmp_path / "out.csv").read_text() == "b,a\n2,1\n"


def test_fieldnames_are_written_for_an_empty_result(tmp_path):
    write(CsvSink(tmp_path / "out.csv", fieldnames=["b", "a"]), [])
    assert (tmp_path / "out.csv").read_text() == "b,a\n"
    assert read(CsvSource(tmp_path / "out.csv")) == []


def test_dataclasses_are_rows(tmp_path):
    write(CsvSink(tmp_path / "out.csv"), [Flight("UA", 17), Flight("AA", 9)])
    assert (tmp_path / "out.csv").read_text() == "carrier,miles\nUA,17\nAA,9\n"


def test_tuples_lists_dicts_and_dataclasses_may_be_mixed(tmp_path):
    sink = CsvSink(tmp_path / "out.csv", fieldnames=["carrier", "miles"])
    write(sink, [("UA", 1), ["UA", 2], {"miles": 3, "carrier": "UA"}, Flight("UA", 4)])
    assert (tmp_path / "out.csv").read_text() == "carrier,miles\nUA,1\nUA,2\nUA,3\nUA,4\n"


def test_tuples_need_fieldnames(tmp_path):
    message = refused(CsvSink(tmp_path / "out.csv"), TypeError, (1, 2))
    assert message == "CsvSink cannot name the columns of a tuple; pass fieldnames=[...]"


@pytest.mark.parametrize("row", [(1,), [1, 2, 3]])
def test_a_tuple_of_another_width_is_refused(row, tmp_path):
    sink = CsvSink(tmp_path / "out.csv", fieldnames=["a", "b"])
    assert f"{len(row)} values for the columns ['a', 'b']" in refused(sink, ValueError, row)


def test_missing_and_extra_keys_are_both_named(tmp_path):
    message = refused(CsvSink(tmp_path / "out.csv"), ValueError, {"a": 1, "b": 2}, {"b": 1, "c": 2})
    assert message == "CsvSink: the keys do not fit the columns: missing ['a'], extra ['c']"


def test_a_first_record_without_keys_is_refused(tmp_path):
    assert "no column names" in refused(CsvSink(tmp_path / "out.csv"), ValueError, {})


@pytest.mark.parametrize("value", ["a,b", 1, None, {1}, Flight])
def test_csv_refuses_what_has_no_cells(value, tmp_path):
    message = refused(CsvSink(tmp_path / "out.csv"), TypeError, value)
    assert f"not {type(value).__name__}; map it" in message


@pytest.mark.parametrize("fieldnames", [[], "ab", ["a", "a"]])
def test_bad_fieldnames_are_refused_when_the_sink_is_made(fieldnames, tmp_path):
    with pytest.raises(PipelineError, match="column"):
        CsvSink(tmp_path / "out.csv", fieldnames=fieldnames)


# --- JSON lines -----------------------------------------------------------------------------------


def test_json_is_compact_and_not_escaped(tmp_path):
    write(JsonlSink(tmp_path / "out.jsonl"), [{"a": [1, 2], "ü": "é\n"}, None, False, 0, "\u2028"])
    expected = '{"a":[1,2],"ü":"é\\n"}\nnull\nfalse\n0\n"\u2028"\n'
    assert (tmp_path / "out.jsonl").read_bytes().decode() == expected


def test_dataclasses_are_objects_at_any_depth(tmp_path):
    write(JsonlSink(tmp_path / "out.jsonl"), [Trip((Flight("UA", 17),))])
    assert (tmp_path / "out.jsonl").read_text() == '{"flights":[{"carrier":"UA","miles":17}]}\n'


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({1}, "set"),
        ([b"x"], "bytes"),
        ({"a": object()}, "object"),
        ({(1, 2): 3}, "tuple"),
        (Flight, "type"),
        (1j, "complex"),
    ],
)
def test_what_json_cannot_express_is_named(value, kind, tmp_path):
    message = refused(JsonlSink(tmp_path / "out.jsonl"), TypeError, value)
    assert message.startswith(f"JSON cannot express a {kind}; pass default=str") or message.endswith(f"not {kind}")


def test_default_writes_what_json_cannot_express(tmp_path):
    value = {"at": datetime(2024, 5, 1, 12, 30), "price": Decimal("1.10"), "trip": Trip((Flight("UA", 1),))}
    write(JsonlSink(tmp_path / "out.jsonl", default=str), [value])
    assert read(JsonlSource(tmp_path / "out.jsonl")) == [
        {"at": "2024-05-01 12:30:00", "price": "1.10", "trip": {"flights": [{"carrier": "UA", "miles": 1}]}}
    ]


def test_what_default_returns_is_written_as_any_value(tmp_path):
    sink = JsonlSink(tmp_path / "out.jsonl", default=lambda value: [value.real, {"imag": value.imag}])
    write(sink, [{"z": 1 + 2j}])
    assert read(JsonlSource(tmp_path / "out.jsonl")) == [{"z": [1.0, {"imag": 2.0}]}]


def test_an_error_of_default_is_told_as_it_is(tmp_path):
    def default(value):
        raise ValueError("no such thing")

    assert refused(JsonlSink(tmp_path / "out.jsonl", default=default), ValueError, {1}) == "no such thing"


def test_a_default_that_cannot_be_called_is_refused_when_the_sink_is_made(tmp_path):
    with pytest.raises(PipelineError, match="default= must be a function, such as str, not 'str'"):
        JsonlSink(tmp_path / "out.jsonl", default="str")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}])
def test_numbers_that_json_does_not_have_are_refused(value, tmp_path):
    message = refused(JsonlSink(tmp_path / "out.jsonl"), TypeError, value)
    assert message.startswith(f"JSON cannot express this {type(value).__name__}: Out of range float")
    assert message.endswith("; map NaN and infinity to None")


def test_a_list_that_holds_itself_is_refused(tmp_path):
    endless = []
    endless.append(endless)
    message = refused(JsonlSink(tmp_path / "out.jsonl"), TypeError, endless)
    assert message == "JSON cannot express this list: Circular reference detected"


def test_a_lone_surrogate_is_written_as_an_escape(tmp_path):
    write(JsonlSink(tmp_path / "out.jsonl"), ["é\ud800"])
    assert (tmp_path / "out.jsonl").read_text() == '"é\\ud800"\n'
    assert read(JsonlSource(tmp_path / "out.jsonl")) == ["é\ud800"]


# --- what is written reads back the same ----------------------------------------------------------


def round_trip(make_sink, make_source, records, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(make_sink(path), records)
        assert names(path.parent) == [name]
        return read(make_source(path))


ENDINGS = st.sampled_from(["out", "out.gz"])
LINES = st.text().filter(lambda s: "\n" not in s and not s.endswith("\r") and not s.startswith("\ufeff"))
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))  # csv refuses NUL before Python 3.11
COLUMNS = st.lists(st.text("ab\n,\"' é", max_size=3), min_size=1, max_size=4, unique=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)  # a disk may take its time to sync
@given(st.lists(LINES), ENDINGS)
def test_text_reads_back_the_same(records, name):
    assert round_trip(TextSink, TextSource, records, name) == records


@settings(deadline=None)  # a disk may take its time to sync
@given(st.lists(JSON), ENDINGS)
def test_json_reads_back_the_same(records, name):
    assert round_trip(JsonlSink, JsonlSource, records, name) == records


@settings(deadline=None)  # a disk may take its time to sync
@given(st.data(), COLUMNS, ENDINGS)
def test_csv_reads_back_the_same(data, columns, name):
    rows = st.fixed_dictionaries(dict.fromkeys(columns, CELLS))
    records = data.draw(st.lists(rows))
    assert round_trip(CsvSink, CsvSource, records, name) == records


@given(st.lists(st.fixed_dictionaries({"ok": st.booleans()})))
@settings(deadline=None)  # a disk may take its time to sync
def test_bools_in_csv_read_back_the_same(records):
    assert round_trip(CsvSink, lambda path: CsvSource(path, types={"ok": bool}), records, "out.csv") == records


# --- the screen -----------------------------------------------------------------------------------


def test_print_writes_one_line_per_record(capsys):
    sink = opened(PrintSink())
    for value in ["a", None, {"b": 1}]:
        sink.write(value)
    sink.close()
    commit(sink)
    assert capsys.readouterr().out == "a\nNone\n{'b': 1}\n"


def test_print_puts_the_prefix_first(capsys):
    opened(PrintSink(prefix="flights> ")).write(17)
    assert capsys.readouterr().out == "flights> 17\n"


def test_print_makes_one_write_call_per_record(monkeypatch):
    calls = []
    monkeypatch.setattr("sys.stdout", types.SimpleNamespace(write=calls.append))
    PrintSink("> ").write(1)
    PrintSink("> ").write(2)
    assert calls == ["> 1\n", "> 2\n"]


# --- what a sink says of itself ---------------------------------------------------------------------------


def test_a_file_is_published_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = TextSink(tmp_path / "out.txt")
    assert sink.publishes() == ["out.txt"]
    assert sink.at_a_stop() == "publishes out.txt at the end; a cancel removes what it wrote"


def test_a_device_promises_nothing_and_is_written_at_once():
    assert TextSink("/dev/null").publishes() is None
    assert TextSink("/dev/null").at_a_stop() == "writes each record at once; a cancel does not undo that"
