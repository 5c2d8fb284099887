"""A storage that is gone when a job is to be restored costs a restart, and not the job."""

import re
from collections import Counter
from datetime import timedelta

import pytest

from sage_flow import END, IDLE, FixedDelay, LocalEnvironment, SplitReader, SplitSource
from sage_flow.checkpoint.storage import MemoryStorage
from sage_flow.errors import StorageError
from sage_flow.executors.simulation import SimulationExecutor


class FailsAt:
    """Raises at a record, once."""

    def __init__(self, at):
        self.at = at

    def __call__(self, value):
        if value == self.at:
            self.at = None
            raise OSError("the disk is gone")
        return value


class Numbers(SplitSource):
    bounded = True

    def splits(self):
        return ["all"]

    def reader(self, split, position):
        return Tens(position or 0)


class Tens(SplitReader):
    def __init__(self, position):
        self._position, self._asked = position, 0

    def next_batch(self):
        self._asked += 1
        if self._asked % 4:
            return IDLE
        self._position += 10
        return [*range(self._position - 10, self._position)] if self._position <= 1000 else END

    def position(self):
        return self._position


@pytest.mark.parametrize("file", ["metadata", "rows", "parts"])
def test_a_checkpoint_that_cannot_be_read_for_a_while_is_read_by_a_later_attempt(file, monkeypatch):
    left, read = [2], MemoryStorage.read
    patterns = {"metadata": r"checkpoints/", "rows": r"chunks/.*-s0-", "parts": r"chunks/.*-s[1-9]"}

    def gone_for_a_while(self, name):
        if re.match(patterns[file], name) and left[0]:
            left[0] -= 1
            raise StorageError(f"{name}: cannot be reached", may_pass=True)
        return read(self, name)

    fails = FailsAt(900)
    env = LocalEnvironment(
        "job", 2, executor=SimulationExecutor(1, processes=100), restart=FixedDelay(attempts=5, delay_s=0.1)
    )
    env.enable_checkpointing(f"memory://unreachable-{file}", interval=timedelta(milliseconds=5))
    numbers = env.from_source(Numbers, parallelism=1).rebalance()
    numbers.map(lambda n: fails(n)).key_by(lambda n: n % 3).count().collect("counts")
    monkeypatch.setattr(MemoryStorage, "read", gone_for_a_while)
    rows = env.execute().collected["counts"]
    assert left == [0]
    assert Counter(rows) == Counter((k, c) for k in range(3) for c in range(1, len(range(k, 1000, 3)) + 1))
