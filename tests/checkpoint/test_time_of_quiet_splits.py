"""Time after a restore at another parallelism: a quiet split counts with how far it had come, whoever reads it."""

import time
from datetime import timedelta

from sage_flow import IDLE, JobStatus, LocalEnvironment, SplitReader, SplitSource, TumblingWindow

RECORDS = {}  # by split
ASKED = {}  # how often each split was asked for more than it has


class Splits(SplitSource):
    """Splits that are quiet behind their records."""

    bounded = False

    def splits(self):
        return list(RECORDS)

    def reader(self, split, position):
        return Reader(split, position or 0)


class Reader(SplitReader):
    def __init__(self, split, position):
        self._split, self._position = split, position

    def next_batch(self):
        batch = RECORDS[self._split][self._position :]
        if not batch:
            ASKED[self._split] += 1
            return IDLE
        self._position += len(batch)
        return batch

    def position(self):
        return self._position


def windows_of(records, parallelism):
    """Go on with these records until both splits are quiet; return the windows that were given."""
    RECORDS.update(records)
    ASKED.update(dict.fromkeys(RECORDS, 0))
    env = LocalEnvironment("quiet", parallelism)
    env.enable_checkpointing("memory://quiet", restore="latest")
    times = env.from_source(Splits(), parallelism=parallelism)
    timed = times.assign_timestamps(lambda t: t, max_out_of_order=timedelta(0), parallelism=parallelism)
    windows = timed.key_by(lambda t: "all").window(TumblingWindow(timedelta(milliseconds=100)))
    windows.count().map(lambda window: window.start).collect("starts")
    job = env.submit()
    while min(ASKED.values()) < 3:  # when it is asked again, its subtask has said how far time is
        time.sleep(0.001)
    assert job.stop() is JobStatus.STOPPED
    return job.result().collected["starts"]


def test_a_subtask_that_reads_only_the_further_of_two_splits_does_not_hold_time_back_after_a_restore():
    assert windows_of({"a": [0, 100], "b": [0, 500]}, 1) == [0]
    assert windows_of({"a": [0, 100, 300]}, 2) == [0, 100]
    assert windows_of({"a": [0, 100, 300, 510]}, 1) == [0, 100, 300]
