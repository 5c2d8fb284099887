"""What a handle tells of the checkpoints of its job, and of a run that has finished before."""

import time
from datetime import timedelta

import pytest

from sage_flow import FixedDelay, JobStatus, LocalEnvironment, Sink
from sage_flow.errors import PipelineError, ServiceUnavailable
from sage_flow.executors.checkpoint_reports import CheckpointInfo, latest_infos


def env_with(storage, **options):
    env = LocalEnvironment("job", restart=FixedDelay(attempts=3, delay_s=0.01))
    env.enable_checkpointing(storage, interval=timedelta(milliseconds=20), **options)
    return env


class Fails:
    """Raises once, at the first record behind a complete checkpoint of `job`, which the test sets."""

    def __init__(self):
        self.job, self.has_failed = None, False

    def __call__(self, value):
        time.sleep(0.001)
        if not self.has_failed and self.job is not None and complete(self.job):
            self.has_failed = True
            raise OSError("the disk is gone")
        return value


def complete(job):
    return [info for info in job.checkpoints() if info.failed is None]


def info(checkpoint, attempt=1, failed=None):
    path = None if failed else f"a{attempt}-n{checkpoint}"
    return CheckpointInfo(checkpoint, attempt, 0, 0.0, 0, 0.0, 0.0, 0.0, failed=failed, path=path)


def test_only_the_checkpoints_that_are_kept_have_a_path():
    infos = [info(1), info(2), info(3, failed="too late"), info(4), info(5, attempt=2)]
    assert [i.path for i in latest_infos(infos, keep=2)] == [None, None, None, "a1-n4", "a2-n5"]


def test_a_checkpoint_that_is_told_twice_is_given_once():
    assert latest_infos([info(1), info(1), info(1, attempt=2)], keep=3) == [info(1), info(1, attempt=2)]


def test_a_handle_tells_the_checkpoints_of_all_attempts(tmp_path):
    fails = Fails()
    env = env_with(str(tmp_path), keep=1000)
    env.from_collection(range(1500)).map(lambda n: fails(n)).collect("rows")
    before = time.time()
    with env.submit() as job:
        fails.job = job
        assert job.wait() is JobStatus.FINISHED
    told = job.checkpoints()
    assert fails.has_failed
    assert {info.attempt for info in told} == {1, 2}
    assert [info.checkpoint for info in told] == sorted(info.checkpoint for info in told)
    for one in complete(job):
        assert one.path == str(
            tmp_path / "job" / job_run(tmp_path) / "checkpoints" / f"a{one.attempt}-n{one.checkpoint}"
        )
        assert before - 1 < one.began / 1000 < time.time() + 1
        assert one.size > 0
        assert one.took_s > 0
        assert one.slowest
    assert [info.path for info in job.metrics()["checkpoints"]] == [info.path for info in told]


def job_run(tmp_path):
    (run,) = (tmp_path / "job").iterdir()
    return run.name


def test_a_checkpoint_that_fails_says_why(tmp_path):
    env = env_with(str(tmp_path))
    env.from_collection(range(300)).key_by(lambda n: n % 3).process(unpicklable_state).collect("rows")
    with env.submit() as job:
        job.wait()
    failed = [info for info in job.checkpoints() if info.failed]
    assert failed
    assert "cannot be pickled" in failed[0].failed
    assert failed[0].path is None


def unpicklable_state(value, ctx):
    time.sleep(0.001)
    ctx.state.value("lock").set(n for n in ())
    return [value]


def test_a_job_without_checkpoints_tells_of_none_and_cannot_be_stopped():
    env = LocalEnvironment("plain")
    env.from_collection([1]).collect("rows")
    with env.submit() as job:
        with pytest.raises(PipelineError, match="has no checkpoints"):
            job.stop()
        job.wait()
    assert job.checkpoints() == []


# --- a run that has finished ------------------------------------------------------------------------------


def test_the_latest_run_has_finished_so_nothing_runs_and_the_handle_has_its_rows(tmp_path, caplog):
    calls = []

    def made(**options):
        env = env_with(str(tmp_path / "storage"), **options)
        rows = env.from_collection([1, 2, 3]).map(lambda n: calls.append(n) or n * n, name="squares")
        rows.collect("squares")
        rows.map(str).write_text(str(tmp_path / "squares.txt"))
        return env

    first = made().execute()
    (tmp_path / "squares.txt").unlink()  # its user has moved it away
    job = made(restore="latest").submit()
    assert job.status in (JobStatus.RUNNING, JobStatus.FINISHED)
    assert list(job.rows("squares")) == [1, 4, 9]
    with pytest.raises(PipelineError, match="no collect sink"):
        list(job.rows("cubes"))
    result = job.result()
    assert (result.status, result.collected, result.counts) == (JobStatus.FINISHED, first.collected, first.counts)
    assert calls == [1, 2, 3]
    assert not (tmp_path / "squares.txt").exists()
    assert "has finished; nothing is run or published again" in caplog.text
    assert (job.collected(), job.subtasks(), job.checkpoints()) == ({"squares": [1, 4, 9]}, [], [])
    assert job.metrics()["operators"]["squares"].emitted == 3
    assert job.statistics()["channels"] == []
    with pytest.raises(ServiceUnavailable):
        job.service("none")
    assert job.stop() is job.drain() is job.cancel() is JobStatus.FINISHED


class Broken(Sink):
    """Publishes into a file, unless another one says that it cannot."""

    def __init__(self, folder):
        self.folder, self.rows = folder, []

    def write(self, value):
        self.rows.append(value)

    def prepare(self, checkpoint):
        rows, self.rows = self.rows, []
        return rows or None

    def commit(self, handle):
        if (self.folder / "broken").exists():
            raise OSError("cannot publish")
        (self.folder / "published").write_text(repr(handle))


def test_a_run_that_has_finished_and_not_published_only_publishes(tmp_path):
    calls = []

    def made(**options):
        env = LocalEnvironment("job")
        env.enable_checkpointing(str(tmp_path / "storage"), interval=timedelta(hours=1), **options)
        rows = env.from_collection([1, 2]).map(lambda n: calls.append(n) or n)
        rows.add_sink(Broken(tmp_path))
        rows.collect("rows")
        return env

    (tmp_path / "broken").touch()
    with pytest.raises(OSError, match="cannot publish"):
        made().execute()
    assert not (tmp_path / "published").exists()
    (tmp_path / "broken").unlink()
    with made(restore="latest").submit() as job:
        assert job.status in (JobStatus.RUNNING, JobStatus.FINISHED)
        assert job.result().collected == {"rows": [1, 2]}
        assert list(job.rows("rows")) == [1, 2]
    assert (tmp_path / "published").read_text() == "[1, 2]"
    assert calls == [1, 2]
