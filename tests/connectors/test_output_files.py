"""What a file sink replaces, keeps, refuses and leaves behind."""

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from itertools import permutations
from pathlib import Path

import pytest

from sage_flow.connectors import TextSink, TextSource, temporary_file
from sage_flow.connectors.output_file import OutputFile
from sage_flow.errors import InputError
from sage_flow.functions import RuntimeContext
from tests.connectors.publication import commit

REFUSED = "would take both for one output: remove the old parts, or write to another name"


def opened(path, index=0, parallelism=1, job_id="test-1", attempt=1):
    sink = TextSink(path)
    sink.open(RuntimeContext("test", "sink", index, parallelism, job_id=job_id, attempt=attempt))
    return sink


def closed(path, text, *args, **kwargs):
    sink = opened(path, *args, **kwargs)
    sink.write(text)
    sink.close()
    return sink


def publish(path, text, *args, **kwargs):
    commit(closed(path, text, *args, **kwargs))


def closed_parts(path, *texts, **kwargs):
    sinks = [opened(path, index, len(texts), **kwargs) for index in range(len(texts))]
    for sink, text in zip(sinks, texts, strict=True):
        sink.write(text)
        sink.close()
    return sinks


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# --- what is replaced, and what of it stays --------------------------------------------------------


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664, 0o755])
def test_an_older_file_hands_its_mode_on(bits, tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old")
    out.chmod(bits)
    publish(out, "new")
    assert (out.read_text(), mode(out)) == ("new\n", bits)


def test_what_is_written_over_a_private_file_is_private_from_the_start(tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old")
    out.chmod(0o600)
    sink = opened(out)
    [temporary] = [path for path in tmp_path.iterdir() if path != out]
    assert mode(temporary) == 0o600
    sink.close()
    sink.abort()


def test_a_mode_that_changes_while_the_file_is_written_counts(tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old")
    sink = closed(out, "new")
    out.chmod(0o600)
    commit(sink)
    assert mode(out) == 0o600


def test_a_new_file_gets_the_mode_that_open_gives(tmp_path):
    publish(tmp_path / "out.txt", "new")
    (tmp_path / "plain.txt").write_text("plain")
    assert mode(tmp_path / "out.txt") == mode(tmp_path / "plain.txt")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_older_file_hands_its_owner_on(tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old")
    os.chown(out, 12345, 23456)
    out.chmod(0o640)
    publish(out, "new")
    assert (out.stat().st_uid, out.stat().st_gid, mode(out)) == (12345, 23456, 0o640)


def test_another_group_gets_only_what_all_may(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError

    out = tmp_path / "out.txt"
    out.write_text("old")
    out.chmod(0o664)
    older = out.stat()
    foreign = os.stat_result((*older[:5], older.st_gid + 1, *older[6:]))
    real = os.stat
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "stat", lambda path, **how: foreign if path == str(out) else real(path, **how))
    publish(out, "new")
    monkeypatch.undo()
    assert mode(out) == 0o644


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="there are no extended attributes here")
def test_an_older_file_hands_its_attributes_on(tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("old")
    try:
        os.setxattr(out, "user.origin", b"here")
    except OSError:
        pytest.skip("this file system has none")
    publish(out, "new")
    assert os.getxattr(out, "user.origin") == b"here"


@pytest.mark.parametrize("exists", [True, False])
def test_what_a_link_points_to_is_written_and_the_link_stays(exists, tmp_path):
    target = tmp_path / "data" / "real.txt"
    target.parent.mkdir()
    if exists:
        target.write_text("old")
        target.chmod(0o600)
    link = tmp_path / "out.txt"
    link.symlink_to("data/real.txt")
    publish(link, "new")
    assert os.readlink(link) == "data/real.txt"
    assert target.read_text() == "new\n"
    assert not exists or mode(target) == 0o600
    assert (names(tmp_path), names(target.parent)) == (["data", "out.txt"], ["real.txt"])


def test_a_link_in_the_place_of_a_part_is_written_through(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "out-00001-of-00002.txt").symlink_to("data/second.txt")
    for sink in closed_parts(tmp_path / "out.txt", "a", "b"):
        commit(sink)
    assert (tmp_path / "out-00001-of-00002.txt").is_symlink()
    assert (tmp_path / "data" / "second.txt").read_text() == "b\n"


def test_a_link_to_nowhere_is_refused_when_the_sink_is_made(tmp_path):
    (tmp_path / "out.txt").symlink_to("gone/real.txt")
    with pytest.raises(InputError, match=r"links to .*gone/real\.txt, and there is no directory .*gone; make it first"):
        TextSink(tmp_path / "out.txt")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    with pytest.raises(InputError, match=r"circle\.txt: Too many levels of symbolic links"):
        TextSink(tmp_path / "circle.txt")


# --- what is no regular file -----------------------------------------------------------------------


def test_dev_null_is_written_through(tmp_path):
    before = os.stat("/dev/null")
    sink = closed("/dev/null", "gone", 1, 3)
    commit(sink)
    sink.abort()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    assert not sink.publishes_at_end
    assert not [name for name in os.listdir("/dev") if "null" in name and name != "null"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_device_that_takes_nothing_fails_the_sink():
    sink = opened("/dev/full")
    sink.write("x" * 100)
    with pytest.raises(OSError, match="No space left"):
        sink.close()


def test_fifos_and_sockets_are_refused_when_the_sink_is_made(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)  # a short path
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for kind in ("fifo", "socket"):
            with pytest.raises(InputError, match=f"(?i){kind}: is a {kind}, and a file sink publishes whole files"):
                TextSink(tmp_path / kind)


def test_what_becomes_a_fifo_before_the_sink_opens_or_publishes_is_not_replaced(tmp_path):
    out = tmp_path / "out.txt"
    late, early = closed(out, "new", job_id="test-1"), TextSink(out)
    os.mkfifo(out)
    with pytest.raises(InputError, match="is a FIFO"):
        early.open(RuntimeContext("test", "sink", 0, 1, job_id="test-2"))
    with pytest.raises(InputError, match="was replaced by something that is not a file"):
        commit(late)
    late.abort()
    late.recover(())
    assert names(tmp_path) == ["out.txt"]
    assert stat.S_ISFIFO(out.stat().st_mode)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1"])
def test_streams_of_the_process_are_refused_with_what_prints(path):
    with pytest.raises(InputError, match=rf"{path}: is a stream of this process; use \.print\(\)"):
        TextSink(path)


def test_a_url_is_refused_as_what_it_is():
    with pytest.raises(InputError, match=r"s3://bucket/out\.txt: is a URL, and sinks write only files"):
        TextSink("s3://bucket/out.txt")


# --- parts of several runs -------------------------------------------------------------------------


def test_parts_of_another_parallelism_are_refused_when_the_sink_opens(tmp_path):
    out = tmp_path / "out.txt"
    for sink in closed_parts(out, "a", "b", "c"):
        commit(sink)
    with pytest.raises(
        InputError, match=rf"is 2, and out-00000-of-00003\.txt and 2 more exist, from a run with .*{REFUSED}"
    ):
        opened(out, 0, 2, "test-2")
    with pytest.raises(
        InputError, match=rf"is 1, and out-00000-of-00003\.txt and 2 more exist, from a run with .*{REFUSED}"
    ):
        opened(out, 0, 1, "test-2")
    assert names(tmp_path) == [f"out-0000{n}-of-00003.txt" for n in range(3)]


def test_parts_are_refused_beside_the_single_file_of_an_earlier_run(tmp_path):
    out = tmp_path / "out.txt"
    publish(out, "old")
    with pytest.raises(InputError, match=rf"is 2, and out\.txt exists, from a run with .*{REFUSED}"):
        opened(out, 0, 2, "test-2")
    assert names(tmp_path) == ["out.txt"]


def test_files_that_only_resemble_parts_are_left_alone(tmp_path):
    for name in ("out-1-of-4.txt", "out-00000-of-00004.csv", "other-00000-of-00004.txt", "out-00000-of-00004.txt.bak"):
        (tmp_path / name).write_text("mine")
    before = names(tmp_path)
    publish(tmp_path / "out.txt", "new")
    assert names(tmp_path) == sorted([*before, "out.txt"])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_reader_never_sees_parts_of_two_runs(order, tmp_path):
    out = tmp_path / "out.txt"
    for sink in closed_parts(out, *["old"] * 3):
        commit(sink)
    sinks = closed_parts(out, *["new"] * 3, job_id="test-2")
    for published, index in enumerate(order, 1):
        commit(sinks[index])
        assert [path.read_text() for path in tmp_path.glob("out*")] == ["new\n"] * published
    assert names(tmp_path) == [f"out-0000{n}-of-00003.txt" for n in range(3)]


def test_a_part_that_another_subtask_publishes_while_the_earlier_one_is_removed_stays(tmp_path, monkeypatch):
    out = tmp_path / "out.txt"
    for sink in closed_parts(out, "old", "old"):
        commit(sink)
    first, second = closed_parts(out, "new", "new", job_id="test-2")
    rename = os.rename

    def publish_first(source, target):  # between a look at the earlier part and its removal
        monkeypatch.setattr(os, "rename", rename)
        commit(second)
        rename(source, target)

    monkeypatch.setattr(os, "rename", publish_first)
    commit(first)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new\n", "new\n"]


@pytest.mark.skipif(not hasattr(os, "listxattr"), reason="there are no extended attributes here")
def test_a_part_whose_earlier_one_another_subtask_removes_meanwhile_is_published(tmp_path, monkeypatch):
    out = tmp_path / "out.txt"
    for sink in closed_parts(out, "old", "old"):
        commit(sink)
    first, second = closed_parts(out, "new", "new", job_id="test-2")
    listed = os.listxattr

    def publish_first(target):  # which removes the earlier part of the second
        monkeypatch.setattr(os, "listxattr", listed)
        commit(first)
        return listed(target)

    monkeypatch.setattr(os, "listxattr", publish_first)
    commit(second)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new\n", "new\n"]


def test_an_aborted_run_leaves_the_parts_of_the_one_before(tmp_path):
    out = tmp_path / "out.txt"
    for sink in closed_parts(out, "old", "old"):
        commit(sink)
    for sink in closed_parts(out, "new", "new", job_id="test-2"):
        sink.abort()
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["old\n", "old\n"]


# --- temporary files -------------------------------------------------------------------------------


def test_a_temporary_name_says_job_attempt_and_subtask(tmp_path):
    sink = opened(tmp_path / "out.txt", 2, 3, "word count-1a2b3c", 4)
    [name] = names(tmp_path)
    assert name.startswith(".out.txt.word_count-1a2b3c.a4.s2.")
    assert name.endswith(".tmp")
    sink.close()
    sink.abort()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 231 + ".txt", "y" * 251 + ".txt"])
def test_the_longest_names_can_be_written(name, tmp_path):
    publish(tmp_path / name, "a")
    assert names(tmp_path) == [name]


def test_long_names_that_begin_alike_do_not_share_a_temporary_file(tmp_path):
    first, second = (closed(tmp_path / ("x" * 250 + end), end) for end in "ab")
    commit(first)
    commit(second)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["a\n", "b\n"]


def test_a_new_attempt_removes_what_the_ones_before_it_left(tmp_path):
    out = tmp_path / "out.txt"
    left = [closed(out, "old", attempt=attempt) for attempt in (2, 1)]
    assert len(names(tmp_path)) == 2
    publish(out, "new", job_id="test-1", attempt=3)
    assert names(tmp_path) == ["out.txt"]
    for sink in left:
        with pytest.raises(FileNotFoundError):  # a late writer of an old attempt publishes nothing
            commit(sink)
    assert out.read_text() == "new\n"


def test_an_old_attempt_removes_nothing_of_a_newer_one(tmp_path):
    newer = closed(tmp_path / "out.txt", "new", attempt=2)
    older = closed(tmp_path / "out.txt", "old", attempt=1)
    assert len(names(tmp_path)) == 2
    older.abort()
    commit(newer)
    assert (tmp_path / "out.txt").read_text() == "new\n"


def test_temporary_files_of_another_job_that_runs_stay_even_if_it_has_the_same_name(tmp_path):
    running = closed(tmp_path / "out.txt", "first", job_id="test-1", attempt=1)
    publish(tmp_path / "out.txt", "second", job_id="test-2", attempt=7)
    assert len(names(tmp_path)) == 2
    commit(running)
    assert (tmp_path / "out.txt").read_text() == "first\n"


def test_temporary_files_of_another_output_stay(tmp_path):
    for name in ("out.txt.bak", "out", "xout.txt"):
        closed(tmp_path / name, "a", job_id="other-1")
    before = names(tmp_path)
    publish(tmp_path / "out.txt", "new", job_id="test-1", attempt=2)
    assert names(tmp_path) == sorted([*before, "out.txt"])


WRITER = """
    import sys, time
    from sage_flow.connectors import TextSink
    from sage_flow.functions import RuntimeContext
    sink = TextSink(sys.argv[1])
    sink.open(RuntimeContext("test", "sink", 0, 1, job_id=sys.argv[2]))
    sink.write("half")
    if sys.argv[3] == "closed":
        sink.close()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer():
    """Starts a process that writes to a path, and never publishes."""
    started = []

    def start(path, job_id, state="open"):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path), job_id, state], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("state", ["open", "closed"])
def test_what_a_killed_process_left_goes_with_the_next_run_and_what_a_living_one_has_stays(state, writer, tmp_path):
    out = tmp_path / "out.txt"
    killed, living = writer(out, "killed-1", state), writer(out, "living-1", state)
    assert len(names(tmp_path)) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    publish(out, "new", job_id="test-1")
    temporary, published = names(tmp_path)
    assert temporary.startswith(".out.txt.living-1.a1.s0.")
    assert published == "out.txt"
    assert living.poll() is None


def test_what_another_machine_left_stays(writer, tmp_path, monkeypatch):
    killed = writer(tmp_path / "out.txt", "killed-1")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    monkeypatch.setattr(temporary_file, "_machine", lambda: "00000000")
    publish(tmp_path / "out.txt", "new")
    assert len(names(tmp_path)) == 2


def test_a_file_that_is_swept_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    flock, swept = fcntl.flock, []

    def sweep_first(descriptor, operation):
        if not swept:
            [path] = tmp_path.iterdir()
            swept.append(path)
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    publish(tmp_path / "out.txt", "new")
    assert swept
    assert (tmp_path / "out.txt").read_text() == "new\n"


def test_the_same_subtask_cannot_write_one_file_twice(tmp_path):
    sink = opened(tmp_path / "out.txt")
    with pytest.raises(InputError, match=r"out\.txt: another sink of this job writes this file"):
        opened(tmp_path / "out.txt")
    sink.close()
    sink.abort()


def test_nothing_is_left_if_an_output_cannot_be_opened(tmp_path, monkeypatch):
    def refuse(*args):
        raise InputError("no")

    monkeypatch.setattr("sage_flow.connectors.output_file.writing_to", refuse)
    with pytest.raises(InputError, match="no"):
        OutputFile.open(str(tmp_path / "out.txt"), RuntimeContext("test", "sink", 0, 1))
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_a_published_file_leaves_nothing_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    publish(tmp_path / "out.txt.gz", "a")
    closed(tmp_path / "other.txt", "a").abort()
    assert len(os.listdir("/proc/self/fd")) == before


# --- compression -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "lzma"])
def test_an_output_is_compressed_as_its_name_says_and_reads_back(ending, tmp_path):
    out = tmp_path / f"out.txt.{ending}"
    publish(out, "a" * 10_000)
    assert out.stat().st_size < 1000
    source = TextSource(out)
    source.open(RuntimeContext("test", "source", 0, 1))
    assert source.next_batch() == ["a" * 10_000]
    source.close()


def test_zip_is_refused_as_an_output(tmp_path):
    with pytest.raises(InputError, match=r"out\.zip: zip files can be read, but not written; use \.gz"):
        TextSink(tmp_path / "out.zip")
