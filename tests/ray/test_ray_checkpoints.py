"""A job on Ray with checkpoints: its handle and the commands show them, stop it, and a later run goes on to the end."""

import json
import time
from datetime import timedelta

import pytest

from sage_flow import JobStatus, RemoteEnvironment
from sage_flow.cli import main

COUNT = 3000


class Paced:
    def __call__(self, number):
        time.sleep(0.002)
        return number


def env_with(storage, name, **options):
    env = RemoteEnvironment(name)
    env.enable_checkpointing(storage, interval=timedelta(milliseconds=100), **options)
    numbers = env.from_collection(range(COUNT), name="numbers").map(Paced(), name="paced")
    numbers.key_by(lambda n: n % 3).count(name="counts", parallelism=2).collect("rows")
    return env


def complete(job):
    return [info for info in job.checkpoints() if info.failed is None]


@pytest.fixture
def stopped(ray_cluster, tmp_path, capsys):
    """A job that `sage-flow stop` has stopped; its storage and its name."""
    name = f"stopped {tmp_path.name}"
    with env_with(str(tmp_path), name).submit() as job:
        while not complete(job):
            job.wait(0.1)
        assert main(["checkpoints", job.id, "--address", ray_cluster.address, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["job"] == {"name": name, "id": job.id}
        paths = [one["path"] for one in told["checkpoints"] if one["path"] is not None]  # of those that are kept
        assert paths
        assert all("/checkpoints/a1-n" in path for path in paths)
        assert main(["status", job.id, "--address", ray_cluster.address]) == 0
        assert "complete, the latest is" in capsys.readouterr().out
        assert main(["stop", job.id, "--address", ray_cluster.address]) == 0
        assert capsys.readouterr().out == f"job {job.id} is: STOPPED\n"
        assert job.result().status is JobStatus.STOPPED
        assert main(["checkpoints", job.id, "--address", ray_cluster.address]) == 2
        assert "--checkpoints URL shows what is stored" in capsys.readouterr().err
    return str(tmp_path), name


def test_a_job_that_was_stopped_goes_on_to_its_end_and_then_nothing_runs_again(stopped, capsys):
    storage, name = stopped
    result = env_with(storage, name, restore="latest").execute(progress=False)
    assert result.status is JobStatus.FINISHED
    expected = sorted((k, c) for k in range(3) for c in range(1, COUNT // 3 + 1))
    assert sorted(result.collected["rows"]) == expected
    again = env_with(storage, name, restore="latest").submit()
    assert again.wait() is JobStatus.FINISHED
    assert again.result().collected == result.collected
    assert main(["checkpoints", name, "--checkpoints", storage]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_job_without_checkpoints_refuses_to_be_stopped(ray_cluster, tmp_path, capsys):
    env = RemoteEnvironment(f"plain {tmp_path.name}")
    env.from_collection(range(COUNT)).map(Paced()).collect("rows")
    with env.submit() as job:
        while not job.metrics()["operators"].get("map-1"):
            job.wait(0.1)
        assert main(["stop", job.id, "--address", ray_cluster.address]) == 2
        assert "has no checkpoints" in capsys.readouterr().err
        assert job.checkpoints() == []
        job.cancel()
