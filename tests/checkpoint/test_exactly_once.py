"""A job that fails and goes on from its last checkpoint gives what it gives without the failure."""

import os
import time
from collections import Counter
from datetime import timedelta

import pytest

from sage_flow import END, FixedDelay, JobStatus, LocalEnvironment, NoRestart, Sink, Source, SplitReader, SplitSource
from sage_flow.errors import CheckpointError, CheckpointsFail, PipelineError, StorageError

SOON = timedelta(milliseconds=20)


class FailsOnce:
    """Raises at a record, once in the process."""

    def __init__(self, at, pause_s=0.0005):
        self.at, self.pause_s, self.has_failed = at, pause_s, False

    def __call__(self, value):
        time.sleep(self.pause_s)
        if value == self.at and not self.has_failed:
            self.has_failed = True
            raise OSError("the disk is gone")
        return value


class Row:
    def __init__(self, number):
        self.number = number


class Numbers(SplitSource):
    """`each` numbers from each of `count` splits; slow if that is said of a split."""

    bounded = True

    def __init__(self, count, each, pause_s=0.0, slow=()):
        self.count, self.each, self.pause_s, self.slow = count, each, pause_s, slow

    def splits(self):
        return [f"split-{number}" for number in range(self.count)]

    def reader(self, split, position):
        number = int(split.split("-")[1])
        return NumberReader(number * 1_000_000, self.each, position or 0, self.pause_s if split in self.slow else 0)


class NumberReader(SplitReader):
    def __init__(self, base, end, at, pause_s):
        self.base, self.end, self.at, self.pause_s = base, end, at, pause_s

    def next_batch(self):
        if self.at >= self.end:
            return END
        time.sleep(self.pause_s)
        batch = [self.base + n for n in range(self.at, min(self.end, self.at + 5))]
        self.at += len(batch)
        return batch

    def position(self):
        return self.at


def env_with(storage, parallelism=2, restart=None, **options):
    env = LocalEnvironment("job", parallelism=parallelism, restart=restart or FixedDelay(attempts=3, delay_s=0.01))
    env.enable_checkpointing(storage, interval=options.pop("interval", SOON), **options)
    return env


def counts_of(rows):
    """What `count()` by the last digit gives for each record."""
    per_key = Counter(n % 7 for n in rows)
    return Counter((key, number) for key, most in per_key.items() for number in range(1, most + 1))


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "checkpoints")


def files_below(folder):
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]


def test_a_keyed_count_goes_on_where_the_last_checkpoint_was(storage):
    fails = FailsOnce(1500)
    env = env_with(storage)
    numbers = env.from_collection(range(2000)).map(lambda n: fails(n), parallelism=1)
    numbers.key_by(lambda n: n % 7).count().collect("counts")
    result = env.execute()
    assert fails.has_failed
    assert Counter(result.collected["counts"]) == counts_of(range(2000))


def test_a_restart_reads_on_and_does_not_begin_at_the_beginning(storage):
    read = []
    fails = FailsOnce(900)
    env = env_with(storage, parallelism=1)
    env.from_collection(range(1000)).map(lambda n: read.append(n) or fails(n)).collect("all")
    assert env.execute().collected["all"] == list(range(1000))
    assert 1000 < len(read) < 1900


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_job_that_was_stopped_goes_on_with_any_parallelism(storage, before, after):
    def write(env):
        source = Numbers(4, 400, 0.002, slow=("split-1", "split-3"))
        numbers = env.from_source(source, parallelism=env._graph.parallelism)
        numbers.key_by(lambda n: n % 7, name="by digit").count(name="count").collect("counts")

    env = env_with(storage, before, interval=timedelta(seconds=60))
    write(env)
    job = env.submit()
    while sum(count.emitted for count in job.metrics()["operators"].values()) < 100:
        time.sleep(0.005)
    assert job.stop() is JobStatus.STOPPED
    first = job.result().collected["counts"]
    assert 0 < len(first) < 1600

    env = env_with(storage, after, restore="latest")
    write(env)
    rows = [1_000_000 * split + n for split in range(4) for n in range(400)]
    assert Counter(env.execute().collected["counts"]) == counts_of(rows)


def test_a_subtask_that_had_finished_does_not_run_again(storage):
    opened = []

    class Opens(Numbers):
        def open(self, ctx):
            opened.append(ctx.subtask_index)
            super().open(ctx)

    fails = FailsOnce(1_000_395, pause_s=0)
    env = env_with(storage, 2)
    numbers = env.from_source(Opens(2, 400, 0.003, slow=("split-1",)), parallelism=2)
    numbers.rebalance().map(lambda n: fails(n), parallelism=1).collect("all")
    rows = env.execute().collected["all"]
    assert sorted(rows) == sorted([*range(400), *range(1_000_000, 1_000_400)])
    assert fails.has_failed
    assert sorted(opened) == [0, 1, 1]


def test_a_run_that_has_finished_is_not_run_again(storage):
    env = env_with(storage)
    env.from_collection(range(10)).collect("all")
    env.execute()
    calls = []
    env = env_with(storage, restore="latest")
    env.from_collection(range(10)).map(lambda n: calls.append(n)).collect("all")
    job = env.submit()
    assert job.wait() is JobStatus.FINISHED
    assert calls == []


def test_latest_begins_at_the_beginning_where_nothing_is_stored(storage):
    env = env_with(storage, restore="latest")
    env.from_collection(range(10)).collect("all")
    assert sorted(env.execute().collected["all"]) == list(range(10))


def test_a_job_that_failed_for_good_goes_on_later(storage):
    fails = FailsOnce(700)

    def run(**options):
        env = env_with(storage, 1, restart=NoRestart(), **options)
        env.from_collection(range(1000)).map(lambda n: fails(n), name="fails").collect("all")
        return env.execute()

    with pytest.raises(OSError, match="disk"):
        run()
    assert run(restore="latest").collected["all"] == list(range(1000))


def test_rows_are_seen_when_their_checkpoint_is_complete_and_none_twice(storage):
    fails = FailsOnce(600, pause_s=0.001)
    env = env_with(storage, 1)
    env.from_collection(range(1000)).map(lambda n: fails(n)).collect("all")
    job = env.submit()
    assert list(job.rows("all")) == list(range(1000))
    assert fails.has_failed


def test_old_checkpoints_are_deleted_and_the_log_stays_short(storage):
    env = env_with(storage, 1, interval=timedelta(milliseconds=5), keep=2)
    env.from_collection(range(400)).map(lambda n: time.sleep(0.003) or n).key_by(lambda n: n % 50).count().collect("c")
    env.execute()
    kinds = Counter(os.path.basename(os.path.dirname(file)) for file in files_below(storage))
    assert kinds["checkpoints"] == 2
    assert kinds["chunks"] <= 2 * 2 * 2 + 64
    assert kinds["log"] <= 5


def test_rule_5_an_automatic_restart_does_not_take_an_older_checkpoint(storage):
    class Damages:
        def __call__(self, n):
            time.sleep(0.001)
            if n == 700:
                for file in files_below(storage):
                    if "/chunks/" in file:
                        with open(file, "r+b") as chunk:
                            chunk.seek(40)
                            chunk.write(b"\xff\xff\xff\xff")
                raise OSError("the disk is gone")
            return n

    damages = Damages()
    env = env_with(storage, 1, restart=FixedDelay(attempts=1000, delay_s=0.01))
    env.from_collection(range(1000)).map(lambda n: damages(n)).collect("all")
    with pytest.raises(CheckpointError, match="/chunks/"):
        env.execute()


def test_more_failed_checkpoints_than_are_tolerated_end_the_attempt(storage):
    env = env_with(storage, 1, restart=NoRestart(), tolerable_failures=1)
    env.from_collection(range(3000)).map(lambda n: time.sleep(0.001) or n).key_by(lambda n: n % 3).fold(
        lambda: [], lambda kept, n: [*kept[:1], (m for m in ())], name="folds"
    ).map(lambda pair: pair[0]).collect("keys")
    with pytest.raises(CheckpointsFail, match=r"2 checkpoints .* 1 are tolerated .*'folds'"):
        env.execute()


def test_state_under_an_automatic_name_is_not_given_to_another_operator(storage):
    def write(env, *, in_front):
        numbers = env.from_source(Numbers(1, 2000, 0.002, slow=("split-0",)), parallelism=1)
        if in_front:
            numbers.key_by(lambda n: n % 3).count().map(lambda pair: pair[1]).key_by(lambda n: n % 2).count().collect(
                "b"
            )
        numbers.key_by(lambda n: n % 7).count().collect("counts")

    env = env_with(storage, 1)
    write(env, in_front=False)
    job = env.submit()
    while not job.collected()["counts"]:
        time.sleep(0.01)
    job.stop()
    env = env_with(storage, 1, restore="latest")
    write(env, in_front=True)
    with pytest.raises(CheckpointError, match=r"'count-1'.*name="):
        env.execute()


def test_state_of_an_operator_that_is_gone_is_dropped_only_if_that_is_said(storage):
    def write(env, *, counts):
        numbers = env.from_source(Numbers(1, 3000, 0.002, slow=("split-0",)), parallelism=1, name="numbers")
        if counts:
            numbers.key_by(lambda n: n % 7).count(name="count").for_each(lambda pair: None, name="nothing")
        numbers.collect("all")

    env = env_with(storage, 1)
    write(env, counts=True)
    job = env.submit()
    while not job.collected()["all"]:
        time.sleep(0.01)
    job.stop()
    env = env_with(storage, 1, restore="latest")
    write(env, counts=False)
    with pytest.raises(CheckpointError, match=r"does not have any more: count"):
        env.execute()
    env = env_with(storage, 1, restore="latest", allow_dropped=True)
    write(env, counts=False)
    assert env.execute().collected["all"] == list(range(3000))


class Positions(Source):
    """Several subtasks without splits: nobody can say which position belongs to which of other subtasks."""

    bounded = parallel = True

    def __init__(self):
        self.at = 0

    def next_batch(self):
        time.sleep(0.002)
        self.at += 1
        return [self.at] if self.at <= 400 else END

    def snapshot(self):
        return self.at

    def restore(self, position):
        self.at = position


@pytest.mark.parametrize(("after", "is_refused"), [(2, False), (1, True), (3, True)])
def test_a_source_without_splits_goes_on_at_its_parallelism_only(storage, after, is_refused):
    env = env_with(storage, 2)
    env.from_source(Positions(), parallelism=2, name="positions").collect("all")
    job = env.submit()
    while not job.collected()["all"]:
        time.sleep(0.01)
    assert job.stop() is JobStatus.STOPPED
    env = env_with(storage, 2, restore="latest")
    env.from_source(Positions(), parallelism=after, name="positions").collect("all")
    if is_refused:
        with pytest.raises(CheckpointError, match=r"'positions' has 2 subtasks.*SplitSource"):
            env.execute()
    else:
        assert sorted(env.execute().collected["all"]) == sorted([*range(1, 401)] * 2)


def test_collected_rows_that_cannot_be_loaded_end_the_job_by_name(storage, monkeypatch):
    def write(env):
        numbers = env.from_source(Numbers(1, 600, 0.002, slow=("split-0",)), parallelism=1, name="numbers")
        numbers.map(Row, name="rows").collect("all")

    env = env_with(storage, 1)
    write(env)
    job = env.submit()
    while not job.collected()["all"]:
        time.sleep(0.01)
    job.stop()
    row = Row
    monkeypatch.setattr(f"{__name__}.Row", None)
    env = env_with(storage, 1, restart=FixedDelay(attempts=1000, delay_s=0.01), restore="latest")
    env.from_source(Numbers(1, 600), parallelism=1, name="numbers").map(row, name="rows").collect("all")
    with pytest.raises(CheckpointError, match=r"/chunks/.*cannot be loaded"):
        env.execute()


def test_state_that_cannot_be_pickled_fails_the_checkpoint_and_not_the_data(storage, caplog):
    env = env_with(storage, 1)
    env.from_collection(range(300)).map(lambda n: time.sleep(0.001) or n).key_by(lambda n: n % 3).fold(
        lambda: [], lambda kept, n: [*kept[:1], lambda: n], name="folds"
    ).map(lambda pair: pair[0]).collect("keys")
    assert len(env.execute().collected["keys"]) == 300


def test_a_storage_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    env = env_with(str(tmp_path / "file"))
    env.from_collection(range(10)).collect("all")
    with pytest.raises(StorageError, match="file"):
        env.submit()


def test_a_storage_that_vanishes_stops_no_data(storage, tmp_path):
    def lose(n):
        time.sleep(0.001)
        if n == 300:
            os.rename(storage, tmp_path / "moved")
            (tmp_path / "checkpoints").write_text("")
        if n == 600:
            os.remove(storage)
            os.rename(tmp_path / "moved", storage)
        return n

    env = env_with(storage, 1)
    env.from_collection(range(1000)).map(lose).collect("all")
    assert env.execute().collected["all"] == list(range(1000))


class NoPosition(Source):
    def next_batch(self):
        return END


class LateSink(Sink):
    def write(self, value):
        pass

    def commit(self):
        pass


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda env: env.from_source(NoPosition()).collect("a"), r"'source-1'.*no snapshot"),
        (lambda env: env.from_iterable(iter([1])).collect("a"), r"iterator gives its records once"),
        (lambda env: env.from_collection([1]).add_sink(LateSink()), r"LateSink publishes in commit"),
    ],
)
def test_what_could_not_be_restored_is_refused_at_the_start(storage, write, told):
    env = env_with(storage)
    write(env)
    with pytest.raises(PipelineError, match=told):
        env.submit()


def test_memory_is_refused_for_a_job_of_several_processes():
    env = LocalEnvironment("job", executor="processes")
    env.enable_checkpointing("memory://several")
    env.from_collection([1]).collect("a")
    with pytest.raises(PipelineError, match="memory of one process"):
        env.submit()


def test_stop_needs_checkpoints():
    env = LocalEnvironment("job")
    env.from_iterable(lambda: iter(int, 1)).collect("a")
    job = env.submit()
    with pytest.raises(PipelineError, match="no checkpoints"):
        job.stop()
    job.cancel()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"storage": ""}, "storage must be"),
        ({"storage": 3}, "storage must be"),
        ({"interval": 10}, r"timedelta\(seconds=10\)"),
        ({"timeout": timedelta(0)}, "longer than 0"),
        ({"keep": 0}, "keep must be"),
        ({"tolerable_failures": -1}, "tolerable_failures"),
        ({"restore": ""}, "restore must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, told):
    with pytest.raises(PipelineError, match=told):
        LocalEnvironment("job").enable_checkpointing(**{"storage": str(tmp_path), **options})


def test_a_path_that_is_no_checkpoint_is_refused(storage):
    env = env_with(storage, restore=storage + "/job/nothing")
    env.from_collection([1]).collect("a")
    with pytest.raises(PipelineError, match="names no checkpoint"):
        env.submit()


def test_with_checkpoints_a_job_is_restarted_unless_the_user_says_how(storage):
    env = LocalEnvironment("job")
    assert isinstance(env._options.restart, NoRestart)
    env.enable_checkpointing(storage)
    assert type(env._options.restart).__name__ == "ExponentialDelay"
