"""The end of a job on Ray is decided once: all outputs are published, whoever is killed in the middle of it."""

import os
import signal

import pytest
from job_parts import LongToPickle, wait_for

from sage_flow import FixedDelay, JobStatus, RemoteEnvironment
from sage_flow.connectors.file_sinks import TextSink
from sage_flow.connectors.prepared_file import publish
from sage_flow.errors import WorkerDied

SINKS = 30
GROUPS = 5


class KillsItself(TextSink):
    """The first commit of this file kills its process, before or behind the publication."""

    def __init__(self, path, mark, *, behind):
        super().__init__(path)
        self.mark = mark
        self.behind = behind

    def commit(self, handle):
        if self.mark.exists():
            super().commit(handle)
            return
        self.mark.touch()
        if self.behind:
            super().commit(handle)
        os.kill(os.getpid(), signal.SIGKILL)


class Waits(TextSink):
    """Commits once a file is there."""

    def __init__(self, path, folder):
        super().__init__(path)
        self.folder = folder

    def commit(self, handle):
        (self.folder / "commits").touch()
        wait_for((self.folder / "go").exists)
        publish(handle)


def lines(folder):
    return {path.name: path.read_text() for path in folder.glob("out-*.txt")}


def job_of_sinks(folder, name, special, **options):
    """A job with 30 file sinks in five actors; `special` are sinks by number."""
    env = RemoteEnvironment(name, **options)
    numbers = env.from_collection(range(3)).map(str)
    for number in range(SINKS):
        sink = special.get(number) or TextSink(folder / f"out-{number}.txt")
        numbers.rebalance().add_sink(sink).options(slot_sharing_group=f"sinks {number % GROUPS}")
    env.from_collection([7]).collect("rows")
    return env


EXPECTED = {f"out-{number}.txt": "0\n1\n2\n" for number in range(SINKS)}


@pytest.mark.parametrize(
    "victim", [0, 29, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 19))], ids="kill in sink {}".format
)
def test_an_actor_that_is_killed_in_its_commit_is_replaced_and_all_is_published(ray_cluster, tmp_path, victim):
    path, mark = tmp_path / f"out-{victim}.txt", tmp_path / "killed"
    special = {victim: KillsItself(path, mark, behind=victim % 2 == 1)}
    env = job_of_sinks(tmp_path, f"killed in commit {victim}", special)
    result = env.execute(progress=False)
    assert mark.exists()
    assert lines(tmp_path) == EXPECTED
    assert result.collected["rows"] == [7]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*EXPECTED, "killed"])


def master_pid(job):
    import ray

    return ray.get(ray.get_actor(f"{job.id}/master", namespace="sage_flow").pid.remote())


@pytest.mark.parametrize("restart", [None, FixedDelay(1, delay_s=0.1)], ids=["no restart", "restarts"])
def test_a_master_that_is_killed_during_the_commit_is_followed_by_one_that_publishes_the_rest(
    ray_cluster, tmp_path, restart
):
    special = {3: Waits(tmp_path / "out-3.txt", tmp_path)}
    job = job_of_sinks(tmp_path, "master killed in commit", special, restart=restart).submit()
    wait_for((tmp_path / "commits").exists)
    os.kill(master_pid(job), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert job.wait(120) is JobStatus.FINISHED
    assert job.result().collected["rows"] == [7], "the log has the rows, too"
    assert lines(tmp_path) == EXPECTED


def test_a_master_that_is_killed_before_the_end_is_recorded_publishes_nothing(ray_cluster, tmp_path):
    def wait(n):
        (tmp_path / "runs").touch()
        wait_for((tmp_path / "go").exists)
        return n

    env = RemoteEnvironment("master killed before")
    env.from_collection([1]).map(wait).map(str).add_sink(TextSink(tmp_path / "out-0.txt"))
    job = env.submit()
    wait_for((tmp_path / "runs").exists)
    os.kill(master_pid(job), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert job.wait(120) is JobStatus.FAILED
    with pytest.raises(WorkerDied, match="master of job"):
        job.result()
    assert lines(tmp_path) == {}


def test_the_master_stays_until_many_rows_have_arrived_however_long_that_takes(ray_cluster):
    env = RemoteEnvironment("many rows")
    env.from_collection([1]).map(lambda n: LongToPickle("x" * (2 << 20))).collect("rows")
    (row,) = env.execute(progress=False).collected["rows"]
    assert len(row.text) == 2 << 20
