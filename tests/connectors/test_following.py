"""`follow=True`: files that grow, are rotated and truncated."""

import gzip
import os
import threading
from types import SimpleNamespace

import pytest

from sage_flow import END, IDLE, JobStatus, LocalEnvironment
from sage_flow.connectors import JsonlSource, TextSource, following
from sage_flow.errors import PipelineError
from sage_flow.functions import Malformed

LONG_S = 60.0


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "log"
    made.write_text("")
    return made


OPENED = []


@pytest.fixture(autouse=True)
def _all_are_closed():
    yield
    while OPENED:
        OPENED.pop().close()


def opened(path, position=None, source=TextSource, **options):
    made = source(path, follow=True, **options)
    made.open(SimpleNamespace(subtask_index=0, parallelism=1))
    if position is not None:
        made.restore(position)
    OPENED.append(made)
    return made


def rows(source):
    """What is there now."""
    found = []
    while (batch := source.next_batch()) is not IDLE:
        assert batch is not END
        found += batch if isinstance(batch, list) else [batch]
    return found


def append(path, text):
    with open(path, "ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_complete_lines_are_read_as_they_come(path):
    source = opened(path)
    assert rows(source) == []
    append(path, "a\nb")
    assert rows(source) == ["a"]
    append(path, "c\r\n")
    assert rows(source) == ["bc"]
    assert rows(source) == []
    assert not source.bounded


def test_a_character_in_two_parts_is_one(path):
    source = opened(path)
    append(path, "é\n".encode()[:1])
    assert rows(source) == []
    append(path, "é\n".encode()[1:])
    assert rows(source) == ["é"]


def test_a_line_longer_than_what_is_read_at_once_is_whole(path, monkeypatch):
    monkeypatch.setattr(following, "_CHUNK", 7)
    append(path, "\ufeff" + "x" * 100 + "\nshort\n" + "y" * 20)
    assert rows(opened(path)) == ["x" * 100, "short"]


def test_a_file_that_was_renamed_is_read_to_its_end_and_then_the_new_one(path, tmp_path):
    source = opened(path)
    append(path, "a\n")
    assert rows(source) == ["a"]
    path.rename(tmp_path / "log.1")
    append(tmp_path / "log.1", "b\n")
    assert rows(source) == ["b"]
    append(tmp_path / "log.1", "c\nno end")
    append(path, "d\n")
    assert rows(source) == ["c", "no end", "d"]
    assert source.snapshot()[str(path)][:2] == (2, 1)


def test_a_file_that_becomes_shorter_is_read_again_from_its_start(path, caplog):
    source = opened(path)
    append(path, "first\nsecond\npart")
    assert rows(source) == ["first", "second"]
    path.write_text("third\n")
    assert rows(source) == ["third"]
    assert "has become shorter: it is read again from its start" in caplog.text


def test_a_follower_that_is_cut_after_any_batch_continues(path, monkeypatch):
    monkeypatch.setattr(following, "_CHUNK", 11)
    append(path, "".join(f"line {n} é\n" for n in range(50)) + "rest")
    first, done = opened(path), []
    while (batch := first.next_batch()) is not IDLE:
        done += batch
        assert done + rows(opened(path, first.snapshot())) == [f"line {n} é" for n in range(50)]
    append(path, " of it\n")
    assert rows(opened(path, first.snapshot())) == ["rest of it"]


def test_a_file_that_was_replaced_while_it_was_not_read_is_read_from_its_start(path, tmp_path, caplog):
    append(path, "a\nb\n")
    source = opened(path)
    rows(source)
    path.rename(tmp_path / "log.1")
    append(path, "c\nd\n")
    assert rows(opened(path, source.snapshot())) == ["c", "d"]
    assert "was replaced while it was not read" in caplog.text


def test_malformed_lines_are_told_with_their_numbers(path):
    source = opened(path, source=JsonlSource)
    append(path, "1\n")
    assert rows(source) == [1]
    append(path, b'{"a\n2\n\xff\n3\n')
    found = rows(source)
    assert [row for row in found if not isinstance(row, Malformed)] == [2, 3]
    assert [row.record[1:] for row in found if isinstance(row, Malformed)] == [(2, '{"a'), (4, "\ufffd")]


def test_what_cannot_be_followed_is_refused_when_the_source_is_made(tmp_path):
    packed, pipe, plain = tmp_path / "a.gz", tmp_path / "pipe", tmp_path / "a"
    packed.write_bytes(gzip.compress(b"1\n"))
    plain.write_text("1\n")
    os.mkfifo(pipe)
    with pytest.raises(PipelineError, match=r"a\.gz: is compressed; follow=True reads plain files"):
        TextSource(packed, follow=True)
    with pytest.raises(PipelineError, match=r"pipe: follow=True reads local files, not URLs, FIFOs and devices"):
        TextSource(pipe, follow=True)
    for encoding in ("utf-16", "cp037"):  # the second one has another newline
        with pytest.raises(PipelineError, match=f"follow=True reads UTF-8 and one-byte encodings .* not {encoding}"):
            TextSource(plain, follow=True, encoding=encoding)


@pytest.mark.parametrize("read", ["read_text", "read_jsonl"])
def test_a_job_follows_files_until_it_is_drained(tmp_path, read):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("1\n")
    seen, two, four = [], threading.Event(), threading.Event()

    def note(row):
        seen.append(row)
        if len(seen) == 2:
            two.set()
        if len(seen) == 4:
            four.set()

    env = LocalEnvironment("test")
    rows = getattr(env, read)(paths, follow=True)
    rows.for_each(note)
    rows.map(int).collect("rows")
    with env.submit() as job:
        assert two.wait(LONG_S)
        for path in paths:
            append(path, "2\n")
        assert four.wait(LONG_S)
        job.drain()
        result = job.result(timeout=LONG_S)
    assert result.status is JobStatus.FINISHED
    assert sorted(result.collected["rows"]) == [1, 1, 2, 2]
