"""Jobs on a Ray cluster: results, statuses, handles from elsewhere, and what is refused."""

import os
import threading

import pytest
from job_parts import Pids, Ticking, wait_for

from sage_flow import (
    JobStatus,
    LocalEnvironment,
    PipelineService,
    RemoteEnvironment,
    Service,
    connect,
)
from sage_flow.cli import main
from sage_flow.errors import ClusterError, PipelineError, ServiceUnavailable
from sage_flow.executors.ray.records import JobRecords


class Adder(Service):
    def open(self, ctx):
        self.sum = 0

    def add(self, n):
        self.sum += n
        return self.sum


def answer(requests):
    return requests.map(lambda n, ctx: (n, ctx.service(Adder).add(1)))


def build(env):
    env.register_service("adder", Adder)
    env.register_service("answer", PipelineService(answer))
    numbers = env.from_collection(range(2000))
    numbers.key_by(lambda n: n % 7).count(emit="final").collect("counts")
    numbers.map(lambda n, ctx: ctx.call_service("answer", n), parallelism=2).collect("answers")


def test_a_pipeline_moves_by_changing_the_line_of_its_environment(ray_cluster):
    local, remote = LocalEnvironment("moves", 2), RemoteEnvironment("moves", 2)
    results = []
    for env in (local, remote):
        build(env)
        results.append(env.execute(progress=False))
    one, two = results
    assert sorted(one.collected["counts"]) == sorted(two.collected["counts"])
    assert {n for n, _ in two.collected["answers"]} == set(range(2000))
    assert {total for _, total in two.collected["answers"]} == set(range(1, 2001))
    assert one.counts == two.counts


def test_subtasks_are_actors_with_readable_names_each_in_a_process(ray_cluster):
    env = RemoteEnvironment("names")
    env.register_service("teller", Pids)
    env.from_source(Ticking()).map(lambda n, ctx: ctx.service("teller").pid(), parallelism=2, name="ask").collect(
        "pids"
    )
    with env.submit() as job:
        wait_for(lambda: job.collected().get("pids"))
        subtasks = job.subtasks()
        assert job.status is JobStatus.RUNNING
    assert {subtask.name for subtask in subtasks} == {
        "source-1[1/1]",
        "ask -> collect-1[1/2]",
        "ask -> collect-1[2/2]",
        "teller[1/1]",
    }
    assert len({subtask.pid for subtask in subtasks}) == 4
    assert all(subtask.actor == f"{job.id}/{subtask.name}" for subtask in subtasks)
    assert {subtask.status for subtask in subtasks} == {"RUNNING"}
    assert job.status is JobStatus.CANCELLED


def test_a_slot_sharing_group_puts_subtasks_into_one_actor(ray_cluster):
    env = RemoteEnvironment("slots")
    shared = {"slot_sharing_group": "all"}
    pids = env.from_source(Ticking()).options(**shared).map(lambda n: os.getpid(), parallelism=2).options(**shared)
    pids.collect("pids")
    with env.submit() as job:
        wait_for(lambda: job.collected().get("pids"))
        actors = {subtask.name: subtask.actor for subtask in job.subtasks()}
    assert len(set(actors.values())) == 2  # a slot for each index
    assert actors["source-1[1/1]"] == actors["map-1 -> collect-1[1/2]"]


def test_placement_by_resource_and_by_node(ray_cluster, capsys):
    env = RemoteEnvironment("placed")
    numbers = env.from_source(Ticking()).options(placement=f"node:{ray_cluster.head_id}")
    numbers.map(abs, name="far").options(placement=f"node:{ray_cluster.second_id}").collect("far-rows")
    with env.submit() as job:
        wait_for(lambda: len(job.collected().get("far-rows", ())) > 100)
        nodes = {subtask.name.split("[")[0]: subtask.node for subtask in job.subtasks()}
        channels = {channel["name"]: channel["medium"] for channel in job.statistics()["channels"]}
        assert main(["stack", "placed", "--address", "auto"]) == 0
        stacks = job.stacks()
    assert set(stacks) == {"source-1[1/1]", "far -> collect-1[1/1]"}
    assert {thread["doing"] for threads in stacks.values() for thread in threads} <= {"busy", "idle", "credit"}
    assert "far -> collect-1[1/1]\n  thread 1: " in capsys.readouterr().out
    assert nodes == {"source-1": ray_cluster.head_id, "far -> collect-1": ray_cluster.second_id}
    assert channels


# --- handles from elsewhere -------------------------------------------------------------------------------


def test_a_detached_job_is_found_asked_called_and_drained_from_elsewhere(ray_cluster):
    env = RemoteEnvironment("found", detached=True)
    env.register_service("adder", Adder)
    env.from_source(Ticking()).for_each(lambda n: None, name="sink")
    id = env.submit().id
    job = connect().job("found")
    assert job.id == id
    wait_for(lambda: job.status is JobStatus.RUNNING)
    adder = job.service(Adder)
    assert [adder.add(2), adder.add(3)] == [2, 5]
    wait_for(lambda: job.metrics()["operators"]["sink"].emitted)
    assert id in {record.id for record in connect().jobs()}
    assert job.drain() is JobStatus.FINISHED
    result = job.result()
    assert result.counts["sink"] == result.counts["source-1"] > 0
    with pytest.raises(ServiceUnavailable, match="is over"):
        job.service("adder")


def test_many_threads_call_a_service_from_outside(ray_cluster):
    env = RemoteEnvironment("crowd")
    env.register_service("adder", Adder)
    env.from_source(Ticking()).for_each(lambda n: None)
    with env.submit() as job:
        got = []

        def call():
            handle = job.service("adder")
            got.extend(handle.add(1) for _ in range(50))

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == list(range(1, 201))


def test_rows_too_many_for_the_records_come_from_the_master(ray_cluster):
    env = RemoteEnvironment("large")
    env.from_collection(range(200)).map(lambda n: b"x" * 20_000).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    assert [len(row) for row in rows] == [20_000] * 200


def test_a_cancelled_job_ends_and_its_actors_with_it(ray_cluster):
    env = RemoteEnvironment("cancelled")
    env.from_source(Ticking()).for_each(lambda n: None)
    job = env.submit()
    wait_for(lambda: job.subtasks())
    pids = [subtask.pid for subtask in wait_for(lambda: [s for s in job.subtasks() if s.pid])]
    assert job.cancel() is JobStatus.CANCELLED
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


# --- what is refused --------------------------------------------------------------------------------------


def test_two_jobs_of_one_name_cannot_run_at_once(ray_cluster):
    def submit():
        env = RemoteEnvironment("twin")
        env.from_source(Ticking()).for_each(lambda n: None)
        return env.submit()

    with submit(), pytest.raises(PipelineError, match="named 'twin' runs already"):
        submit()
    with submit() as again:
        assert again.name == "twin"


def test_what_no_node_has_is_said_at_once(ray_cluster):
    env = RemoteEnvironment("greedy")
    env.from_collection([1]).map(abs, name="big").options(num_gpus=3).collect()
    with pytest.raises(PipelineError, match=r"no node can run 'big.*asks for 3 GPU, and a node has 0 GPU at most"):
        env.execute(progress=False)


def test_what_the_cluster_has_not_together_is_said_at_once(ray_cluster):
    env = RemoteEnvironment("greedy")
    env.from_collection([1]).map(abs, parallelism=3).options(num_cpus=4).collect()
    with pytest.raises(PipelineError, match="ask for 12 CPU together, and the cluster has 8 CPU"):
        env.execute(progress=False)


def test_what_others_have_taken_is_waited_for_and_then_named(ray_cluster):
    env = RemoteEnvironment("holds")
    env.from_source(Ticking()).options(num_cpus=3).for_each(lambda n: None).options(num_cpus=3)
    with env.submit() as job:
        wait_for(lambda: job.status is JobStatus.RUNNING)
        late = RemoteEnvironment("late", start_timeout_s=2)
        late.from_collection([1]).options(num_cpus=3).collect()
        late.from_collection([1]).options(num_cpus=3).collect()
        with pytest.raises(PipelineError, match=r"within 2 s .* wait for \d CPU \(\d free\)"):
            late.execute(progress=False)


def test_a_closure_that_cannot_be_pickled_is_named(ray_cluster):
    lock = threading.Lock()
    env = RemoteEnvironment("closure")
    env.from_collection([1]).map(lambda n: lock and n, name="locked").collect()
    with pytest.raises(PipelineError, match=r"'locked' .* cannot leave this process.*lock"):
        env.submit()


def test_a_record_that_cannot_be_pickled_is_an_error_that_names_its_operator(ray_cluster):
    env = RemoteEnvironment("record")
    env.from_collection([1]).map(lambda n: threading.Lock(), name="locks").rebalance().map(str, parallelism=2).collect()
    with pytest.raises(Exception, match="cannot pickle") as caught:
        env.execute(progress=False)
    assert "locks" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("options", [{"transport_security": "none"}, {"restart": 3}, {"lease_s": 0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(PipelineError):
        RemoteEnvironment("bad", **options)


def test_an_address_nobody_answers(monkeypatch):
    from sage_flow.executors.ray import cluster

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(ClusterError, match="no server answers at"):
            cluster.connect_to_ray(address)
    with pytest.raises(ClusterError, match="is not an address of Ray"):
        cluster.connect_to_ray("somewhere")


def test_a_ray_of_another_version_is_named(monkeypatch):
    from sage_flow.executors.ray import cluster

    def init(**options):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.13")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ClusterError, match=r"'auto' runs another version: .*Ray: 2\.9\.0"):
        cluster.connect_to_ray("auto")


def test_a_connected_process_does_not_take_its_cluster_for_another_one(ray_cluster):
    from sage_flow.executors.ray import cluster

    cluster.connect_to_ray(ray_cluster.address)
    port = ray_cluster.address.rpartition(":")[2]
    for same in (f"127.0.0.1:{port}", f"localhost:{port}", "auto"):
        cluster.connect_to_ray(same)
    with pytest.raises(ClusterError, match="is connected to the cluster at"):
        cluster.connect_to_ray("127.0.0.1:1")


def test_the_oldest_jobs_are_forgotten_with_all_that_was_stored(ray_cluster, monkeypatch):
    records = JobRecords("sage_flow")
    env = RemoteEnvironment("forgotten")
    env.from_source(Ticking()).for_each(abs)
    job = env.submit()
    assert job.drain() is JobStatus.FINISHED
    kinds = {f"{kind}/{job.id}" for kind in ("record", "outcome", "options", "log", "requested_end")}

    def stored():
        return {"/".join(key.split("/")[:2]) for key in records.store.below("") if job.id in key}

    assert stored() == kinds
    monkeypatch.setattr("sage_flow.executors.ray.records.REMEMBERED", 0)
    another = RemoteEnvironment("another")
    another.from_collection([1]).collect()
    another.execute(progress=False)
    assert stored() == set()
