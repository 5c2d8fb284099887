"""Recovery on Ray: survivors keep their actors, a spare replaces the dead one; who does not return is replaced."""

import os
import signal
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from job_parts import Pids, Ticking, wait_for

from sage_flow import END, FixedDelay, Function, JobStatus, RemoteEnvironment, Source, SplitReader, SplitSource
from sage_flow.executors.ray import staff
from sage_flow.executors.ray.client import RayExecutor
from sage_flow.executors.ray.records import JobOptions

RESTART = FixedDelay(10, 0.0)


class Gated(SplitSource):
    """Two splits of numbers. Each gives half of them, and the rest once `gate` exists."""

    def __init__(self, gate, count=400):
        self._gate = gate
        self._count = count

    def splits(self):
        return ["0", "1"]

    def reader(self, split, position):
        return _Gated(self._gate, self._count, int(split) * 1_000_000, position or 0)


class _Gated(SplitReader):
    def __init__(self, gate, count, base, position):
        self._gate, self._count, self._base, self._next = gate, count, base, position

    def next_batch(self):
        if self._next >= self._count:
            return END
        if self._next >= self._count // 2 and not Path(self._gate).exists():
            time.sleep(0.01)
            return []
        batch = [self._base + n for n in range(self._next, min(self._count, self._next + 5))]
        self._next += len(batch)
        return batch

    def position(self):
        return self._next


def counting(name, tmp_path, parallelism=2, **options):
    """A job that counts by key, with checkpoints, and ends once `tmp_path/gate` exists."""
    env = RemoteEnvironment(name, parallelism, restart=RESTART, **options)
    env.enable_checkpointing(str(tmp_path / "checkpoints"), interval=timedelta(seconds=0.2))
    numbers = env.from_source(Gated(str(tmp_path / "gate")), parallelism=2, name="numbers")
    numbers.key_by(lambda n: n % 7).count(name="counts").collect("rows")
    return env


def expected(count=400):
    totals = Counter(n % 7 for base in (0, 1_000_000) for n in range(base, base + count))
    return Counter((key, n) for key, total in totals.items() for n in range(1, total + 1))


def pids(job):
    """The processes of its subtasks, by name, while it runs."""
    return wait_for(lambda: job.status is JobStatus.RUNNING and {s.name: s.pid for s in job.subtasks() if s.pid})


def in_attempt(job, number):
    wait_for(lambda: job._execution.record.attempt >= number and job.status is JobStatus.RUNNING)
    return pids(job)


def kill_one(job, name="counts"):
    victim = next((subtask, pid) for subtask, pid in pids(job).items() if name in subtask)
    os.kill(victim[1], signal.SIGKILL)
    return victim[0]


def actor_names(ray_cluster, job):
    import ray

    return {told["name"] for told in ray.util.list_named_actors(True) if told["name"].startswith(f"{job.id}/")}


def spare_of(ray_cluster, job):
    """The process of the spare, once there is one."""
    import ray

    name = wait_for(lambda: next((n for n in actor_names(ray_cluster, job) if "/spare#" in n), None))
    actor = ray.get_actor(name, namespace=ray_cluster.namespace)
    return ray.get(actor.place.remote()).pid


def are_gone(*processes):
    return not any(Path(f"/proc/{pid}").exists() for pid in processes)


@pytest.mark.race
def test_after_a_kill_the_survivors_go_on_in_their_processes_and_the_answer_is_the_same(ray_cluster, tmp_path):
    job = counting("kept", tmp_path).submit()
    before = pids(job)
    spare = spare_of(ray_cluster, job)
    victim = kill_one(job)
    after = in_attempt(job, 2)
    assert {name: pid for name, pid in after.items() if name != victim} == {
        name: pid for name, pid in before.items() if name != victim
    }
    assert after[victim] == spare
    (tmp_path / "gate").touch()
    assert Counter(job.result(timeout=120).collected["rows"]) == expected()
    wait_for(lambda: are_gone(*before.values(), *after.values()))
    assert not actor_names(ray_cluster, job) - {f"{job.id}/master"}


@pytest.mark.race
def test_a_dead_spare_is_not_used(ray_cluster, tmp_path):
    job = counting("dead-spare", tmp_path).submit()
    before = pids(job)
    spare = spare_of(ray_cluster, job)
    os.kill(spare, signal.SIGKILL)
    victim = kill_one(job)
    after = in_attempt(job, 2)
    assert after[victim] not in {spare, before[victim]}
    (tmp_path / "gate").touch()
    assert Counter(job.result(timeout=120).collected["rows"]) == expected()


@pytest.mark.race
def test_a_kill_during_the_recovery_is_one_more_recovery(ray_cluster, tmp_path):
    job = counting("twice", tmp_path).submit()
    before = pids(job)
    spare_of(ray_cluster, job)
    first, second = [name for name in before if "counts" in name][:2]
    os.kill(before[first], signal.SIGKILL)
    wait_for(lambda: are_gone(before[first]))
    os.kill(before[second], signal.SIGKILL)  # while the others unwind, or join again
    after = wait_for(
        lambda: (now := in_attempt(job, 2))[first] != before[first] and now[second] != before[second] and now
    )
    assert set(after) == set(before)
    (tmp_path / "gate").touch()
    assert Counter(job.result(timeout=120).collected["rows"]) == expected()


@pytest.mark.race
def test_a_survivor_that_is_stuck_in_user_code_is_replaced(ray_cluster, tmp_path):
    folder = str(tmp_path)

    def stick(n):
        if n == 0 and not Path(folder, "sticks").exists():
            Path(folder, "sticks").write_text(str(os.getpid()))
            time.sleep(3600)
        return n

    env = RemoteEnvironment("stuck", restart=RESTART, cancel_grace_s=600.0)
    env.from_collection(range(100)).map(stick, name="sticks").collect("rows")
    env.from_source(Ticking(str(tmp_path / "gate"))).for_each(lambda n: None, name="other")
    job = env.submit()
    wait_for((tmp_path / "sticks").exists)
    before = pids(job)
    kill_one(job, "other")
    after = in_attempt(job, 2)
    stuck = next(name for name in before if "sticks" in name)
    assert after[stuck] != before[stuck]
    wait_for(lambda: are_gone(before[stuck]))
    wait_for(lambda: len(job.collected()["rows"]) == 100)
    job.cancel()


@pytest.mark.race
def test_a_frozen_worker_is_replaced_after_its_lease(ray_cluster, tmp_path):
    job = counting("frozen", tmp_path, lease_s=2.0).submit()
    before = pids(job)
    wait_for(lambda: job.metrics()["operators"]["counts"].emitted)  # leases begin with the first connection
    victim = next(name for name in before if "counts" in name)
    os.kill(before[victim], signal.SIGSTOP)
    after = in_attempt(job, 2)
    assert after[victim] != before[victim]
    assert [name for name in after if after[name] != before[name]] == [victim]
    wait_for(lambda: are_gone(before[victim]))  # although a frozen process cannot do what Ray asks of it
    (tmp_path / "gate").touch()
    assert Counter(job.result(timeout=120).collected["rows"]) == expected()


@pytest.mark.race
def test_a_dead_replica_of_a_service_is_replaced_and_calls_go_on(ray_cluster):
    env = RemoteEnvironment("serves", restart=RESTART)
    env.register_service("pids", Pids)
    env.from_source(Ticking()).for_each(lambda n, ctx: ctx.service("pids").pid(), name="asks")
    job = env.submit()
    before = pids(job)
    first = before["pids[1/1]"]
    os.kill(first, signal.SIGKILL)
    after = in_attempt(job, 2)
    assert after["pids[1/1]"] != first
    assert {name for name in after if after[name] == before[name]} == set(before) - {"pids[1/1]"}
    wait_for(lambda: job.metrics()["operators"]["asks"].emitted > 100)
    job.cancel()


class Receiving(Source):
    """Waits in a read that no cancel ends, like one of a socket; the first of each process gives one record."""

    parallel = False
    blocking = True

    def __init__(self, folder):
        self._folder = folder

    def next_batch(self):
        if not Path(self._folder, "received").exists():
            Path(self._folder, "received").touch()
            return [1]
        threading.Event().wait(3600)


@pytest.mark.race
def test_an_actor_whose_feeder_does_not_return_is_replaced(ray_cluster, tmp_path):
    env = RemoteEnvironment("receives", restart=RESTART)
    env.from_source(Receiving(str(tmp_path)), name="receives").rebalance().for_each(lambda n: None, name="first")
    env.from_source(Ticking()).rebalance().for_each(lambda n: None, name="other", parallelism=2)
    job = env.submit()
    before = pids(job)
    wait_for((tmp_path / "received").exists)
    victim = kill_one(job, "other")
    after = in_attempt(job, 2)
    receives = next(name for name in before if "receives" in name)
    assert {name for name in after if after[name] != before[name]} == {victim, receives}
    wait_for(lambda: are_gone(before[receives]))
    job.cancel()


class Client:
    """A resource that tells its story in a file."""

    def __init__(self, path):
        self._path = path
        self.tell("made")

    def tell(self, what):
        with open(self._path, "a") as file:
            file.write(f"{os.getpid()} {what}\n")

    def reset(self):
        self.tell("reset")


class Uses(Function):
    def __init__(self, path):
        self._path = path

    def open(self, ctx):
        path = self._path
        self._client = ctx.resource("client", lambda: Client(path), close=lambda client: client.tell("closed"))
        ctx.resource("seen", list).append(ctx.attempt)
        self._client.tell(f"seen {ctx.resource('seen', list)}")

    def __call__(self, value):
        return value


@pytest.mark.race
def test_a_resource_is_kept_over_a_restart_reset_once_and_closed_at_the_end(ray_cluster, tmp_path):
    env = RemoteEnvironment("resources", restart=RESTART)
    story = tmp_path / "story"
    env.from_source(Ticking()).map(Uses(str(story)), name="uses").rebalance().for_each(
        lambda n: None, name="other", parallelism=2
    )
    job = env.submit()
    before = pids(job)
    wait_for(lambda: story.exists() and "seen" in story.read_text())
    kill_one(job, "other")
    in_attempt(job, 2)
    wait_for(lambda: story.read_text().count("seen") == 2)
    job.cancel()
    uses = before[next(name for name in before if "uses" in name)]
    told = [f"{uses} {what}" for what in ("made", "seen [1]", "reset", "seen [1, 2]", "closed")]
    assert story.read_text().splitlines() == told


@pytest.mark.race
def test_a_global_of_an_imported_module_survives_a_restart_and_one_of_the_plan_does_not(ray_cluster, tmp_path):
    path, seen = str(tmp_path / "story"), []

    def note(n):
        import job_parts

        if n == 0:
            job_parts.SEEN.append("module")
            seen.append("plan")
            with open(path, "a") as file:
                file.write(f"{len(job_parts.SEEN)} {len(seen)}\n")
        return n

    env = RemoteEnvironment("globals", restart=RESTART)
    env.from_source(Ticking()).map(note, name="notes").rebalance().for_each(lambda n: None, name="other", parallelism=2)
    job = env.submit()
    wait_for(Path(path).exists)
    kill_one(job, "other")
    wait_for(lambda: len(Path(path).read_text().splitlines()) == 2)
    job.cancel()
    assert Path(path).read_text().splitlines() == ["1 1", "2 1"]


@pytest.mark.race
def test_a_new_master_makes_all_actors_anew_behind_the_end_of_the_old_ones(ray_cluster, tmp_path):
    import ray

    job = counting("mastered", tmp_path, detached=True).submit()
    before = pids(job)
    master = ray.get_actor(f"{job.id}/master", namespace=ray_cluster.namespace)
    os.kill(ray.get(master.pid.remote()), signal.SIGKILL)
    after = in_attempt(job, 2)
    assert not set(before.values()) & set(after.values())
    assert are_gone(*before.values())
    (tmp_path / "gate").touch()
    assert Counter(job.result(timeout=120).collected["rows"]) == expected()


def test_a_new_master_ends_actors_that_the_old_one_has_left(ray_cluster):
    import ray

    left = ray.remote(staff.WorkerActor).options(
        name="left-1/worker", namespace=ray_cluster.namespace, lifetime="detached", num_cpus=0
    )
    actor = left.remote("left-1/worker")
    pid = ray.get(actor.place.remote()).pid
    staff.end_actors_of("left-1", ray_cluster.namespace, 30.0)
    wait_for(lambda: are_gone(pid))
    assert not [told for told in ray.util.list_named_actors(True) if told["name"].startswith("left-1/")]


@pytest.mark.race
def test_without_keeping_all_actors_are_new(ray_cluster, tmp_path):
    executor = RayExecutor(options=JobOptions(keeps_actors=False))
    job = counting("anew", tmp_path, executor=executor).submit()
    before = pids(job)
    kill_one(job)
    after = in_attempt(job, 2)
    assert not set(before.values()) & set(after.values())
    (tmp_path / "gate").touch()
    assert Counter(job.result(timeout=120).collected["rows"]) == expected()
