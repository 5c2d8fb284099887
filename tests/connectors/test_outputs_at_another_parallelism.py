"""A sink of a file that had finished before a stop: at another parallelism its file is part of the new ones."""

import time

import pytest

from sage_flow import END, IDLE, JobStatus, LocalEnvironment, SplitReader, SplitSource

GOES_ON = []


class Splits(SplitSource):
    """The second one does not end before `GOES_ON` says so."""

    bounded = True

    def splits(self):
        return ["0", "1"]

    def reader(self, split, position):
        return Reader(split, position or 0)


class Reader(SplitReader):
    def __init__(self, split, position):
        self._split, self._position = split, position

    def next_batch(self):
        if self._position < 3:
            self._position += 1
            return [f"{self._split} {self._position}"]
        return END if self._split == "0" or GOES_ON else IDLE

    def position(self):
        return self._position


def started(folder, parallelism, name):
    env = LocalEnvironment("divided", parallelism)
    env.enable_checkpointing(f"{folder}/kept", restore="latest")
    env.from_source(Splits(), parallelism=parallelism).write_text(folder / name, parallelism=parallelism)
    return env.submit()


@pytest.mark.parametrize("name", ["out.txt", "out.txt.gz"])
@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_the_files_are_those_of_the_parallelism_with_which_the_job_ends(tmp_path, parallelism, name):
    GOES_ON.clear()
    job = started(tmp_path, 2, name)
    while not list(tmp_path.glob(".out*.prepared")):
        time.sleep(0.001)
    assert job.stop() is JobStatus.STOPPED
    assert not list(tmp_path.glob("out*"))
    GOES_ON.append(True)
    assert started(tmp_path, parallelism, name).result().status is JobStatus.FINISHED
    stem, ending = name.split(".", 1)
    files = [f"{stem}-{i:05d}-of-{parallelism:05d}.{ending}" for i in range(parallelism)] if parallelism > 1 else [name]
    assert sorted(file.name for file in tmp_path.glob("out*")) == files
    env = LocalEnvironment("reads")
    rows = env.read_text([tmp_path / file for file in files]).collect("rows")
    assert sorted(env.execute().collected["rows"]) == [f"{split} {n}" for split in "01" for n in (1, 2, 3)], rows
    assert not list(tmp_path.glob(".out*"))
