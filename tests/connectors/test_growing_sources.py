"""Sources whose splits are found while the job runs: each is read once, by one subtask, and has a clock."""

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from sage_flow import END, IDLE, MIN_TIMESTAMP, LocalEnvironment, SplitReader, SplitSource
from sage_flow.errors import PipelineError
from sage_flow.executors.feeder import Feeder
from sage_flow.splits import FINISHED, SplitEnd, SplitFound
from sage_flow.testing import Event, TestSource


class Growing(SplitSource):
    """The splits are in a list of the test; each gives its name twice."""

    grows = True

    def __init__(self, names):
        self.names = names

    def splits(self):
        return list(self.names)

    def reader(self, split, position):
        return Twice(split, position or 0)


class Twice(SplitReader):
    def __init__(self, split, at):
        self.split, self.at = split, at

    def next_batch(self):
        if self.at == 2:
            return END
        self.at += 1
        return [f"{self.split}{self.at}"]

    def position(self):
        return self.at


def opened(source, index=0, parallelism=1):
    source.open(SimpleNamespace(subtask_index=index, parallelism=parallelism))
    return source


def steps(source):
    """What it gives until it has been idle twice: the second time it has looked for splits."""
    found, idle = [], 0
    while idle < 2:
        batch = source.next_batch()
        idle = idle + 1 if batch is IDLE else 0
        found.append(batch)
    return [batch for batch in found if batch is not IDLE]


def test_a_split_that_comes_while_the_job_runs_is_found_and_read():
    names = ["a"]
    source = opened(Growing(names))
    assert source.splits_read() == ["a"]
    assert steps(source) == [["a1"], ["a2"], SplitEnd("a")]
    names.append("b")
    assert steps(source) == [SplitFound("b"), ["b1"], ["b2"], SplitEnd("b")]
    assert source.snapshot() == {"a": FINISHED, "b": FINISHED}


def test_splits_are_found_where_others_always_have_records():
    class Endless(Twice):
        def next_batch(self):
            self.at += 1
            return [self.at]

    names = ["a"]
    source = Growing(names)
    source.reader = lambda split, position: Endless(split, 0)
    opened(source)
    names.append("b")
    assert SplitFound("b") in [source.next_batch() for _ in range(30)]


def test_a_split_that_was_read_is_not_read_again_when_it_goes_and_comes():
    names = ["a", "b"]
    source = opened(Growing(names))
    steps(source)
    del names[0]
    assert steps(source) == []
    names.append("a")
    assert steps(source) == []


def test_subtasks_that_look_at_different_times_read_each_split_once():
    """The first lists {a, c}, the second {a, c} too, and then b appears: nobody takes c from its reader."""
    names = ["a", "c"]
    sources = [opened(Growing(names), index, 3) for index in range(3)]
    found = steps(sources[0])
    names += ["b", *"defgh"]
    found += steps(sources[1])
    names.sort()
    for source in (sources[2], *sources):
        found += steps(source)
    rows = [row for batch in found if isinstance(batch, list) for row in batch]
    assert sorted(rows) == sorted(f"{name}{n}" for name in "abcdefgh" for n in (1, 2))


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("cut", range(12))
def test_a_growing_source_that_is_cut_anywhere_continues_with_the_same_rows(cut, parallelism):
    names = ["a"]
    source = opened(Growing(names))
    found = []
    for n in range(cut):
        if n == 3:
            names += ["b", "c"]
        found.append(source.next_batch())
    names[:] = ["a", "b", "c"]
    position = source.snapshot()
    for index in range(parallelism):
        again = opened(Growing(names), index, parallelism)
        again.restore(position)
        found += steps(again)
    rows = [row for batch in found if isinstance(batch, list) for row in batch]
    assert sorted(rows) == ["a1", "a2", "b1", "b2", "c1", "c2"]


def test_a_source_that_grows_and_is_bounded_is_refused():
    source = Growing([])
    source.bounded = True
    with pytest.raises(PipelineError, match="has no end"):
        opened(source)


def test_a_split_that_was_found_holds_the_time_until_it_has_one(mode):
    class Finds(TestSource):
        def splits_read(self):
            return ["a"]

    items = [Event(10, "a"), Event(20, "a"), SplitFound("b"), Event(30, "a"), Event(40, "a"), Event(25, "b")]
    env = mode.environment(parallelism=1)
    stream = env.from_source(Finds([*items, Event(50, "a")]))
    timed = stream.assign_timestamps(lambda at: at, max_out_of_order=timedelta(0), every_record=True)
    timed.map(lambda at, ctx: (at, ctx.watermark)).collect("seen")
    found = env.execute(progress=False).collected["seen"]
    assert found == [(10, MIN_TIMESTAMP), (20, 10), (30, 20), (40, 20), (25, 20), (50, 25)]


def test_a_blocking_source_tells_the_splits_that_it_has_found():
    names = ["a"]
    source = opened(Growing(names))
    feeder = Feeder(source, lambda: None)
    for batch in (*steps(source), SplitFound("b")):
        feeder._hand_over(batch)
    assert [feeder.next_batch() for _ in range(3)] == [["a1", "a2"], SplitEnd("a"), SplitFound("b")]
    assert feeder.snapshot() == {"a": FINISHED}


class Folder(SplitSource):
    """The files of a folder, each with one record; `blocking` or not."""

    grows = True

    def __init__(self, folder, blocking):
        self.folder, self.blocking = str(folder), blocking

    def splits(self):
        return sorted(file.name for file in Path(self.folder).iterdir())

    def reader(self, split, position):
        return Twice(split, position or 0)


@pytest.mark.parametrize("executor", ["threads", "processes"])
@pytest.mark.parametrize("blocking", [False, True])
def test_files_that_come_while_a_job_runs_are_read_once(tmp_path, executor, blocking):
    files, seen = tmp_path / "files", tmp_path / "seen"
    files.mkdir()
    seen.mkdir()
    (files / "a").touch()
    env = LocalEnvironment("growing", 2, executor=executor)
    rows = env.from_source(Folder(files, blocking))
    rows.for_each(lambda row: (seen / row).touch())
    rows.collect("rows")
    job = env.submit()
    for names in ("a", "ab", "abcdef"):
        for name in names:
            (files / name).touch()
        while {file.name for file in seen.iterdir()} != {f"{name}{n}" for name in names for n in (1, 2)}:
            time.sleep(0.01)
    job.drain()
    job.wait()
    assert sorted(job.result().collected["rows"]) == [f"{name}{n}" for name in "abcdef" for n in (1, 2)]
