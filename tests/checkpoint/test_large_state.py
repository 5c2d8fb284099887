"""A state of more than a megabyte, which is stored by its changes, and a job that goes on from such a checkpoint."""

import threading
from datetime import timedelta

from sage_flow import FixedDelay, LocalEnvironment, ProcessFunction
from sage_flow.checkpoint.inspect import stored_runs

KEYS = 20_000
ROUNDS = 12
HOT = 40  # keys that get a record in every round


class Baskets(ProcessFunction):
    """A list for each key, which is changed in place and is emptied when it is full."""

    def process(self, number, ctx):
        basket = ctx.state.list("basket")
        basket.append(f"{number:060}")
        if len(basket) == 3:
            yield ctx.key, tuple(basket)
            basket.clear()


class FailsBehind:
    """Raises once, at a record behind which the job has changes in its checkpoints."""

    def __init__(self, storage):
        self.storage, self.has_failed = storage, threading.Event()

    def __call__(self, number):
        if number >= KEYS and not self.has_failed.is_set() and changes_in(self.storage):
            self.has_failed.set()
            raise OSError("the disk is gone")
        return number


def changes_in(storage):
    """The parts of the latest checkpoint of which most is stored with earlier ones."""
    (run,) = stored_runs(str(storage))
    parts = [one.metadata.parts for one in run.checkpoints if one.metadata is not None]
    return [part for part in (parts[-1] if parts else ()) if part.stored * 2 < part.size]


def numbers():
    """All keys once, then mostly the hot ones, for so long that checkpoints come between."""
    later = [key + KEYS * turn for turn in range(1, 200 * ROUNDS) for key in range(HOT)]
    return [*range(KEYS), *later, *(key + KEYS for key in range(0, KEYS, 7))]


def run(storage=None, fails=None):
    env = LocalEnvironment("large", parallelism=1, restart=FixedDelay(3, 0.0))
    if storage is not None:
        env.enable_checkpointing(storage, interval=timedelta(milliseconds=20), min_pause=timedelta(0))
    source = env.from_collection(numbers(), max_rate=None if storage is None else 60_000)
    checked = source if fails is None else source.map(fails)
    checked.key_by(lambda number: number % KEYS).process(Baskets, name="baskets").collect("baskets")
    return env.execute(progress=False).collected["baskets"]


def test_a_job_goes_on_from_a_checkpoint_that_has_only_changes(tmp_path):
    fails = FailsBehind(tmp_path)
    assert run(tmp_path, fails) == run()
    assert fails.has_failed.is_set()
