"""Services of jobs on Ray that take requests from queues: who calls, and what happens when somebody dies."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from job_parts import Ticking, wait_for
from request_parts import Answerer, Calling, begun, outcome, wrong_answers

from sage_flow import FixedDelay, RemoteEnvironment, ServiceClient
from sage_flow.channels import PythonQueueDescriptor, RayQueueDescriptor, RPCQueueDescriptor, RPCQueueServer
from sage_flow.errors import PipelineError, ServiceUnavailable
from sage_flow.queues.ray import host_of

HERE = Path(__file__).parent
SOON_S = 5.0
"""So soon a caller hears that whoever had his request is gone."""


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "begun")


@pytest.fixture
def requests(ray_cluster):
    with RayQueueDescriptor() as descriptor:
        yield descriptor


@contextmanager
def serving(requests, log, **options):
    """A job on Ray whose service takes requests from this queue."""
    env = RemoteEnvironment("served", **options)
    env.register_service("answerer", Answerer, log, requests=requests)
    env.from_source(Ticking(gate=f"{log} never")).for_each(str, name="last")
    with env.submit() as job:
        yield job


def call_from_everywhere(requests, amount):
    """From tasks, actors, another program and this one, with clones, pickles and JSON; returns the wrong answers."""
    import ray

    task = ray.remote(num_cpus=0.1)(wrong_answers)
    actor = ray.remote(num_cpus=0.1)(Calling).remote()
    asked = [
        task.remote(requests, "task", amount),
        task.remote(requests.to_json(), "task with JSON", amount),
        actor.wrong_answers.remote(requests.clone("for the actor"), "actor", amount),
    ]
    program = other_program(requests.to_json(), amount)
    wrong = wrong_answers(requests, "driver", amount)
    for reference in asked:
        wrong += ray.get(reference)
    told, _ = program.communicate(timeout=300)
    assert told.split() == [b"[]"]
    ray.kill(actor)
    return wrong


def other_program(described, amount):
    import ray

    code = f"""
        import sys, ray
        sys.path.insert(0, {str(HERE)!r})
        ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False, logging_level="ERROR")
        from request_parts import wrong_answers
        print(wrong_answers({described!r}, "program", {amount}))
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )


def test_tasks_actors_and_programs_call_by_what_they_were_given(requests, log):
    early = ServiceClient(requests, timeout=120).process.remote("before the job")
    with serving(requests, log):
        assert early.result() == ("answer to", "before the job")
        assert call_from_everywhere(requests, 50) == []


@pytest.mark.soak
def test_ten_thousand_calls_from_tasks_actors_and_programs(requests, log):
    with serving(requests, log):
        assert call_from_everywhere(requests, 2000) == []


def test_the_death_of_the_service_ends_its_call_soon_and_the_next_attempt_answers_the_others(requests, log):
    client = ServiceClient(requests, timeout=300)
    with serving(requests, log, restart=FixedDelay(delay_s=0.1, attempts=3)):
        pid = client.pid()
        taken = client.begin.remote("taken", 300)
        waiting = [client.process.remote(number) for number in range(20)]
        wait_for(lambda: begun(log))
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert outcome(taken) is ServiceUnavailable
        assert time.monotonic() - killed_at < SOON_S
        assert [future.result() for future in waiting] == [("answer to", number) for number in range(20)]
        assert client.pid() != pid
        assert client.options(retry=True).die_once("again") == ("answer to", "again")
    assert begun(log) == ["taken", "again", "again"]


def test_the_death_of_the_master_ends_its_calls_soon_and_the_next_attempt_answers_the_others(requests, log):
    import ray

    client = ServiceClient(requests, timeout=300)
    with serving(requests, log, restart=FixedDelay(delay_s=0.1, attempts=3)) as job:
        client.pid()
        taken = client.begin.remote("taken", 300)
        waiting = [client.process.remote(number) for number in range(20)]
        wait_for(lambda: begun(log))
        master = ray.get_actor(f"{job.id}/master", namespace="sage_flow")
        pid = ray.get(master.pid.remote())
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert outcome(taken) is ServiceUnavailable
        assert time.monotonic() - killed_at < SOON_S
        assert [future.result() for future in waiting] == [("answer to", number) for number in range(20)]
    assert begun(log) == ["taken"]


def test_an_actor_that_called_and_died_leaves_no_queue_behind(requests, log):
    import ray

    with serving(requests, log):
        actor = ray.remote(num_cpus=0.1)(Calling).remote()
        before = reply_queues()
        assert ray.get(actor.call_and_stay.remote(requests)) == ("answer to", "before")
        assert len(reply_queues() - before) == 1
        ray.kill(actor)
        wait_for(lambda: not reply_queues() - before)
        assert ServiceClient(requests, timeout=60).process("others go on") == ("answer to", "others go on")


def reply_queues():
    import ray

    told = ray.get(host_of("sage_flow", "cluster").statistics.remote())
    return {name for _, name in told["queues"] if name.startswith("replies_")}


def test_a_queue_that_the_master_cannot_reach_is_refused(ray_cluster, log):
    with pytest.raises(PipelineError, match="lives inside this process"), serving(PythonQueueDescriptor(), log):
        pass
    keyed = RPCQueueDescriptor("127.0.0.1", 7, key=b"secret")
    with pytest.raises(PipelineError, match="give a function as requests="), serving(keyed, log):
        pass


def test_a_function_gives_the_master_a_descriptor_with_its_key(ray_cluster, log, tmp_path):
    (tmp_path / "key").write_bytes(b"of this test")
    with RPCQueueServer("127.0.0.1", 0, b"of this test") as server:
        port, file = server.port, tmp_path / "key"

        def requests():
            return RPCQueueDescriptor("127.0.0.1", port, queue_id="requests", key=file.read_bytes())

        with serving(requests, log):
            assert ServiceClient(requests(), timeout=60).process("how?") == ("answer to", "how?")
