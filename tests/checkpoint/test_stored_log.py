"""The log of a job in a storage: what it reads, what it refuses, and what happens when the storage fails."""

import errno
import os
import pickle
import subprocess
import sys

import pytest

from sage_flow.checkpoint.format import FORMAT_VERSION, sealed
from sage_flow.checkpoint.log import (
    Append,
    AttemptEntry,
    CreateEntry,
    DoneEntry,
    EntryOvertaken,
    EntryWritten,
    FinalEntry,
    JobEnd,
    OverEntry,
)
from sage_flow.checkpoint.storage import MemoryStorage, open_storage
from sage_flow.checkpoint.stored_log import StoredLog
from sage_flow.errors import CheckpointError, CheckpointMissing, LogUnavailable, StorageError


@pytest.fixture(params=["path", "memory"])
def run(request, tmp_path):
    return open_storage(tmp_path / "run" if request.param == "path" else f"memory://{tmp_path.name}/run")


@pytest.fixture
def folder(tmp_path):
    return open_storage(tmp_path / "run")


def attempt(number, leader="L", restores=None):
    return AttemptEntry((leader, number), number, restores)


def done(checkpoint, of=1, leader="L"):
    return DoneEntry((leader, 100 * of + checkpoint), of, checkpoint)


def written(run, *entries):
    log = StoredLog(run)
    for position, entry in enumerate(entries):
        log.create(position, entry)
    return log


class Lagging(MemoryStorage):
    """Lists names as they were when it was told to lag."""

    old = None

    def names(self, folder=""):
        return super().names(folder) if self.old is None else [name for name in self.old if folder == "log"]

    def lag(self):
        self.old = super().names("log")


# -- entries -------------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were_written(run):
    entries = [attempt(1), done(1), attempt(2, restores=done(1)), FinalEntry(("L", 9), 2, ["h"])]
    entries.append(OverEntry(("L", 10), 2, JobEnd.FAILED, ValueError, "why"))
    log = written(run, *entries)
    assert log.read().entries == dict(enumerate(entries))
    assert StoredLog(run).read().entries == dict(enumerate(entries))


def test_a_log_that_nobody_has_written_is_empty(run):
    assert StoredLog(run).read().entries == {}


def test_the_first_entry_of_a_position_stays(run):
    log = written(run, attempt(1))
    StoredLog(run).create(0, attempt(1, "M"))
    assert StoredLog(run).read().entries == log.read().entries == {0: attempt(1)}


def test_entries_of_others_are_found_by_the_next_read(run):
    log = written(run, attempt(1))
    log.read()
    StoredLog(run).create(1, attempt(2, "M"))
    assert log.read().entries == {0: attempt(1), 1: attempt(2, "M")}


def test_an_entry_is_read_once(run, monkeypatch):
    log = written(run, attempt(1), done(1))
    log.read()
    read = []
    monkeypatch.setattr(type(run), "read", lambda self, name: read.append(name))
    log.read()
    assert read == []


APPEND = """
import sys
from sage_flow.checkpoint.log import Append, AttemptEntry, CreateEntry
from sage_flow.checkpoint.storage import open_storage
from sage_flow.checkpoint.stored_log import StoredLog
log, me = StoredLog(open_storage(sys.argv[1])), sys.argv[2]
for number in range(10):
    append = Append((me, number))
    step = None
    while step is None or isinstance(step, CreateEntry):
        step = append.on_read(log.read(), lambda history: AttemptEntry((me, number), history.latest_attempt + 1))
        if isinstance(step, CreateEntry):
            log.create(step.position, step.entry)
    print(step.entry.attempt)
"""


def test_processes_that_claim_attempts_at_once_get_each_number_once(folder):
    claims = [
        subprocess.Popen([sys.executable, "-c", APPEND, folder.location, name], stdout=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    told = [claim.communicate()[0].split() for claim in claims]
    assert [claim.returncode for claim in claims] == [0] * 3
    assert sorted(int(number) for numbers in told for number in numbers) == list(range(1, 31))
    entries = StoredLog(folder).read().entries
    assert [entries[position].attempt for position in range(30)] == list(range(1, 31))


# -- deleted entries -----------------------------------------------------------------------------------------


def test_trimming_deletes_the_done_entries_of_one_attempt_except_its_last(run):
    entries = [attempt(1), done(1), done(2), attempt(2), done(3, of=2), done(4, of=2), done(5, of=2)]
    log = written(run, *entries)
    log.trim(log.read(), 2)
    expected = {p: entry for p, entry in enumerate(entries) if p not in (4, 5)}
    assert log.read().entries == StoredLog(run).read().entries == expected
    log.trim(log.read(), 3)
    log.trim(log.read(), 2)
    assert StoredLog(run).read().entries == expected


def test_what_its_leader_has_trimmed_is_forgotten_by_others(run):
    other = StoredLog(run)
    log = written(run, attempt(1), done(1), done(2))
    other.read()
    log.trim(log.read(), 1)
    assert other.read().entries == {0: attempt(1), 2: done(2)}


def test_a_leader_of_the_past_that_writes_at_a_trimmed_position_finds_entries_behind_its_own(run):
    past = StoredLog(run)
    written(run, attempt(1))
    append = Append(("past", 1))
    step = append.on_read(past.read(), lambda history: done(7, leader="past"))
    append.nonce = step.entry.nonce
    log = StoredLog(run)
    for position, entry in enumerate([done(1), done(2)], start=1):
        log.create(position, entry)
    log.trim(log.read(), 1)
    assert step == CreateEntry(1, done(7, leader="past"))
    past.create(step.position, step.entry)
    assert append.on_read(past.read(), None) == EntryOvertaken(done(7, leader="past"))


def test_an_entry_that_its_leader_deletes_between_list_and_read_is_no_error(run, monkeypatch):
    log = written(run, attempt(1), done(1), done(2))
    history = log.read()
    other = StoredLog(run)
    real = type(run).names

    def names(storage, name=""):
        found = real(storage, name)
        log.trim(history, 1)
        return found

    monkeypatch.setattr(type(run), "names", names)
    assert other.read().entries == {0: attempt(1), 2: done(2)}


def test_a_log_may_be_trimmed_by_one_thread_while_another_one_looks_for_what_is_lost(run, monkeypatch):
    log = written(run, attempt(1), done(1), done(2), done(3))
    history, read = log.read(), run.read
    log.create(4, done(4))
    run.delete(["log/000000000001"])

    def trims_first(name):
        if name == "log/000000000001":  # another thread has deleted it, and forgets it just now
            log.trim(history, 1)
        return read(name)

    monkeypatch.setattr(run, "read", trims_first)
    assert [entry.checkpoint for entry in log.read().entries.values() if isinstance(entry, DoneEntry)] == [3, 4]


@pytest.mark.parametrize("gone", [0, 2])
def test_an_entry_that_nobody_may_delete_and_is_gone_is_an_error(run, gone):
    log = written(run, attempt(1), done(1), done(2))
    log.read()
    run.delete([f"log/{gone:012d}"])
    with pytest.raises(CheckpointError, match=rf"^{run.location}/log/{gone:012d}: was in the log .* is gone; bring"):
        log.read()


def test_a_storage_that_was_removed_meanwhile_is_no_empty_log(folder):
    log = written(folder, attempt(1))
    log.read()
    os.rename(folder.location, f"{folder.location}.moved")
    with pytest.raises(CheckpointError, match="is gone"):
        log.read()
    log.create(1, done(1))
    with pytest.raises(CheckpointError, match="is gone"):
        log.read()


# -- a list that lags behind ---------------------------------------------------------------------------------


def test_an_own_entry_that_is_not_listed_yet_is_found(tmp_path):
    run = Lagging(f"memory://{tmp_path.name}")
    log = written(run, attempt(1))
    log.read()
    run.lag()
    append = Append(("L", 101))
    step = append.on_read(log.read(), lambda history: done(1))
    log.create(step.position, step.entry)
    assert append.on_read(log.read(), None) == EntryWritten(done(1))


def test_an_entry_of_another_that_is_not_listed_yet_is_found_by_whoever_finds_its_position_taken(tmp_path):
    run = Lagging(f"memory://{tmp_path.name}")
    log = written(run, attempt(1))
    log.read()
    run.lag()
    StoredLog(run).create(1, attempt(2, "M"))
    append = Append(("L", 101))
    log.create(*[getattr(append.on_read(log.read(), lambda history: done(1)), part) for part in ("position", "entry")])
    assert log.read().entries == {0: attempt(1), 1: attempt(2, "M")}


def test_an_entry_that_is_not_listed_while_a_later_one_is_is_found(tmp_path):
    run = Lagging(f"memory://{tmp_path.name}")
    written(run, attempt(1), attempt(2, "M"), done(1))
    run.lag()
    run.old.remove("000000000001")
    assert StoredLog(run).read().entries == {0: attempt(1), 1: attempt(2, "M"), 2: done(1)}


def test_an_entry_that_was_read_and_is_not_listed_again_stays(tmp_path):
    run = Lagging(f"memory://{tmp_path.name}")
    log = written(run, attempt(1), attempt(2))
    log.read()
    run.old = ["000000000000"]
    assert log.read().entries == {0: attempt(1), 1: attempt(2)}


def test_a_deleted_entry_that_is_still_listed_is_tried_again(tmp_path):
    run = Lagging(f"memory://{tmp_path.name}")
    log = written(run, attempt(1), done(1), done(2))
    run.lag()
    log.trim(log.read(), 1)
    with pytest.raises(LogUnavailable, match=r"log/000000000001: is listed and cannot be read"):
        StoredLog(run).read()
    run.old = None
    assert StoredLog(run).read().entries == {0: attempt(1), 2: done(2)}


# -- unreadable entries --------------------------------------------------------------------------------------


def newer(content):
    at = content.index(FORMAT_VERSION.to_bytes(2, "little"), 8)
    return content[:at] + (FORMAT_VERSION + 1).to_bytes(2, "little") + content[at + 2 :]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:-1], "is cut off"),
        (lambda content: content[:60], "is cut off"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its checksum is wrong"),
        (newer, "has format 3"),
        (lambda content: b"notes of somebody", "no file of sage_flow"),
        (lambda content: sealed("chunk", content), "is a chunk, where a log entry is expected"),
        (lambda content: sealed("log entry", b"no pickle"), "cannot be unpickled: UnpicklingError"),
        (lambda content: sealed("log entry", pickle.dumps("text")), "holds a str"),
    ],
)
def test_an_entry_that_cannot_be_read_stops_the_reader_and_is_named(run, spoil, reason):
    written(run, attempt(1), attempt(2), done(1, of=2))
    name = "log/000000000001"
    run.write(name, spoil(run.read(name)))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"^{run.location}/{name}: .*{reason}"):
            StoredLog(run).read()


@pytest.mark.parametrize("name", ["notes.txt", "1", "0000000000001", "00000000000x"])
def test_a_foreign_file_in_the_folder_of_the_log_is_named(run, name):
    written(run, attempt(1))
    run.write(f"log/{name}", b"")
    with pytest.raises(CheckpointError, match=rf"^{run.location}/log/{name}: is no entry of a log"):
        StoredLog(run).read()


def test_a_writer_that_is_killed_in_the_middle_of_an_entry_leaves_the_log_readable(folder):
    written(folder, attempt(1))
    code = (
        "import os, sys\n"
        "from sage_flow.checkpoint.log import DoneEntry\n"
        "from sage_flow.checkpoint.storage import open_storage\n"
        "from sage_flow.checkpoint.stored_log import StoredLog\n"
        "real = os.write\n"
        "os.write = lambda file, data: (real(file, data[:10]), os._exit(9))\n"
        "StoredLog(open_storage(sys.argv[1])).create(1, DoneEntry(('L', 1), 1, 1))"
    )
    assert subprocess.run([sys.executable, "-c", code, folder.location], check=False).returncode == 9
    log = StoredLog(folder)
    assert log.read().entries == {0: attempt(1)}
    log.create(1, done(1))
    assert log.read().entries == {0: attempt(1), 1: done(1)}


# -- a storage that fails ------------------------------------------------------------------------------------


def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.ETIMEDOUT])
def test_a_storage_that_does_not_answer_makes_the_log_unavailable(folder, monkeypatch, code):
    log = written(folder, attempt(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing(code))
        with pytest.raises(LogUnavailable, match=rf"^{folder.location}/log: cannot be listed"):
            log.read()
        patch.setattr(os, "fsync", failing(code))
        with pytest.raises(LogUnavailable, match=rf"^{folder.location}/log/000000000001: cannot be created"):
            log.create(1, done(1))
    assert log.read().entries == {0: attempt(1)}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_storage_that_may_not_be_used_is_an_error_that_trying_again_does_not_help(folder, monkeypatch, code):
    log = written(folder, attempt(1))
    monkeypatch.setattr(os, "listdir", failing(code))
    with pytest.raises(StorageError) as refused:
        log.read()
    assert not refused.value.may_pass
    monkeypatch.setattr(os, "link", failing(code))
    with pytest.raises(StorageError):
        log.create(1, done(1))


def test_an_entry_whose_create_failed_counts_only_when_it_is_durable(folder, monkeypatch):
    """Linked, but the folder not flushed: the entry is listed, and a power failure could undo it."""
    log = written(folder, attempt(1))
    real = os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            "fsync",
            lambda file: (
                failing(errno.EIO)() if not os.readlink(f"/proc/self/fd/{file}").endswith(".tmp") else real(file)
            ),
        )
        with pytest.raises(LogUnavailable):
            log.create(1, done(1))
        with pytest.raises(LogUnavailable):
            log.read()
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(os.readlink(f"/proc/self/fd/{file}")), real(file)))
    assert log.read().entries == {0: attempt(1), 1: done(1)}
    assert flushed == [f"{folder.location}/log"]


def test_an_entry_whose_answer_was_lost_is_recognised(run, monkeypatch):
    log = written(run, attempt(1))
    real = type(run).create

    def lost(storage, name, data):
        real(storage, name, data)
        raise StorageError("no answer")

    append = Append(("L", 101))
    step = append.on_read(log.read(), lambda history: done(1))
    monkeypatch.setattr(type(run), "create", lost)
    with pytest.raises(LogUnavailable, match="no answer"):
        log.create(step.position, step.entry)
    assert append.on_read(log.read(), None) == EntryWritten(done(1))


def test_an_entry_whose_own_success_is_reported_as_taken_is_recognised(run, monkeypatch):
    """A client that repeats a request may get `there is one` for what it has stored itself."""
    log = written(run, attempt(1))
    real = type(run).create
    monkeypatch.setattr(type(run), "create", lambda *args: (real(*args), False)[1])
    append = Append(("L", 101))
    step = append.on_read(log.read(), lambda history: done(1))
    log.create(step.position, step.entry)
    assert append.on_read(log.read(), None) == EntryWritten(done(1))


def test_an_entry_that_lands_late_is_found_by_whoever_took_its_position(run):
    """The write of a leader of the past arrives after a new one has looked: the create of the new one is refused."""
    new = written(run, attempt(1))
    append = Append(("M", 2))

    def compose(history):
        return attempt(2, "M", restores=history.done)

    step = append.on_read(new.read(), compose)
    StoredLog(run).create(1, done(1))
    new.create(step.position, step.entry)
    assert append.on_read(new.read(), compose) == CreateEntry(2, attempt(2, "M", restores=done(1)))


def test_a_missing_file_is_told_apart_from_a_storage_that_does_not_answer(run):
    with pytest.raises(CheckpointMissing):
        run.read("log/000000000000")
