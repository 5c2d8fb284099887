"""What a file sink prepares is published by any process of its job, again and again, whoever dies and whenever."""

import errno
import os
import pickle
import stat
import subprocess
import sys
import textwrap

import pytest

from sage_flow.connectors import CsvSink, JsonlSink, TextSink, TextSource
from sage_flow.errors import InputError
from sage_flow.functions import END, RuntimeContext


def context(index=0, parallelism=1, job_id="test-1", attempt=1):
    return RuntimeContext("test", "sink", index, parallelism, job_id=job_id, attempt=attempt)


def opened(path, *args, **kwargs):
    sink = TextSink(path)
    sink.open(context(*args, **kwargs))
    return sink


def prepared(path, text, *args, **kwargs):
    """A handle, whose sink has ended."""
    sink = opened(path, *args, **kwargs)
    sink.write(text)
    handle = sink.prepare(0)
    sink.close()
    return handle


def prepared_parts(path, *texts, **kwargs):
    sinks = [opened(path, index, len(texts), **kwargs) for index in range(len(texts))]
    for sink, text in zip(sinks, texts, strict=True):
        sink.write(text)
    handles = [sink.prepare(0) for sink in sinks]
    for sink in sinks:
        sink.close()
    return handles


def commit(handle):
    TextSink(handle.path).commit(handle)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def read(path):
    source = TextSource(path)
    source.open(context())
    found = []
    while (batch := source.next_batch()) is not END:
        found += batch if isinstance(batch, list) else []
    return found


# --- prepare ----------------------------------------------------------------------------------------------


def test_a_prepared_file_is_complete_hidden_and_not_yet_there(tmp_path):
    handle = prepared(tmp_path / "out.txt", "a", 0, 1, "job-1", 3)
    [name] = names(tmp_path)
    assert name.startswith(".out.txt.job-1.a3.s0.")
    assert name.endswith(".c0.prepared")
    assert handle.staging == str(tmp_path / name)
    assert (handle.path, handle.target, handle.length) == (*[str(tmp_path / "out.txt")] * 2, 2)
    assert (tmp_path / name).read_text() == "a\n"


def test_a_handle_is_a_small_value(tmp_path):
    for handle in prepared_parts(tmp_path / "out.txt", "old", "old"):
        commit(handle)
    for handle in prepared_parts(tmp_path / "out.txt", "new", "new", job_id="test-2"):
        packed = pickle.dumps(handle)
        assert pickle.loads(packed) == handle
        assert len(packed) < 600


def test_what_is_prepared_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    events = recorded(monkeypatch)
    handle = prepared(tmp_path / "out.txt", "a")
    assert events == ["fsync of a file", "rename", "fsync of a folder"]
    events.clear()
    commit(handle)
    assert events == ["replace", "fsync of a folder"]
    events.clear()
    commit(handle)  # the process before may have died before its fsync
    assert events == ["fsync of a folder"]


def test_both_folders_are_on_the_disk_if_the_output_is_a_link(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "out.txt").symlink_to("data/real.txt")
    handle = prepared(tmp_path / "out.txt", "a")
    events = recorded(monkeypatch)
    commit(handle)
    assert events == ["replace", "fsync of a folder", "fsync of a folder"]
    assert names(tmp_path / "data") == ["real.txt"]


def recorded(monkeypatch):
    events, fsync = [], os.fsync

    def synced(descriptor):
        events.append("fsync of a folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync of a file")
        fsync(descriptor)

    def moved(name, real):
        def call(source, target):
            events.append(name)
            real(source, target)

        return call

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, moved(name, getattr(os, name)))
    return events


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_the_disk_refuses_fails_the_commit_which_can_be_repeated(number, raises, tmp_path, monkeypatch):
    handle = prepared(tmp_path / "out.txt", "a")

    def refuse(_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        if raises:
            with pytest.raises(OSError, match="Input/output error"):
                commit(handle)
        else:
            commit(handle)
    commit(handle)
    assert contents(tmp_path) == {"out.txt": "a\n"}


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "lzma"])
def test_a_compressed_stream_is_ended_when_it_is_prepared(ending, tmp_path):
    out = tmp_path / f"out.txt.{ending}"
    sink = opened(out)
    sink.write("a" * 10_000)
    handle = sink.prepare(0)
    assert handle.length == os.stat(handle.staging).st_size < 1000
    commit(handle)
    assert read(out) == ["a" * 10_000]
    sink.close()
    sink.abort()
    assert read(out) == ["a" * 10_000]


@pytest.mark.parametrize("sink", [TextSink, CsvSink, JsonlSink])
def test_an_empty_result_is_prepared_as_an_empty_file(sink, tmp_path):
    sink = sink(tmp_path / "out")
    sink.open(context())
    handle = sink.prepare(0)
    sink.close()
    commit(handle)
    assert contents(tmp_path) == {"out": ""}


def test_nothing_is_prepared_twice_or_by_a_sink_that_is_not_open(tmp_path):
    sink = TextSink(tmp_path / "out.txt")
    assert sink.prepare(0) is None
    sink.open(context())
    assert sink.prepare(0) is not None
    assert sink.prepare(1) is None
    sink.close()
    assert sink.prepare(2) is None


def test_a_device_has_nothing_to_publish_and_goes_on():
    sink = opened("/dev/null")
    sink.write("a")
    assert sink.prepare(1) is None
    sink.write("b")
    assert sink.prepare(0) is None
    sink.close()
    sink.abort()
    sink.recover(())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_device_that_takes_nothing_fails_to_prepare():
    sink = opened("/dev/full")
    sink.write("x" * 100)
    with pytest.raises(OSError, match="No space left"):
        sink.prepare(0)
    with pytest.raises(OSError, match="No space left"):
        sink.close()


def test_what_could_not_be_prepared_is_aborted(tmp_path, monkeypatch):
    sink = opened(tmp_path / "out.txt")
    sink.write("a")

    def refuse(_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="broken"):
            sink.prepare(0)
    sink.close()
    sink.abort()
    assert names(tmp_path) == []


def test_a_file_that_is_prepared_and_not_yet_on_the_disk_goes_with_a_recovery(tmp_path, monkeypatch):
    sink, fsync = opened(tmp_path / "out.txt"), os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "broken")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="broken"):
            sink.prepare(0)
    sink.close()
    sink.abort()
    assert len(names(tmp_path)) == 1
    sink.recover(())
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")
def test_preparing_and_publishing_leaves_nothing_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "out.txt.gz").write_text("old")
    commit(prepared(tmp_path / "out.txt.gz", "a"))
    prepared(tmp_path / "out.txt.gz", "a")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["x" * 236 + ".txt", "é" * 120])
def test_the_longest_names_are_prepared_and_replace_earlier_parts(name, tmp_path):
    for text in ("old", "new"):
        sinks = [opened(tmp_path / name, index, 2, "j" * 50, 10_000) for index in range(2)]
        for sink in sinks:
            sink.write(text)
        for handle in [sink.prepare(0) for sink in sinks]:
            commit(handle)
    assert len(names(tmp_path)) == 2
    assert set(contents(tmp_path).values()) == {"new\n"}


# --- commit -----------------------------------------------------------------------------------------------


def test_a_commit_inherits_what_the_older_file_has_by_then(tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old")
    handle = prepared(out, "new")
    out.unlink()
    out.write_text("a user's, written meanwhile")
    out.chmod(0o640)
    commit(handle)
    assert contents(tmp_path) == {"out.txt": "new\n"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_prepared_file_that_its_owner_may_not_read_is_published(tmp_path, monkeypatch):
    out, real = tmp_path / "out.txt", os.open
    out.write_text("old")
    out.chmod(0o200)
    handle = prepared(out, "new")

    def refuse(path, *args):
        if path == handle.staging:
            raise PermissionError
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    commit(handle)
    monkeypatch.undo()
    assert contents(tmp_path) == {"out.txt": "new\n"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o200


def test_what_a_user_changes_at_a_published_file_stays_when_it_is_committed_again(tmp_path):
    handle = prepared(tmp_path / "out.txt", "new")
    commit(handle)
    (tmp_path / "out.txt").chmod(0o600)
    commit(handle)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o600


def test_a_prepared_file_that_is_gone_is_an_error(tmp_path):
    handle = prepared(tmp_path / "out.txt", "new")
    os.remove(handle.staging)
    with pytest.raises(
        InputError, match=r"out\.txt: its output was prepared as .*, and has been moved or removed since\."
    ):
        commit(handle)
    assert names(tmp_path) == []


def test_an_older_file_does_not_pass_for_the_one_that_was_prepared(tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old\n")
    handle = prepared(out, "new")
    prepared_at = os.stat(handle.staging).st_mtime_ns
    os.remove(handle.staging)
    os.utime(out, ns=(prepared_at, prepared_at))  # as long, as old
    with pytest.raises(InputError, match=r"moved or removed since; .*out\.txt is another file"):
        commit(handle)
    assert contents(tmp_path) == {"out.txt": "old\n"}


def test_what_another_job_published_later_does_not_pass_for_it_either_and_stays(tmp_path):
    first = prepared(tmp_path / "out.txt", "a")
    commit(first)
    commit(prepared(tmp_path / "out.txt", "b", job_id="test-2"))
    with pytest.raises(InputError, match="is another file"):
        commit(first)
    assert contents(tmp_path) == {"out.txt": "b\n"}


def test_a_prepared_file_that_was_cut_is_not_published_and_earlier_parts_stay(tmp_path):
    for handle in prepared_parts(tmp_path / "out.txt", "old", "old"):
        commit(handle)
    first, _ = prepared_parts(tmp_path / "out.txt", "new", "new", job_id="test-2")
    os.truncate(first.staging, 2)
    with pytest.raises(InputError, match=r"with 4 bytes, and has 2 now; it is not published"):
        commit(first)
    assert [path.read_text() for path in sorted(tmp_path.glob("out*"))] == ["old\n", "old\n"]


def test_what_is_no_file_is_not_replaced_and_what_is_prepared_stays(tmp_path):
    out = tmp_path / "out.txt"
    sink, handle = TextSink(out), prepared(out, "new")
    os.mkfifo(out)
    with pytest.raises(InputError, match="was replaced by something that is not a file"):
        sink.commit(handle)
    out.unlink()
    commit(handle)
    assert contents(tmp_path) == {"out.txt": "new\n"}


@pytest.mark.parametrize("parallelism", [1, 4])
def test_a_later_attempt_publishes_what_the_one_before_it_prepared(parallelism, tmp_path):
    for handle in prepared_parts(tmp_path / "out.txt", *["old"] * parallelism, job_id="test-0"):
        commit(handle)
    handles = prepared_parts(tmp_path / "out.txt", *["new"] * parallelism)
    commit(handles[0])  # then its process died
    sinks = [opened(tmp_path / "out.txt", index, parallelism, attempt=2) for index in range(parallelism)]
    for sink, handle in zip(sinks, handles, strict=True):
        sink.recover([handle])
    for sink, handle in zip(sinks, handles, strict=True):
        sink.commit(pickle.loads(pickle.dumps(handle)))
        sink.close()
        sink.abort()
    assert list(contents(tmp_path).values()) == ["new\n"] * parallelism


# --- recover, and what others remove ----------------------------------------------------------------------


def test_an_abort_removes_only_what_is_not_prepared(tmp_path):
    sink = opened(tmp_path / "out.txt")
    handle = sink.prepare(0)
    sink.close()
    sink.abort()
    assert names(tmp_path) == [os.path.basename(handle.staging)]
    sink = opened(tmp_path / "out.txt", attempt=2)
    sink.close()
    sink.abort()
    assert names(tmp_path) == [os.path.basename(handle.staging)]


def test_a_later_attempt_removes_unprepared_files_when_it_opens_and_prepared_ones_when_it_recovers(tmp_path):
    out = tmp_path / "out.txt"
    first = prepared(out, "a", attempt=1)
    second = prepared(out, "b", attempt=2)
    opened(out, attempt=3).close()
    sink = opened(out, attempt=4)
    assert sum(name.endswith(".tmp") for name in names(tmp_path)) == 1
    assert os.path.exists(first.staging)
    sink.recover([second])
    assert not os.path.exists(first.staging)
    sink.commit(second)
    sink.close()
    sink.abort()
    assert contents(tmp_path) == {"out.txt": "b\n"}


def test_a_cancelled_attempt_removes_what_it_and_earlier_ones_prepared(tmp_path):
    prepared(tmp_path / "out.txt", "a", attempt=1)
    sink = opened(tmp_path / "out.txt", attempt=2)
    sink.prepare(0)
    sink.close()
    sink.abort()
    assert len(names(tmp_path)) == 2
    sink.recover(())
    assert names(tmp_path) == []


def test_an_attempt_that_was_given_up_removes_nothing_of_its_successor(tmp_path):
    zombie = opened(tmp_path / "out.txt", attempt=1)
    zombie.prepare(0)
    successor = prepared(tmp_path / "out.txt", "b", attempt=2)
    zombie.close()
    zombie.abort()
    zombie.recover(())
    assert names(tmp_path) == [os.path.basename(successor.staging)]


def test_an_attempt_that_was_given_up_cannot_prepare_what_its_successor_has_removed(tmp_path):
    zombie = opened(tmp_path / "out.txt", attempt=1)
    sink = opened(tmp_path / "out.txt", attempt=2)
    with pytest.raises(FileNotFoundError):
        zombie.prepare(0)
    zombie.close()
    zombie.abort()
    sink.close()
    sink.abort()
    assert names(tmp_path) == []


def test_a_recovery_keeps_to_its_job_its_subtask_and_its_output(tmp_path):
    others = [
        prepared(tmp_path / "out.txt", "another job", 1, 3, "test-2"),
        prepared(tmp_path / "out.txt", "another job, called alike", 1, 3, "a.test-1"),
        prepared(tmp_path / "out.txt", "another subtask", 2, 3),
        prepared(tmp_path / "out.txt", "another subtask, called alike", 11, 12),
        prepared(tmp_path / "out.txt.bak", "another output", 1, 3),
        prepared(tmp_path / "out", "another output", 1, 3),
    ]
    sink = opened(tmp_path / "out.txt", 1, 3)
    sink.prepare(0)
    sink.recover(())
    assert names(tmp_path) == sorted(os.path.basename(handle.staging) for handle in others)


def test_a_recovery_follows_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "out.txt").symlink_to("data/real.txt")
    kept = prepared(tmp_path / "out.txt", "a", attempt=1)
    prepared(tmp_path / "out.txt", "b", attempt=2)
    sink = opened(tmp_path / "out.txt", attempt=3)
    sink.recover([kept])
    sink.close()
    sink.abort()
    assert names(tmp_path / "data") == [os.path.basename(kept.staging)]


def test_a_sink_that_cannot_open_its_file_still_recovers(tmp_path):
    out = tmp_path / "out.txt"
    prepared(out, "a")
    sink = TextSink(out)
    os.mkfifo(out)
    with pytest.raises(InputError, match="is a FIFO"):
        sink.open(context(attempt=2))
    sink.close()
    sink.abort()
    sink.recover(())
    assert names(tmp_path) == ["out.txt"]


def test_a_recovery_without_the_folder_or_without_an_open_has_nothing_to_do(tmp_path):
    (tmp_path / "data").mkdir()
    sink = opened(tmp_path / "data" / "out.txt")
    (tmp_path / "data" / names(tmp_path / "data")[0]).unlink()
    (tmp_path / "data").rmdir()
    sink.close()
    sink.abort()
    sink.recover(())
    TextSink(tmp_path / "out.txt").recover(())
    assert names(tmp_path) == []


PREPARE = """
    import os, pickle, signal, sys
    from sage_flow.connectors import TextSink
    from sage_flow.functions import RuntimeContext
    sink = TextSink(sys.argv[1])
    sink.open(RuntimeContext("test", "sink", 0, 1, job_id="killed-1"))
    sink.write("a")
    sys.stdout.buffer.write(pickle.dumps(sink.prepare(0)))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_prepared_file_outlives_its_process_and_other_jobs_until_a_later_attempt_publishes_it(tmp_path):
    out = tmp_path / "out.txt"
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(PREPARE), str(out)], capture_output=True, check=False)
    assert told.returncode == -9
    handle = pickle.loads(told.stdout)
    commit(prepared(out, "b", job_id="test-2"))
    assert names(tmp_path) == [os.path.basename(handle.staging), "out.txt"]
    sink = opened(out, job_id="killed-1", attempt=2)
    sink.recover([handle])
    sink.commit(handle)
    sink.close()
    sink.abort()
    assert contents(tmp_path) == {"out.txt": "a\n"}
