"""What every storage of checkpoints keeps to, and how it fails."""

import errno
import os
import pickle
import stat
import subprocess
import sys
import threading

import pytest

from sage_flow.checkpoint import local_storage
from sage_flow.checkpoint.storage import open_storage
from sage_flow.errors import CheckpointError, CheckpointMissing, InternalError, StorageError


@pytest.fixture(params=["path", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "s" if request.param == "path" else f"memory://{tmp_path.name}/s")


@pytest.fixture
def local(tmp_path):
    return open_storage(tmp_path / "s")


def files_below(path):
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


# -- every storage -------------------------------------------------------------------------------------------


def test_what_was_written_is_read_and_replaced(storage):
    storage.write("chunks/a", b"1")
    storage.write("chunks/a", b"22")
    assert storage.read("chunks/a") == b"22"


@pytest.mark.parametrize("data", [b"", b"1", bytes(100)])
def test_a_name_is_created_once(storage, data):
    assert storage.create("log/0", data)
    assert not storage.create("log/0", data)
    assert not storage.create("log/0", b"other")
    assert storage.read("log/0") == data


def test_names_are_those_of_one_folder_and_sorted(storage):
    for name in ("b/2", "b/1/x", "a", "b/1/y", "c/d/e"):
        storage.write(name, b"")
    assert storage.names() == ["a", "b", "c"]
    assert storage.names("b") == ["1", "2"]
    assert storage.names("c/d") == ["e"]
    assert storage.names("nowhere") == []


def test_a_storage_that_nobody_has_written_is_empty(storage):
    assert storage.names() == []
    storage.make_durable("log")


def test_a_folder_is_a_storage_of_its_own(storage):
    below = storage.at("job").at("run/log")
    below.write("x", b"1")
    assert storage.read("job/run/log/x") == b"1"
    assert below.location == f"{storage.location}/job/run/log"
    assert open_storage(below.location).names() == ["x"]


def test_a_deleted_file_is_missing_and_is_deleted_again_without_error(storage):
    storage.write("a", b"1")
    storage.delete(["a", "never/there"])
    storage.delete(["a"])
    with pytest.raises(CheckpointMissing, match=rf"^{storage.location}/a: is not there"):
        storage.read("a")


def test_a_storage_can_be_pickled(storage):
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage.at("x").at("y"))).location == f"{storage.location}/x/y"
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a//b", "a/../b", ".hidden", "a/", "a\0b"])
def test_a_name_that_leaves_the_storage_or_would_be_hidden_is_refused(storage, name):
    with pytest.raises(InternalError):
        storage.write(name, b"")
    with pytest.raises(InternalError):
        storage.at(name)


def test_a_storage_that_was_checked_is_as_before(storage):
    storage.check()
    assert storage.names() == []


def test_a_storage_in_which_a_name_is_created_twice_is_refused(storage, monkeypatch):
    monkeypatch.setattr(type(storage), "create", lambda self, name, data: self.write(name, data) is None)
    with pytest.raises(StorageError, match=rf"^{storage.location}: is not safe for checkpoints") as refused:
        storage.check()
    assert not refused.value.may_pass
    assert storage.names() == []


def test_threads_that_create_one_name_have_one_winner(storage):
    start = threading.Barrier(8)
    won = []

    def create(thread):
        for position in range(50):
            start.wait()
            if storage.create(f"log/{position}", b"%d" % thread):
                won.append((position, b"%d" % thread))

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [(position, storage.read(f"log/{position}")) for position in range(50)]


# -- a folder ------------------------------------------------------------------------------------------------

CREATE = """
import sys
from sage_flow.checkpoint.storage import open_storage
storage = open_storage(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    name, number = line.split()
    print(storage.create(name, number.encode() * 4096), flush=True)
"""


def test_processes_that_create_one_name_have_one_winner_and_leave_nothing_else(local):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, local.location], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
        for position in range(25):
            for number, racer in enumerate(racers):
                print(f"log/{position}", number, file=racer.stdin, flush=True)
            won = [racer.stdout.readline() == "True\n" for racer in racers]
            assert won.count(True) == 1
            assert local.read(f"log/{position}") == b"%d" % won.index(True) * 4096
    finally:
        for racer in racers:
            racer.stdin.close()
            racer.wait()
            racer.stdout.close()
    assert len(files_below(local.location)) == 25


def test_a_path_may_be_a_url_relative_or_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / "s")
    assert [open_storage(place).location for place in ("s", "~/s", f"file://{tmp_path}/s", "./s/")] == [expected] * 4


@pytest.mark.parametrize("place", ["", b"/tmp", "http://host/s"])
def test_a_place_that_cannot_hold_checkpoints_is_refused(place):
    with pytest.raises(StorageError) as refused:
        open_storage(place)
    assert not refused.value.may_pass


@pytest.mark.parametrize("action", ["write", "create"])
def test_a_file_has_its_name_only_when_it_is_on_the_disk(local, monkeypatch, action):
    """Power may fail at any time: the content is flushed before the name is given, and the folder after that."""
    local.write("log/0", b"")
    steps = []

    def recorded(name):
        real = getattr(os, name)

        def step(*args, **kwargs):
            if name == "fsync":
                steps.append("flush folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "flush file")
            else:
                steps.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, step)

    for name in ("write", "fsync", "replace", "link"):
        recorded(name)
    getattr(local, action)("log/1", b"1")
    assert steps == ["write", "flush file", {"write": "replace", "create": "link"}[action], "flush folder"]


def test_a_new_folder_is_flushed_with_those_above_it(local, monkeypatch):
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(os.readlink(f"/proc/self/fd/{file}")), real(file)))
    local.write("log/0", b"")
    above = os.path.dirname(local.location)
    assert [path for path in flushed if os.path.isdir(path)] == [above, local.location, f"{local.location}/log"]


def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write", "fsync"])
@pytest.mark.parametrize("action", ["write", "create"])
def test_a_full_disk_is_reported_with_place_and_cure_and_leaves_what_was_there(local, monkeypatch, action, step):
    local.write("log/0", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(
            StorageError, match=rf"^{local.location}/log/1: .*No space left .*; free some space"
        ) as told:
            getattr(local, action)("log/1", b"1")
        with pytest.raises(StorageError):
            local.write("log/0", b"after")
    assert told.value.may_pass
    assert files_below(local.location) == [f"{local.location}/log/0"]
    assert local.read("log/0") == b"before"


def test_a_write_that_stores_only_a_part_is_continued(local, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    local.write("a", b"0123456789")
    assert local.read("a") == b"0123456789"


def test_an_entry_that_could_not_be_flushed_is_created_and_the_answer_is_an_error(local, monkeypatch):
    local.write("log/0", b"")
    with monkeypatch.context() as patch:
        real = os.fsync
        patch.setattr(os, "fsync", lambda file: full() if stat.S_ISDIR(os.fstat(file).st_mode) else real(file))
        with pytest.raises(StorageError):
            local.create("log/1", b"1")
        with pytest.raises(StorageError):
            local.make_durable("log")
    local.make_durable("log")
    assert not local.create("log/1", b"2")
    assert local.read("log/1") == b"1"


def test_a_link_that_was_made_and_is_reported_as_there_counts_as_created(local, monkeypatch):
    """So NFS answers a request that it has repeated."""
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    local.create("log/0", b"0")
    monkeypatch.setattr(os, "link", link)
    assert local.create("log/1", b"1")
    assert not local.create("log/0", b"1")


def test_a_file_system_without_hard_links_is_refused_with_the_cure(local, monkeypatch):
    def link(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageError, match=r"no hard links .* folder of another file system") as refused:
        local.create("log/0", b"")
    assert not refused.value.may_pass
    assert files_below(local.location) == []


def test_a_file_in_place_of_the_folder_is_told_apart_from_an_empty_storage(tmp_path):
    (tmp_path / "s").write_text("a file")
    storage = open_storage(tmp_path / "s")
    for action in (lambda: storage.names("log"), lambda: storage.names(), lambda: storage.write("log/0", b"")):
        with pytest.raises(StorageError, match="a part of this path is a file") as refused:
            action()
        assert not refused.value.may_pass


def test_a_folder_that_cannot_be_made_and_is_said_to_be_missing_is_an_error(tmp_path, monkeypatch):
    """As below /proc, where the folder above is there."""

    make = os.mkdir

    def refuse(path, *mode):
        if path == str(tmp_path / "storage"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"cannot be created.*is mounted"):
        open_storage(tmp_path / "storage").create("a", b"")


def test_a_folder_in_place_of_a_file_is_reported(local):
    os.makedirs(f"{local.location}/log/0")
    with pytest.raises(CheckpointError, match=rf"^{local.location}/log/0: is a folder"):
        local.read("log/0")


def denied(path, *args, **kwargs):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(("call", "action"), [("listdir", "names"), ("unlink", "delete"), ("open", "make_durable")])
def test_a_missing_permission_is_reported_and_cannot_pass(local, monkeypatch, call, action):
    """By a call that is refused: for root, which the tests may run as, nothing is."""
    local.write("log/0", b"")
    monkeypatch.setattr(os, call, denied)
    with pytest.raises(StorageError, match=r"log.*Permission denied; give the user of this process access") as refused:
        getattr(local, action)(["log/0"] if action == "delete" else "log")
    assert not refused.value.may_pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_an_empty_one(local):
    local.write("log/0", b"")
    os.chmod(f"{local.location}/log", 0)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            local.names("log")
    finally:
        os.chmod(f"{local.location}/log", 0o700)


def test_what_a_killed_writer_left_is_not_listed(local):
    code = (
        "import os, sys; from sage_flow.checkpoint.storage import open_storage\n"
        "os.link = os.replace = lambda *names: os._exit(9)\n"
        "getattr(open_storage(sys.argv[1]), sys.argv[2])('log/0', b'1')"
    )
    for action in ("write", "create"):
        assert subprocess.run([sys.executable, "-c", code, local.location, action], check=False).returncode == 9
    assert len(files_below(local.location)) == 2
    assert local.names("log") == []
    assert local.create("log/0", b"2")


def test_a_storage_that_was_removed_is_empty_and_can_be_written_again(local):
    local.write("chunks/a", b"1")
    os.rename(local.location, f"{local.location}.moved")
    assert local.names("chunks") == []
    with pytest.raises(CheckpointMissing):
        local.read("chunks/a")
    local.write("chunks/b", b"1")
    assert local.names("chunks") == ["b"]


def test_scratch_names_differ_for_writers_of_one_name(local, monkeypatch):
    """Two attempts may write one name at once: each has its own scratch file, and the last whole content stays."""
    names = []
    real = local_storage._new_file
    monkeypatch.setattr(local_storage, "_new_file", lambda path: names.append(path) or real(path))
    local.write("a", b"1")
    local.write("a", b"2")
    assert len(set(names)) == 2
