"""What a job on Ray does when something is killed, stopped or unfit: a clear end, or a restart, and no orphans."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from job_parts import Ticking, kill_self_once, note_pid, wait_for

from sage_flow import FixedDelay, JobStatus, RemoteEnvironment, connect
from sage_flow.errors import CloseTimeout, ClusterError, WorkerDied

HERE = Path(__file__).parent


def endless(name, **options):
    """A job that counts until somebody ends it."""
    env = RemoteEnvironment(name, **options)
    env.from_source(Ticking()).map(abs, name="first").rebalance().for_each(lambda n: None, name="last", parallelism=2)
    return env


def running(job):
    """Its subtasks, once all of them have a process and records flow."""
    wait_for(lambda: job.status is JobStatus.RUNNING)
    wait_for(lambda: (counts := job.metrics()["operators"]) and counts["last"].emitted)
    return job.subtasks()


def pid_of(subtasks, name):
    return next(subtask.pid for subtask in subtasks if subtask.name.startswith(name))


def are_gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def master_pid(job):
    import ray

    master = ray.get_actor(f"{job.id}/master", namespace="sage_flow")
    return ray.get(master.pid.remote())


# --- user code --------------------------------------------------------------------------------------------


def test_an_exception_in_an_actor_names_the_users_file_and_line(ray_cluster):
    def divide(n):
        return 1 // n  # the line

    env = RemoteEnvironment("divides")
    env.from_collection([1, 0]).map(divide).collect()
    with pytest.raises(ZeroDivisionError) as caught:
        env.execute(progress=False)
    assert "test_ray_faults.py" in str(caught.value.__cause__)
    assert any("subtask 1 of 1, job 'divides'" in note for note in caught.value.__notes__)


def test_code_that_does_not_come_back_is_left_behind_with_its_actor(ray_cluster, tmp_path):
    def sleep(n):
        (tmp_path / "sleeps").touch()
        time.sleep(3600)

    env = RemoteEnvironment("sleeps", cancel_grace_s=0.5)
    env.from_source(Ticking()).for_each(sleep, name="last")
    job = env.submit()
    pids = [s.pid for s in wait_for(lambda: [s for s in job.subtasks() if s.pid])]
    wait_for((tmp_path / "sleeps").exists)
    job.cancel()
    assert "source-1 -> last[1/1]: unresponsive in actor" in "; ".join(job.result().stuck)
    wait_for(lambda: are_gone(pids))


def test_code_that_holds_up_the_normal_end_is_named_with_its_line_and_its_actor_goes(ray_cluster, tmp_path):
    class Slow:
        def get(self, n):
            (tmp_path / "pid").write_text(str(os.getpid()))
            time.sleep(3600)

    def give_up(n, ctx):
        future = ctx.service("slow").get.remote(n)
        wait_for((tmp_path / "pid").exists)
        future.cancel()
        return n

    env = RemoteEnvironment("holds", close_grace_s=0.5, cancel_grace_s=0.5)
    env.register_service("slow", Slow, timeout=3600.0)
    env.from_collection([1]).map(give_up).collect("rows")
    with pytest.raises(CloseTimeout) as caught:
        env.execute(progress=False)
    assert "slow[1/1]: unresponsive in actor" in str(caught.value)
    assert "test_ray_faults.py" in str(caught.value)
    assert "in get" in str(caught.value)
    wait_for(lambda: are_gone([int((tmp_path / "pid").read_text())]))


def test_a_module_that_the_cluster_has_not_is_named(ray_cluster, tmp_path, monkeypatch):
    file = tmp_path / "gone_from_here.py"
    file.write_text("def double(n):\n    return 2 * n\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_from_here

    file.unlink()  # its folder is looked at by the job's processes, too
    env = RemoteEnvironment("imports")
    env.from_collection([1]).map(gone_from_here.double).collect()
    with pytest.raises(ModuleNotFoundError, match="gone_from_here") as caught:
        env.execute(progress=False)
    assert any("cannot load the plan" in note for note in caught.value.__notes__)


class SpeaksAnotherVersion:
    """Makes the master, which unpickles it before its workers connect, speak another wire version or release."""

    def __init__(self, of):
        self.of = of

    def __reduce__(self):
        return _speak_another_version, (self.of,)


def _speak_another_version(of):
    from sage_flow.wire import frames, handshake

    if "master" not in str(sys.modules["ray"].get_runtime_context().get_actor_name()):
        return abs  # a worker connects before it loads the plan
    if of == "wire":
        frames.WIRE_VERSION = 99
    else:
        begin = handshake.Acceptor.__init__

        def of_another_release(acceptor, identity, nonce):
            begin(acceptor, replace(identity, release="0.0.7"), nonce)

        handshake.Acceptor.__init__ = of_another_release
    return abs


@pytest.mark.parametrize(
    ("of", "told"), [("wire", "version 99"), ("sage_flow", r"the acceptor runs sage_flow 0\.0\.7:")]
)
def test_another_version_is_named(ray_cluster, of, told):
    env = RemoteEnvironment("versions")
    odd = SpeaksAnotherVersion(of)
    env.from_collection([1]).map(lambda n: odd and n).collect()
    with pytest.raises(
        WorkerDied, match=rf"has ended: .*(refused a connection|connection with the master ended): .*{told}"
    ):
        env.execute(progress=False)


# --- kill -9 ----------------------------------------------------------------------------------------------


@pytest.mark.race
def test_a_killed_actor_ends_the_job_and_is_named(ray_cluster):
    job = endless("killed").submit()
    subtasks = running(job)
    os.kill(pid_of(subtasks, "last"), signal.SIGKILL)
    with pytest.raises(
        WorkerDied, match=r"actor 'last\[./2\]' .* of job 'killed.*detected \d+\.\d s after its last sign"
    ):
        job.result(timeout=30)
    wait_for(lambda: are_gone([subtask.pid for subtask in subtasks]))


@pytest.mark.race
def test_with_a_strategy_a_killed_actor_restarts_the_job_from_the_beginning(ray_cluster, tmp_path):
    env = RemoteEnvironment("again", restart=FixedDelay(2, 0.1))
    killing = kill_self_once(str(tmp_path / "killed"))
    env.from_collection(range(5000)).map(killing).rebalance().map(abs, parallelism=2).collect("rows")
    env.from_collection(range(50)).map(str).write_text(str(tmp_path / "out.txt"))
    result = env.execute(progress=False)
    assert (tmp_path / "killed").exists()
    assert sorted(result.collected["rows"]) == list(range(5000))
    assert result.counts["map-1"] == 5000
    assert sorted((tmp_path / "out.txt").read_text().split(), key=int) == [str(n) for n in range(50)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.txt"]
    (record,) = [record for record in connect().jobs() if record.name == "again"][:1]
    assert record.attempt == 2


def test_a_new_attempt_removes_the_temporary_files_of_the_killed_one(ray_cluster, tmp_path):
    killing = kill_self_once(str(tmp_path / "killed"))
    (folder := tmp_path / "data").mkdir()
    env = RemoteEnvironment("sweeps", restart=FixedDelay(2, 0.1))
    env.from_collection(range(50)).map(killing).map(lambda n, ctx: str(ctx.attempt)).write_text(folder / "out.txt")
    env.execute(progress=False)
    assert (tmp_path / "killed").exists()
    assert [path.name for path in folder.iterdir()] == ["out.txt"]
    assert (folder / "out.txt").read_text().split() == ["2"] * 50


def test_restarts_come_to_an_end(ray_cluster):
    def always(n):
        raise KeyError(n)

    env = RemoteEnvironment("gives-up", restart=FixedDelay(1, 0.0))
    env.from_collection([1]).map(always).collect()
    with pytest.raises(KeyError) as caught:
        env.execute(progress=False)
    assert "not restarted: it was restarted once, and no more is allowed" in caught.value.__notes__


@pytest.mark.race
def test_a_killed_master_comes_back_and_restarts_the_job(ray_cluster):
    job = endless("leads", restart=FixedDelay(3, 0.1), detached=True).submit()
    before = running(job)
    os.kill(master_pid(job), signal.SIGKILL)
    wait_for(lambda: are_gone([subtask.pid for subtask in before]))
    wait_for(lambda: connect().job(job.id)._execution.record.attempt == 2)
    after = running(job)
    assert {subtask.name for subtask in after} == {subtask.name for subtask in before}
    assert job.drain() is JobStatus.FINISHED


def test_without_a_strategy_a_killed_master_is_the_end_of_the_job(ray_cluster):
    job = endless("leaderless").submit()
    before = running(job)
    os.kill(master_pid(job), signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"the master of job .* died in attempt 1"):
        job.result(timeout=60)
    wait_for(lambda: are_gone([subtask.pid for subtask in before]))


def blocked(name, gate, **options):
    """A job without end whose records wait until `gate` exists."""
    env = RemoteEnvironment(name, **options)
    waits = env.from_source(Ticking()).map(lambda n: wait_for(gate.exists, 3600), name="waits")
    waits.rebalance().for_each(lambda n: None, name="last")
    job = env.submit()
    wait_for(lambda: job.status is JobStatus.RUNNING)
    return job


@pytest.mark.race
def test_a_master_that_comes_back_still_drains(ray_cluster, tmp_path):
    gate = tmp_path / "gate"
    job = blocked("drains", gate, restart=FixedDelay(3, 0.1))
    job._execution.drain()
    os.kill(master_pid(job), signal.SIGKILL)
    gate.touch()
    assert job.result(timeout=60).status is JobStatus.FINISHED
    assert job._execution.record.attempt == 2


@pytest.mark.race
@pytest.mark.parametrize("options", [{}, {"restart": FixedDelay(3, 0.1)}], ids=["no restart", "restart"])
def test_a_master_that_comes_back_still_cancels(ray_cluster, tmp_path, options):
    job = blocked("cancels", tmp_path / "gate", cancel_grace_s=600.0, **options)
    pids = [subtask.pid for subtask in job.subtasks()]
    job._execution.cancel("no more of this")
    os.kill(master_pid(job), signal.SIGKILL)
    assert job.result(timeout=60).status is JobStatus.CANCELLED
    assert job._execution.record.attempt == 1
    wait_for(lambda: are_gone(pids))


DRIVER = """
import sys
sys.path[:0] = [{here!r}]
import ray
ray.init(address={address!r}, log_to_driver=False)
from sage_flow import RemoteEnvironment
from job_parts import Ticking
env = RemoteEnvironment("driven", lease_s=2.0, detached={detached})
env.from_source(Ticking()).map(abs, name="first").for_each(lambda n: None, name="last")
job = env.submit()
print(job.id, flush=True)
job.wait()
"""


@pytest.fixture
def driver(ray_cluster):
    started = []

    def start(detached):
        code = textwrap.dedent(DRIVER).format(here=str(HERE), address=ray_cluster.address, detached=detached)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_driver_ends_its_job(driver):
    process, id = driver(detached=False)
    job = connect().job(id)
    subtasks = running(job)
    process.kill()
    assert job.wait(60) is JobStatus.CANCELLED
    assert job._execution.record.message == "its driver gave no sign of life for 2 s"
    wait_for(lambda: are_gone([subtask.pid for subtask in subtasks]))


def test_a_driver_that_stood_still_for_longer_than_its_lease_is_told_why_its_job_was_cancelled(driver):
    process, id = driver(detached=False)
    job = connect().job(id)
    running(job)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert job.wait(60) is JobStatus.CANCELLED
    finally:
        os.kill(process.pid, signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"job {id} was cancelled: its driver gave no sign of life for 2 s\n" in err


def test_a_detached_job_outlives_its_driver(driver):
    process, id = driver(detached=True)
    job = connect().job(id)
    running(job)
    process.kill()
    process.wait()
    before = job.metrics()["operators"]["last"].emitted
    wait_for(lambda: job.metrics()["operators"]["last"].emitted > before)
    assert job.cancel() is JobStatus.CANCELLED


# --- nodes ------------------------------------------------------------------------------------------------


@pytest.fixture
def third_node(ray_cluster):
    node = ray_cluster.add_node("127.0.0.4", num_cpus=2, resources={"third": 1})
    yield node
    if node.any_processes_alive():
        ray_cluster.cluster.remove_node(node, allow_graceful=False)


def test_a_killed_node_ends_the_job_and_its_zombies_are_fenced(ray_cluster, third_node):
    env = RemoteEnvironment("noded", restart=FixedDelay(1, 0.1), lease_s=3.0)
    numbers = env.from_source(Ticking()).map(abs, name="first").options(resources={"third": 0.001})
    numbers.for_each(lambda n: None, name="last").options(placement=f"node:{ray_cluster.head_id}")
    job = env.submit()
    pid = pid_of(running(job), "first")
    for process in third_node.all_processes["raylet"]:
        process.process.kill()
    with pytest.raises(Exception, match=r"no node can run|has ended|the master of job .* died"):  # it may be there, too
        job.result(timeout=90)  # nobody has the resource any more
    wait_for(lambda: are_gone([pid]))


# --- SIGSTOP ----------------------------------------------------------------------------------------------


def test_a_stopped_consumer_that_comes_back_in_time_has_lost_nothing(ray_cluster, tmp_path):
    env = RemoteEnvironment("stopped", lease_s=60.0)
    (tmp_path / "pids").mkdir()
    numbers = env.from_collection(range(200_000)).map(lambda n: b"%d" % n)
    numbers.rebalance().map(note_pid(str(tmp_path / "pids")), parallelism=2, name="slow").map(int).collect("rows")
    job = env.submit()
    pid = wait_for(lambda: [int(path.name) for path in (tmp_path / "pids").iterdir()])[0]
    os.kill(pid, signal.SIGSTOP)
    assert not job.wait(1.0).is_final
    os.kill(pid, signal.SIGCONT)
    assert sorted(job.result(timeout=120).collected["rows"]) == list(range(200_000))


def test_a_consumer_that_is_stopped_for_longer_than_its_lease_is_fenced(ray_cluster):
    job = endless("fenced", lease_s=1.5).submit()
    subtasks = running(job)
    pid = pid_of(subtasks, "last")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(WorkerDied, match=r"it was silent for 1\.5 s, the length of its lease"):
            job.result(timeout=60)
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: are_gone([pid]))


def test_a_master_that_is_killed_behind_the_end_of_its_job_does_not_run_it_again(ray_cluster):
    import ray

    env = RemoteEnvironment("ended")
    env.from_collection([1]).map(lambda n: b"x" * (2 << 20)).collect("rows")  # too much for the records: it stays
    job = env.submit()
    master = ray.get_actor(f"{job.id}/master", namespace="sage_flow")
    ray.get(master.wait.remote())
    os.kill(ray.get(master.pid.remote()), signal.SIGKILL)
    assert job.wait(60) is JobStatus.FINISHED
    assert connect().job(job.id)._execution.record.attempt == 1
    with pytest.raises(ClusterError, match="its master, which held them, has ended"):
        job.result()


@pytest.mark.race
def test_a_master_that_stood_still_for_longer_than_its_lease_keeps_the_job_of_a_living_driver(ray_cluster):
    job = endless("kept", lease_s=4.0, restart=FixedDelay(20, 0.1)).submit()
    running(job)
    master = master_pid(job)
    os.kill(master, signal.SIGSTOP)
    try:
        assert not job._execution.wait(9.0)  # more than two leases
    finally:
        os.kill(master, signal.SIGCONT)
    assert not job._execution.wait(4.0)  # a lease, in which it judges; its workers may have taken it for dead
    running(job)
    assert job.drain() is JobStatus.FINISHED


@pytest.mark.race
def test_processes_that_stood_still_together_do_not_take_each_other_for_lost(ray_cluster):
    job = endless("frozen", lease_s=4.0).submit()
    subtasks = running(job)
    pids = [master_pid(job), *{subtask.pid for subtask in subtasks}]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert not job._execution.wait(9.0)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    before = job.metrics()["operators"]["last"].emitted
    wait_for(lambda: job.metrics()["operators"]["last"].emitted > before)
    assert job.drain() is JobStatus.FINISHED
