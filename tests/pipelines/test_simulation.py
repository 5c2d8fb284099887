"""Jobs under a seeded scheduler: no call is lost or crossed, no crash hangs, a run can be repeated."""

import os
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import pytest

from sage_flow import JobStatus, LocalEnvironment, PipelineService, Service
from sage_flow.errors import ServiceTimeout, WorkerDied
from sage_flow.executors.driver import Driver, WorkersDied
from sage_flow.executors.simulation import Deadlock, SimulationExecutor
from sage_flow.testing import PAUSE, TestSource, VirtualClock

CALLS = 6


class Echo(Service):
    def process(self, value):
        return ("echo", value)


def nested_services(executor, callers=2):
    """Two callers -> a pipeline as a service -> a class as a service, from two operators of the pipeline."""
    env = LocalEnvironment("nested", executor=executor)
    env.register_service("echo", Echo)

    def body(requests):
        asked = requests.map(lambda value, ctx: (value, ctx.call_service("echo", value)), name="first")
        return asked.rebalance().map(lambda pair, ctx: (*pair, ctx.call_service("echo", pair[0])), name="second")

    env.register_service("answer", PipelineService(body))
    for caller in range(callers):
        requests = env.from_collection([(caller, seq) for seq in range(CALLS)], name=f"source {caller}")
        replies = requests.map(lambda value, ctx: (value, ctx.call_service("answer", value)), name=f"caller {caller}")
        replies.collect(f"replies {caller}")
    return env


def answered(value):
    return (value, (value, ("echo", value), ("echo", value)))


def every_call_gets_its_own_reply(seeds):
    for seed in seeds:
        result = nested_services(SimulationExecutor(seed)).execute()
        assert result.status is JobStatus.FINISHED
        for caller in (0, 1):
            expected = [answered((caller, seq)) for seq in range(CALLS)]
            assert result.collected[f"replies {caller}"] == expected, f"seed {seed}"


@pytest.mark.race
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_two_callers_that_wait_at_once_each_get_every_reply_in_a_thousand_schedules(first):
    every_call_gets_its_own_reply(range(first, first + 100))


def test_two_callers_that_wait_at_once_each_get_every_reply():
    every_call_gets_its_own_reply(range(1_000_000, 1_000_100))


def test_schedules_differ_from_seed_to_seed():
    traces = set()
    for seed in range(10):
        executor = SimulationExecutor(seed)
        nested_services(executor).execute()
        traces.add(tuple(executor.trace))
    assert len(traces) == 10


SCRIPT = """
    import sys
    from sage_flow import LocalEnvironment, PipelineService, Service
    from sage_flow.executors.simulation import SimulationExecutor

    class Words(Service):
        def open(self, ctx):
            self.seen = {}
        def number(self, word):
            return self.seen.setdefault(word, len(self.seen))

    executor = SimulationExecutor(int(sys.argv[1]))
    env = LocalEnvironment("trace", 3, executor=executor)
    env.register_service("words", Words, parallelism=2, concurrency=2, stateless=True)
    env.register_service("upper", PipelineService(lambda r: r.rebalance().map(str.upper), parallelism=2))
    words = "to be or not to be that is the question".split() * 5
    stream = env.from_collection(words).rebalance().map(lambda w, ctx: ctx.call_service("upper", w))
    stream = stream.map(lambda w, ctx: (w, ctx.service("words").number(w)) and w)
    stream.key_by(lambda word: word).count().collect("counts")
    result = env.execute()
    print("\\n".join(executor.trace))
    print(sorted(result.collected["counts"]))
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_gives_the_same_trace_in_every_process(tmp_path, seed):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    outputs = [
        subprocess.run(
            [sys.executable, str(script), str(seed)],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) > 100


def subtasks_of(env):
    return [subtask.name for subtask in env._graph.plan().subtasks]


@pytest.mark.parametrize("victim", range(6))
def test_a_crash_at_any_step_ends_the_job_and_names_the_subtask(victim):
    ended = Counter()
    for seed in range(25):
        names = subtasks_of(nested_services(None))
        name = names[victim % len(names)]
        env = nested_services(SimulationExecutor(seed, crash_at={name: 1 + seed * 13}))
        job = env.submit()
        assert job.wait(60).is_final, f"seed {seed}: the job hangs"
        if job.status is JobStatus.FINISHED:  # it was over before it could crash
            ended["finished"] += 1
            continue
        with pytest.raises(WorkerDied, match="crashed by the simulation") as caught:
            job.result()
        assert name in str(caught.value)
        ended["died"] += 1
    assert ended["died"] > 10


def test_crashes_of_a_shuffle_never_hang():
    for seed in range(60):
        executor = SimulationExecutor(seed)
        env = LocalEnvironment("shuffle", 2, executor=executor)
        stream = env.from_collection(range(200)).rebalance().map(lambda n: n)
        stream.key_by(lambda n: n % 7).count().collect("rows")
        names = subtasks_of(env)
        executor.crash_at = {names[seed % len(names)]: 1 + seed * 3, names[(seed + 3) % len(names)]: 1 + seed * 5}
        job = env.submit()
        assert job.wait(60).is_final, f"seed {seed}: the job hangs"
        try:
            assert Counter(job.result().collected["rows"]).total() == 200
        except WorkerDied:
            pass


class Silent(Service):
    def process(self, value):
        return value


def test_a_thousand_virtual_seconds_cost_no_time_and_a_deadlock_names_who_waits(monkeypatch):
    """A service that vanishes while its driver is not told: its caller times out, then nobody can go on."""
    deliver = Driver.deliver
    monkeypatch.setattr(
        Driver, "deliver", lambda self, message: isinstance(message, WorkersDied) or deliver(self, message)
    )
    executor = SimulationExecutor(3, crash_at={"silent[1/1]": 1})
    env = LocalEnvironment("time", executor=executor)
    env.register_service("silent", Silent)
    told = []

    def call(value, ctx):
        try:
            ctx.call_service("silent", value, timeout=1000.0)
        except ServiceTimeout as error:
            told.append((str(error), executor.clock.now()))

    env.from_collection([5]).map(call).for_each(id)
    job = env.submit()
    assert job.wait(60) is not JobStatus.FINISHED
    with pytest.raises(Deadlock, match="driver") as caught:
        job.result()
    assert "seed 3" in caught.value.__notes__[-1]
    ((text, now),) = told
    assert "service 'silent' is still opening, since 1000 s" in text
    assert 1000 <= now < 1001


def test_an_error_tells_the_seed_that_repeats_it():
    env = LocalEnvironment("test", executor=SimulationExecutor(17))
    env.from_collection([0]).map(lambda n: 1 // n).for_each(id)
    job = env.submit()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            job.result()
        assert [note for note in caught.value.__notes__ if "seed 17" in note] == [
            "simulation with seed 17, which gives the same schedule again"
        ]


def test_an_idle_source_waits_in_virtual_time():
    executor = SimulationExecutor(3)
    env = LocalEnvironment("idle", executor=executor)
    env.from_source(TestSource([1, *[PAUSE] * 1000, 2])).collect("rows")
    assert env.execute().collected["rows"] == [1, 2]
    assert executor.clock.now() > 90  # 1000 times up to 0.1 s


def test_a_clock_never_goes_back():
    with pytest.raises(ValueError, match="back"):
        VirtualClock().advance(-1)


def test_a_job_in_the_simulation_can_be_cancelled(tmp_path):
    """From outside, while activations run: in a subprocess, since a fault would hang."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import itertools, sys
        from sage_flow import LocalEnvironment
        from sage_flow.executors.simulation import SimulationExecutor
        for seed in range(4):
            env = LocalEnvironment("endless", executor=SimulationExecutor(seed))
            env.from_iterable(itertools.count).rebalance().for_each(lambda n: None, parallelism=2)
            with env.submit() as job:
                pass
            assert job.status == "CANCELLED", job.status
        print("all cancelled")
    """)
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, str(script)]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.fail("the cancelled job hangs")
    assert (done.stdout, done.stderr) == ("all cancelled\n", "")


def test_no_thread_is_left_of_a_simulation_that_is_over():
    before = set(threading.enumerate())
    nested_services(SimulationExecutor(1)).execute()
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(10)
    assert not [thread for thread in left if thread.is_alive()]
