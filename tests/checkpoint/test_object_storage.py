"""Object stores, through a file system of fsspec that keeps its objects here and records how it was called."""

import pickle
import threading
from importlib import import_module
from typing import ClassVar

import pytest
from fsspec.spec import AbstractFileSystem

from sage_flow.checkpoint.log import AttemptEntry
from sage_flow.checkpoint.storage import open_storage
from sage_flow.checkpoint.stored_log import StoredLog
from sage_flow.errors import CheckpointMissing, LogUnavailable, StorageError

registry = import_module("fsspec.registry")  # `fsspec.registry` is a mapping

PROTOCOLS = ["s3", "gs", "abfs"]
CONDITION = {"s3": {"mode": "create", "chunksize": 2}, "gs": {"mode": "create", "chunksize": 2}}
CONDITION["abfs"] = {"overwrite": False}
FRESH = {"s3": {"refresh": True}, "gs": {"refresh": True}, "abfs": {"invalidate_cache": True}}


class Objects(AbstractFileSystem):
    """As the packages for object stores: a conditional create, lists from a cache unless they are asked for anew."""

    store: ClassVar = {}
    calls: ClassVar = []
    fault: ClassVar = None
    obeys: ClassVar = True

    def pipe_file(self, path, value, mode="overwrite", overwrite=True, **kwargs):
        given = {"mode": mode, "overwrite": overwrite, **kwargs}
        changed = {k: v for k, v in given.items() if (k, v) not in {("mode", "overwrite"), ("overwrite", True)}}
        self.call("pipe_file", path, changed)
        if (mode == "create" or not overwrite) and self.obeys:
            mine = bytearray(value)
            if self.store.setdefault(path, mine) is not mine:
                raise FileExistsError(path)
        else:
            self.store[path] = bytearray(value)

    def cat_file(self, path, **kwargs):
        self.call("cat_file", path, kwargs)
        if path not in self.store:
            raise FileNotFoundError(path)
        return bytes(self.store[path])

    def ls(self, path, detail=True, **kwargs):
        self.call("ls", path, kwargs)
        below = [name for name in self.store if name.startswith(f"{path}/")]
        if not below:
            raise FileNotFoundError(path)
        found = {path + "/" + name[len(path) + 1 :].partition("/")[0] for name in below}
        return [*found, f"{path}/", f"{path}2/other"]  # a marker of the folder, and what only begins like it

    def rm(self, paths, **kwargs):
        self.call("rm", paths, kwargs)
        for path in paths:
            if path not in self.store:
                raise FileNotFoundError(path)
            del self.store[path]

    def rm_file(self, path):
        self.call("rm_file", path, {})
        if self.store.pop(path, None) is None:
            raise FileNotFoundError(path)

    def call(self, name, *args):
        self.calls.append((name, *args))
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def objects(monkeypatch):
    for name in PROTOCOLS:
        monkeypatch.setitem(registry._registry, name, type(f"Objects_{name}", (Objects,), {"protocol": name}))
    monkeypatch.setattr(Objects, "store", {})
    monkeypatch.setattr(Objects, "calls", [])
    monkeypatch.setattr(Objects, "fault", None)
    return Objects


@pytest.fixture(params=PROTOCOLS)
def storage(request, objects):
    storage = open_storage(f"{request.param}://bucket/jobs")
    storage.check()
    objects.calls.clear()
    return storage


def protocol_of(storage):
    return storage.location.partition("://")[0]


def test_a_name_is_created_once_by_the_condition_that_its_server_knows(storage, objects):
    assert storage.create("log/0", b"1")
    assert not storage.create("log/0", b"2")
    assert objects.calls == [("pipe_file", "bucket/jobs/log/0", CONDITION[protocol_of(storage)])] * 2
    assert storage.read("log/0") == b"1"


def test_a_file_of_any_size_is_created_by_one_request(storage, objects):
    storage.create("log/0", bytes(3 << 20))
    assert objects.calls[0][2].get("chunksize", 1 << 40) > 3 << 20


def test_a_file_that_is_written_replaces_the_one_before(storage, objects):
    storage.write("a", b"1")
    storage.write("a", b"2")
    assert storage.read("a") == b"2"
    assert objects.calls[0] == ("pipe_file", "bucket/jobs/a", {})


def test_lists_are_asked_of_the_server_and_have_what_is_in_the_folder(storage, objects):
    for name in ("log/1", "log/0", "log/x/y", "logs/2"):
        storage.write(name, b"")
    assert storage.names("log") == ["0", "1", "x"]
    assert objects.calls[-1] == ("ls", "bucket/jobs/log", FRESH[protocol_of(storage)])
    assert storage.names() == ["log", "logs"]
    assert storage.names("nowhere") == []


def test_a_folder_is_a_storage_of_its_own_and_can_be_pickled(storage):
    below = storage.at("words").at("run")
    assert below.location == f"{storage.location}/words/run"
    below.write("a", b"1")
    assert pickle.loads(pickle.dumps(below)).read("a") == storage.read("words/run/a") == b"1"


def test_files_are_deleted_by_one_request_and_those_that_are_gone_are_passed_over(storage, objects):
    for name in "abc":
        storage.write(name, b"")
    objects.calls.clear()
    storage.delete(["a", "b"])
    storage.delete([])
    assert [call[0] for call in objects.calls] == ["rm"]
    storage.delete(["never", "c"])
    assert storage.names() == []


def test_a_missing_file_is_told_apart_from_a_server_that_does_not_answer(storage, objects, monkeypatch):
    with pytest.raises(CheckpointMissing, match=rf"^{storage.location}/a: is not there"):
        storage.read("a")
    monkeypatch.setattr(objects, "fault", TimeoutError("no answer"))
    with pytest.raises(
        StorageError, match=r"a: cannot be read: .*no answer.*; look whether the server answers"
    ) as told:
        storage.read("a")
    assert told.value.may_pass
    with pytest.raises(LogUnavailable):
        StoredLog(storage).read()
    with pytest.raises(LogUnavailable):
        StoredLog(storage).create(0, AttemptEntry(("L", 1), 1))


@pytest.mark.parametrize(
    ("fault", "cure"),
    [(PermissionError("403"), "give this process credentials"), (FileNotFoundError("bucket"), "make the bucket")],
)
def test_what_trying_again_does_not_help_is_told_with_the_cure(storage, objects, monkeypatch, fault, cure):
    monkeypatch.setattr(objects, "fault", fault)
    with pytest.raises(StorageError, match=rf"^{storage.location}/log/0: cannot be created: .*; {cure}") as told:
        storage.create("log/0", b"")
    assert not told.value.may_pass


def test_a_refusal_that_is_no_file_exists_error_is_recognised_by_its_status(storage, objects, monkeypatch):
    """s3fs makes another OSError of a refusal that does not name its condition, with the answer as its cause."""
    refusal = OSError(22, "At least one of the pre-conditions you specified did not hold")
    refusal.__cause__ = Exception()
    refusal.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": 412}}
    monkeypatch.setattr(objects, "fault", refusal)
    assert not storage.create("log/0", b"")
    refusal.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": 409}}  # two requests at once: nobody knows
    with pytest.raises(StorageError):
        storage.create("log/0", b"")


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


# -- what is refused -----------------------------------------------------------------------------------------


def test_a_server_that_ignores_the_condition_is_refused_before_the_first_create(objects, monkeypatch):
    monkeypatch.setattr(objects, "obeys", False)
    storage = open_storage("s3://bucket/jobs").at("words")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"^s3://bucket/jobs/words: is not safe .* use a later botocore") as told:
            storage.create("log/0", b"1")
    assert not told.value.may_pass
    assert objects.store == {}


def test_the_condition_is_tried_out_once_for_all_folders(objects):
    storage = open_storage("s3://bucket/jobs")
    storage.at("a").create("log/0", b"1")
    objects.calls.clear()
    storage.at("b").create("log/0", b"1")
    assert [call[0] for call in objects.calls] == ["pipe_file"]


def test_a_storage_that_cannot_be_reached_is_told_by_the_first_error(objects, monkeypatch):
    monkeypatch.setattr(objects, "fault", TimeoutError("no answer"))
    with pytest.raises(StorageError, match="cannot be created"):
        open_storage("s3://bucket/jobs").check()


@pytest.mark.parametrize(
    "url", ["http://host/s", "sftp://host/s", "hdfs://host/s", "simplecache::s3://bucket/s", "x://y"]
)
def test_a_file_system_without_exclusive_creates_is_refused_by_name_with_the_cure(url):
    protocol = url.partition("://")[0]
    with pytest.raises(
        StorageError, match=f"^{url}: checkpoints cannot be stored by {protocol}://, .*; give a path"
    ) as told:
        open_storage(url)
    assert "s3://" in str(told.value)
    assert not told.value.may_pass


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(registry, "get_filesystem_class", missing)
    monkeypatch.setattr("fsspec.core.get_filesystem_class", missing)
    with pytest.raises(StorageError, match=r"^s3://bucket/s: needs a package .*: pip install s3fs"):
        open_storage("s3://bucket/s")
