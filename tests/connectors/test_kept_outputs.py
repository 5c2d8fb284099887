"""What a file sink keeps at a checkpoint, and how a later attempt goes on with it and publishes one file."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pytest

from sage_flow.connectors import CsvSink, CsvSource, JsonlSink, TextSink, TextSource
from sage_flow.errors import InputError
from sage_flow.functions import END, RuntimeContext


def context(index=0, parallelism=1, attempt=1, job_id="test-1"):
    return RuntimeContext("test", "sink", index, parallelism, job_id=job_id, attempt=attempt)


def opened(path, *args, kind=TextSink, **kwargs):
    sink = kind(path)
    sink.open(context(*args, **kwargs))
    return sink


def written(sink, *records):
    for record in records:
        sink.write(record)
    return sink


def kept(sink, checkpoint=1):
    """What the sink hands over at a checkpoint, as another process gets it."""
    assert sink.prepare(checkpoint) is None
    return pickle.loads(pickle.dumps(sink.snapshot()))


def restored(path, snapshots, *args, kind=TextSink, **kwargs):
    sink = opened(path, *args, kind=kind, **kwargs)
    sink.restore(snapshots)
    sink.recover(())
    return sink


def publish(sink):
    handle = sink.prepare(0)
    sink.close()
    sink.commit(pickle.loads(pickle.dumps(handle)))
    sink.abort()
    return handle


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def read(path, kind=TextSource):
    source = kind(path)
    source.open(context())
    found = []
    while (batch := source.next_batch()) is not END:
        found += batch if isinstance(batch, list) else []
    return found


# --- one attempt ------------------------------------------------------------------------------------------


def test_a_checkpoint_publishes_nothing_and_the_sink_goes_on(tmp_path):
    sink = opened(tmp_path / "out.txt")
    kept(written(sink, "a"), 1)
    kept(written(sink, "b"), 2)
    assert not (tmp_path / "out.txt").exists()
    publish(written(sink, "c"))
    assert contents(tmp_path) == {"out.txt": "a\nb\nc\n"}


def test_a_snapshot_names_what_was_written_before_it_and_it_is_on_the_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    sink = opened(tmp_path / "out.txt")
    [segment] = kept(written(sink, "a", "b")).segments
    assert (segment.length, os.stat(segment.path).st_size) == (4, 4)
    assert synced == [os.stat(segment.path).st_ino, os.stat(tmp_path).st_ino]
    [again] = kept(sink, 2).segments
    assert again == segment
    assert len(synced) == 2  # nothing was written since


def test_a_sink_that_has_written_nothing_keeps_nothing(tmp_path):
    sink = opened(tmp_path / "out.csv", kind=CsvSink)
    assert kept(sink).segments == ()
    publish(sink)
    assert contents(tmp_path) == {"out.csv": ""}


def test_an_abort_leaves_what_a_snapshot_names_and_a_recovery_without_a_successor_does_not(tmp_path):
    sink = opened(tmp_path / "out.txt")
    [segment] = kept(written(sink, "a")).segments
    written(sink, "b").close()
    sink.abort()
    assert names(tmp_path) == [os.path.basename(segment.path)]
    sink.recover(())
    assert names(tmp_path) == []


def test_a_device_keeps_nothing():
    sink = opened("/dev/null")
    assert kept(written(sink, "a")) is None
    sink.close()


# --- a later attempt --------------------------------------------------------------------------------------


def test_a_later_attempt_goes_on_where_the_checkpoint_was_and_not_where_the_file_ends(tmp_path):
    zombie = opened(tmp_path / "out.txt")
    snapshot = kept(written(zombie, "a", "b"))
    kept(written(zombie, "lost"), 2)
    sink = restored(tmp_path / "out.txt", [snapshot], attempt=2)
    written(sink, "c")
    kept(written(zombie, "never to be seen"), 3)
    publish(sink)
    zombie.close()
    zombie.abort()
    assert contents(tmp_path) == {"out.txt": "a\nb\nc\n"}


def test_segments_of_many_attempts_are_one_file(tmp_path):
    snapshot = None
    for attempt in range(1, 6):
        sink = restored(tmp_path / "out.txt", [snapshot] if snapshot else [], attempt=attempt)
        snapshot = kept(written(sink, f"{attempt}"), attempt)
        written(sink, "lost")
    assert [segment.length for segment in snapshot.segments] == [2] * 5
    handle = publish(restored(tmp_path / "out.txt", [snapshot], attempt=6))
    assert contents(tmp_path) == {"out.txt": "1\n2\n3\n4\n5\n"}
    sink.commit(handle)  # again
    assert contents(tmp_path) == {"out.txt": "1\n2\n3\n4\n5\n"}


def test_a_prepared_output_that_is_not_published_leaves_the_checkpoint_before_it_as_it_was(tmp_path):
    first = opened(tmp_path / "out.txt")
    snapshot = kept(written(first, "a"))
    second = restored(tmp_path / "out.txt", [snapshot], attempt=2)
    assert written(second, "lost").prepare(0) is not None
    second.close()
    second.abort()
    publish(written(restored(tmp_path / "out.txt", [snapshot], attempt=3), "b"))
    assert contents(tmp_path) == {"out.txt": "a\nb\n"}


def test_an_output_of_an_earlier_run_stays_until_the_joined_one_is_published(tmp_path):
    (tmp_path / "out.txt").write_text("old\n")
    (tmp_path / "out.txt").chmod(0o640)
    snapshot = kept(written(opened(tmp_path / "out.txt"), "a"))
    sink = restored(tmp_path / "out.txt", [snapshot], attempt=2)
    handle = written(sink, "b").prepare(0)
    assert (tmp_path / "out.txt").read_text() == "old\n"
    sink.commit(handle)
    assert contents(tmp_path) == {"out.txt": "a\nb\n"}
    assert (tmp_path / "out.txt").stat().st_mode & 0o777 == 0o640


def test_two_processes_commit_a_joined_output_and_the_loser_succeeds(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.txt"), "a"))
    sink = restored(tmp_path / "out.txt", [snapshot], attempt=2)
    handle = written(sink, "b").prepare(0)
    for _ in range(3):
        TextSink(tmp_path / "out.txt").commit(handle)
    assert contents(tmp_path) == {"out.txt": "a\nb\n"}
    (tmp_path / "out.txt").unlink()
    with pytest.raises(InputError, match="has been moved or removed since"):
        sink.commit(handle)


def test_what_a_full_disk_stops_while_it_is_joined_can_be_joined_by_the_next_attempt(tmp_path, monkeypatch):
    snapshot = kept(written(opened(tmp_path / "out.txt"), "a"))
    sink = written(restored(tmp_path / "out.txt", [snapshot], attempt=2), "lost")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sage_flow.connectors.output_file.join_segments", full)
        with pytest.raises(OSError, match="No space left"):
            sink.prepare(0)
    sink.close()
    sink.abort()
    assert names(tmp_path) == [os.path.basename(snapshot.segments[0].path)]
    publish(written(restored(tmp_path / "out.txt", [snapshot], attempt=3), "b"))
    assert contents(tmp_path) == {"out.txt": "a\nb\n"}


@pytest.mark.parametrize(
    ("harm", "fault"), [(os.remove, "which is gone"), (lambda path: os.truncate(path, 1), "has 1")]
)
def test_a_file_that_a_checkpoint_names_and_that_is_not_there_is_an_error(harm, fault, tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.txt"), "a"))
    harm(snapshot.segments[0].path)
    sink = opened(tmp_path / "out.txt", attempt=2)
    with pytest.raises(InputError, match=rf"out\.txt: a checkpoint keeps 2 bytes of it in .*{fault}"):
        sink.restore([snapshot])


def test_a_sink_of_another_format_does_not_go_on_with_it(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out"), "a"))
    sink = opened(tmp_path / "out", attempt=2, kind=JsonlSink)
    with pytest.raises(InputError, match="records of write_text, and write_jsonl cannot go on with them"):
        sink.restore([snapshot])


# --- another parallelism ----------------------------------------------------------------------------------


def test_two_become_one_and_the_name_is_that_of_the_one(tmp_path):
    snapshots = [kept(written(opened(tmp_path / "out.txt", index, 2), f"{index}")) for index in range(2)]
    publish(written(restored(tmp_path / "out.txt", snapshots, attempt=2), "c"))
    assert contents(tmp_path) == {"out.txt": "0\n1\nc\n"}


def test_one_becomes_three(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.txt"), "a"))
    sinks = [restored(tmp_path / "out.txt", [snapshot][index:], index, 3, 2) for index in range(3)]
    handles = [written(sink, f"{index}").prepare(0) for index, sink in enumerate(sinks)]
    for handle in handles:
        sinks[0].commit(handle)
    assert contents(tmp_path) == {
        "out-00000-of-00003.txt": "a\n0\n",
        "out-00001-of-00003.txt": "1\n",
        "out-00002-of-00003.txt": "2\n",
    }


def test_a_file_that_another_subtask_took_over_stays_when_its_old_number_comes_back(tmp_path):
    """Subtask 3 of 4 writes; 1 of 2 takes it over; in the third attempt there is a subtask 3 again, and has no part."""
    snapshot = kept(written(opened(tmp_path / "out.txt", 3, 4, 1), "a"))
    snapshot = kept(restored(tmp_path / "out.txt", [snapshot], 1, 2, 2), 2)
    for index, snapshots in ((3, []), (1, [snapshot])):
        sink = restored(tmp_path / "out.txt", snapshots, index, 4, 3)
    handle = written(sink, "b").prepare(0)
    sink.commit(handle)
    assert (tmp_path / "out-00001-of-00004.txt").read_text() == "a\nb\n"


def test_what_a_finished_subtask_has_prepared_is_dealt_as_its_snapshot(tmp_path):
    """At another parallelism its handle has a name that no longer fits."""
    finished = written(opened(tmp_path / "out.txt", 0, 2), "a")
    assert finished.prepare(0) is not None
    first = finished.snapshot()
    finished.close()
    second = kept(written(opened(tmp_path / "out.txt", 1, 2), "b"))
    publish(written(restored(tmp_path / "out.txt", [first, second], attempt=2), "c"))
    assert contents(tmp_path) == {"out.txt": "a\nb\nc\n"}


# --- what is removed, and by whom -------------------------------------------------------------------------


def test_a_later_attempt_removes_what_the_restored_checkpoint_does_not_name(tmp_path):
    first = opened(tmp_path / "out.txt", attempt=1)
    snapshot = kept(written(first, "a"))
    second = restored(tmp_path / "out.txt", [snapshot], attempt=2)
    kept(written(second, "lost"), 2)  # that checkpoint was never complete
    third = restored(tmp_path / "out.txt", [snapshot], attempt=3)
    assert len(names(tmp_path)) == 2
    publish(third)
    assert contents(tmp_path) == {"out.txt": "a\n"}


def test_the_pieces_of_a_prepared_output_stay_until_it_is_published(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.txt"), "a"))
    handle = written(restored(tmp_path / "out.txt", [snapshot], attempt=2), "b").prepare(0)
    sink = opened(tmp_path / "out.txt", attempt=3)
    sink.recover([handle])
    sink.close()
    sink.abort()
    assert len(names(tmp_path)) == 2
    sink.commit(handle)
    assert contents(tmp_path) == {"out.txt": "a\nb\n"}


def test_an_attempt_that_begins_anew_removes_what_an_earlier_one_kept(tmp_path):
    kept(written(opened(tmp_path / "out.txt"), "lost"))
    sink = opened(tmp_path / "out.txt", attempt=2)
    sink.recover(())
    publish(written(sink, "a"))
    assert contents(tmp_path) == {"out.txt": "a\n"}


def test_kept_files_of_another_job_are_read_and_stay(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.txt", job_id="old-1"), "a"))
    publish(written(restored(tmp_path / "out.txt", [snapshot], job_id="new-1"), "b"))
    assert names(tmp_path) == [os.path.basename(snapshot.segments[0].path), "out.txt"]
    assert (tmp_path / "out.txt").read_text() == "a\nb\n"


KILLED = """
    import os, pickle, signal, sys
    from sage_flow.connectors import CsvSink
    from sage_flow.functions import RuntimeContext
    sink = CsvSink(sys.argv[1])
    sink.open(RuntimeContext("test", "sink", 0, 1, job_id="killed-1"))
    for number in range(1000):
        sink.write({"n": number, "text": "x" * number})
    sink.prepare(1)
    sys.stdout.buffer.write(pickle.dumps(sink.snapshot()))
    sys.stdout.flush()
    for number in range(100_000):
        sink.write({"n": -1, "text": "lost"})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_what_a_killed_process_kept_outlives_other_runs_until_a_later_attempt_publishes_it(ending, tmp_path):
    out = tmp_path / f"out.csv{ending}"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(out)]
    told = subprocess.run(command, capture_output=True, check=False)
    assert told.returncode == -signal.SIGKILL
    publish(written(opened(out, kind=CsvSink, job_id="other-1"), {"n": 0}))
    snapshot = pickle.loads(told.stdout)
    sink = restored(out, [snapshot], attempt=2, job_id="killed-1", kind=CsvSink)
    publish(written(sink, {"n": 1000, "text": "x" * 1000}))
    assert names(tmp_path) == [out.name]
    assert read(out, CsvSource) == [{"n": str(number), "text": "x" * number} for number in range(1001)]


# --- compression ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "lzma"])
def test_a_compressed_file_is_cut_into_members_that_read_as_one(ending, tmp_path):
    out = tmp_path / f"out.txt.{ending}"
    sink = opened(out)
    snapshots = [kept(written(sink, f"{number}" * 100), number) for number in range(1, 4)]
    assert read(snapshots[0].segments[0].path) == ["1" * 100, "2" * 100, "3" * 100]  # detected by its first bytes
    later = restored(out, [snapshots[1]], attempt=2)
    publish(written(later, "4" * 100))
    assert read(out) == ["1" * 100, "2" * 100, "4" * 100]
    assert names(tmp_path) == [out.name]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "lzma"])
def test_an_output_that_nobody_cuts_has_one_member(ending, tmp_path):
    publish(written(opened(tmp_path / f"cut.txt.{ending}"), "a"))
    sink = opened(tmp_path / f"out.txt.{ending}")
    kept(sink)  # nothing yet
    publish(written(sink, "a"))
    assert (tmp_path / f"cut.txt.{ending}").read_bytes() == (tmp_path / f"out.txt.{ending}").read_bytes()


def test_an_output_that_gets_another_ending_is_compressed_anew(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.txt.gz"), "a"))
    for name in ("out.txt", "out.txt.bz2"):
        sink = restored(tmp_path / name, [snapshot], attempt=2)
        publish(written(sink, "b"))
        assert read(tmp_path / name) == ["a", "b"]
        snapshot = kept(written(opened(tmp_path / "out.txt.gz", attempt=3), "a"))


# --- the header of CSV ------------------------------------------------------------------------------------


def csv_text(path):
    return path.read_bytes().decode().split("\r\n")


@pytest.mark.parametrize("fieldnames", [None, ["a"]])
@pytest.mark.parametrize("counts", [(1, 1), (0, 1), (1, 0), (0, 0), (2, 3)])
def test_there_is_one_header_whoever_has_rows(counts, fieldnames, tmp_path):
    before, after = counts
    out = tmp_path / "out.csv"
    rows = [{"a": number} for number in range(before + after)]
    first, second = CsvSink(out, fieldnames=fieldnames), CsvSink(out, fieldnames=fieldnames)
    first.open(context())
    snapshot = kept(written(first, *rows[:before]))
    second.open(context(attempt=2))
    second.restore([snapshot])
    publish(written(second, *rows[before:]))
    header = ["a"] if rows or fieldnames else []
    assert csv_text(out) == [*header, *(str(row["a"]) for row in rows), ""]


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
def test_the_header_of_the_second_of_two_that_become_one_is_left_out(ending, tmp_path):
    out = tmp_path / f"out.csv{ending}"
    snapshots = []
    for index in range(2):
        sink = written(opened(out, index, 2, kind=CsvSink), {"ä": index, "b": "x"})
        kept(sink)
        snapshots.append(kept(written(sink, {"ä": 10 + index, "b": "y"}), 2))
    sink = restored(out, snapshots, attempt=2, kind=CsvSink)
    snapshot = kept(written(sink, {"ä": 20, "b": "z"}), 3)
    assert [segment.header for segment in snapshot.segments] == [6, 6, 0]
    publish(written(restored(out, [snapshot], attempt=3, kind=CsvSink), {"ä": 30, "b": "z"}))
    assert [row["ä"] for row in read(out, CsvSource)] == ["0", "10", "1", "11", "20", "30"]


def test_the_columns_of_a_checkpoint_count_after_it(tmp_path):
    snapshot = kept(written(opened(tmp_path / "out.csv", kind=CsvSink), {"a": 1, "b": 2}))
    sink = restored(tmp_path / "out.csv", [snapshot], attempt=2, kind=CsvSink)
    with pytest.raises(ValueError, match=r"missing \['b'\], extra \['c'\]"):
        sink.write({"a": 1, "c": 2})
    publish(written(sink, {"b": 4, "a": 3}))
    assert csv_text(tmp_path / "out.csv") == ["a,b", "1,2", "3,4", ""]


def test_a_subtask_without_a_part_begins_with_a_header(tmp_path):
    publish(written(restored(tmp_path / "out.csv", [], 1, 2, 2, kind=CsvSink), {"a": 1}))
    assert csv_text(tmp_path / "out-00001-of-00002.csv") == ["a", "1", ""]


def test_rows_with_different_columns_are_not_joined(tmp_path):
    snapshots = [
        kept(written(opened(tmp_path / "out.csv", index, 2, kind=CsvSink), record))
        for index, record in enumerate([{"a": 1, "b": 2}, {"b": 1, "a": 2}])
    ]
    sink = opened(tmp_path / "out.csv", attempt=2, kind=CsvSink)
    with pytest.raises(InputError, match=r"\['a', 'b'\] and rows with \['b', 'a'\].*restore with the parallelism"):
        sink.restore(snapshots)
    given = CsvSink(tmp_path / "out.csv", fieldnames=["a", "c"])
    given.open(context(attempt=3))
    with pytest.raises(InputError, match=r"fieldnames=\['a', 'c'\], and the checkpoint has rows with .*\['a', 'b'\]"):
        given.restore(snapshots[:1])
