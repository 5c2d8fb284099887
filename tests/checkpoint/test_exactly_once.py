"""A job that fails and goes on from its last checkpoint gives what it gives without the failure."""

import time
from collections import Counter
from datetime import timedelta

import pytest

from sage_flow import FixedDelay, LocalEnvironment

SOON = timedelta(milliseconds=20)


class FailsOnce:
    """Raises at a record, once in the process, when so many checkpoints may be there."""

    def __init__(self, at, pause_s=0.0005):
        self.at, self.pause_s, self.has_failed = at, pause_s, False

    def __call__(self, value):
        time.sleep(self.pause_s)
        if value == self.at and not self.has_failed:
            self.has_failed = True
            raise OSError("the disk is gone")
        return value


def env_with(storage, name="job", parallelism=2, **options):
    env = LocalEnvironment(name, parallelism=parallelism, restart=FixedDelay(attempts=3, delay_s=0.01))
    env.enable_checkpointing(storage, interval=options.pop("interval", SOON), **options)
    return env


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "checkpoints")


def test_a_keyed_count_goes_on_where_the_last_checkpoint_was(storage):
    fails = FailsOnce(1500)
    env = env_with(storage)
    numbers = env.from_collection(range(2000)).map(lambda n: fails(n), parallelism=1)
    numbers.key_by(lambda n: n % 7).count().collect("counts")
    result = env.execute()
    assert fails.has_failed
    rows = Counter(result.collected["counts"])
    assert rows == Counter((k, c) for k in range(7) for c in range(1, len(range(k, 2000, 7)) + 1))


def test_a_restart_reads_on_and_does_not_begin_at_the_beginning(storage):
    read = []
    fails = FailsOnce(900)
    env = env_with(storage, parallelism=1)
    env.from_collection(range(1000)).map(lambda n: read.append(n) or fails(n)).collect("all")
    assert env.execute().collected["all"] == list(range(1000))
    assert 1000 < len(read) < 1900
