"""Files that jobs write, in every mode: whose they are, and what is left when a job has ended."""

import pytest

from sage_flow import Service


class Told(Service):
    """Tells what its context says of the job."""

    def open(self, ctx):
        self.told = (ctx.job_id, ctx.attempt)

    def get(self):
        return self.told


@pytest.mark.on_ray
def test_functions_and_services_are_told_the_job_and_the_attempt(mode):
    ids = set()
    for _ in range(2):
        env = mode.environment()
        env.register_service("told", Told)
        told = env.from_collection(range(3)).map(lambda n, ctx: {(ctx.job_id, ctx.attempt), ctx.service("told").get()})
        told.collect("told")
        (job_id, attempt), *others = set.union(*env.execute().collected["told"])
        assert (attempt, others) == (1, [])
        assert job_id.startswith(f"{env.name}-")
        ids.add(job_id)
    assert len(ids) == 2


def test_a_second_run_replaces_all_parts_of_the_first(mode, tmp_path):
    for run in ("first", "second"):
        env = mode.environment()
        records = env.from_collection(range(30)).map(lambda n, run=run: f"{run} {n}").rebalance()
        records.write_text(tmp_path / "out.txt", parallelism=3)
        env.execute()
        paths = sorted(tmp_path.iterdir())
        assert [path.name for path in paths] == [f"out-0000{n}-of-00003.txt" for n in range(3)]
        lines = [line for path in paths for line in path.read_text().splitlines()]
        assert sorted(lines) == sorted(f"{run} {n}" for n in range(30))


def test_a_job_that_fails_leaves_only_what_was_there(mode, tmp_path):
    (tmp_path / "out.txt").write_text("old")
    env = mode.environment()
    env.from_collection([1, 0]).map(lambda n: str(1 // n)).write_text(tmp_path / "out.txt")
    with pytest.raises(ZeroDivisionError):
        env.execute()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.txt", "old")]
