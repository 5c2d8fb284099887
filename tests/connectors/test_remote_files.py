"""File sources that read URLs through fsspec."""

import gzip
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.registry import known_implementations

from sage_flow import END, LocalEnvironment
from sage_flow.connectors import CsvSource, TextSource
from sage_flow.errors import InputError
from sage_flow.executors.simulation import SimulationExecutor


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield lambda path, data: files.pipe(path, data.encode() if isinstance(data, str) else data)
    files.store.clear()


def opened(source):
    source.open(SimpleNamespace(subtask_index=0, parallelism=1))
    return source


@pytest.mark.parametrize("executor", ["threads", SimulationExecutor(1)])
def test_a_url_is_read_with_the_protocol_that_it_names(memory, executor):
    memory("/d/a.jsonl", "1\n2\n")
    env = LocalEnvironment("test", executor=executor)
    env.read_jsonl("memory://d/a.jsonl").collect("rows")
    assert env.execute(progress=False).collected["rows"] == [1, 2]


def test_a_glob_of_urls_is_read_in_sorted_order_each_file_once(memory):
    for name in "cab":
        memory(f"/d/{name}.txt", name)
    memory("/d/sub/a.txt", "no")
    source = TextSource(["memory://d/*.txt", "memory://d/b.txt"])
    assert source.splits() == ["memory://d/a.txt", "memory://d/b.txt", "memory://d/c.txt"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a"])
def test_what_is_compressed_is_unpacked(memory, name):
    memory(f"/{name}", gzip.compress(b"1\n2\n"))
    env = LocalEnvironment("test")
    env.read_text(f"memory://{name}").collect("rows")
    assert env.execute(progress=False).collected["rows"] == ["1", "2"]


def test_a_url_of_a_local_file_is_its_path(mode, tmp_path):
    (tmp_path / "a.txt").write_text("1\n")
    env = mode.environment()
    env.read_text(f"file://{tmp_path}/*.txt").collect("rows")
    assert env.execute(progress=False).collected["rows"] == ["1"]
    source = TextSource(f"file://{tmp_path}/a.txt")
    assert source.splits() == source.files_read() == [str(tmp_path / "a.txt")]
    assert not source.blocking


def test_a_source_of_urls_blocks_and_names_no_local_files(memory):
    memory("/a", "1\n")
    source = TextSource("memory://a")
    assert source.blocking
    assert source.files_read() == []


def test_a_url_that_is_cut_after_any_batch_continues_with_the_same_rows(memory):
    memory("/a.csv", "n,m\n" + "".join(f'{n},"{n}\n"\n' for n in range(3000)))

    def rest(source):
        found = []
        while (batch := source.next_batch()) is not END:
            found += batch if isinstance(batch, list) else []
        return found

    whole = rest(opened(CsvSource("memory://a.csv")))
    first = opened(CsvSource("memory://a.csv"))
    positions, done = [], []
    while isinstance(batch := first.next_batch(), list):
        done += batch
        positions.append((first.snapshot(), len(done)))
    assert len(positions) > 3
    for position, count in positions:
        again = opened(CsvSource("memory://a.csv"))
        again.restore(position)
        assert rest(again) == whole[count:]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory://d/gone.txt", "memory://d/gone.txt: no such file"),
        ("memory://d/*.csv", r"memory://d/\*.csv: no such file"),
        ("memory://d", r"memory://d: is a directory; use 'memory://d/\*'"),
        ("nothing://d", "nothing://d: Protocol not known: nothing; a URL begins with a protocol that fsspec knows"),
    ],
)
def test_a_url_that_names_no_file_is_refused_when_the_source_is_made(memory, url, told):
    memory("/d/a.txt", "1\n")
    with pytest.raises(InputError, match=told):
        TextSource(url)


def test_a_protocol_without_its_package_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(
        known_implementations,
        "far",
        {"class": "no_such_package.Far", "err": "Install farfs to read far"},
    )
    with pytest.raises(InputError, match=r"far://a: needs a package that is not installed: Install farfs"):
        TextSource("far://a")


def test_a_file_that_goes_away_before_it_is_read_names_its_url(memory):
    memory("/a", "1\n")
    source = opened(TextSource("memory://a"))
    fsspec.filesystem("memory").rm("/a")
    with pytest.raises(InputError, match="memory://a: No such file or directory"):
        source.next_batch()


def test_an_error_of_the_protocol_while_reading_names_the_url(memory, monkeypatch):
    class Broken(Exception):
        pass

    def read(self, size):
        raise Broken("connection lost")

    memory("/a", "1\n")
    source = opened(TextSource("memory://a"))
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", read, raising=False)
    with pytest.raises(InputError, match=r"memory://a: cannot be read: .*connection lost"):
        source.next_batch()
