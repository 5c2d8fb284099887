"""The normal end waits for user code that blocks for a while, then names the line and ends as an error."""

import asyncio
import threading
import time

import pytest

from sage_flow import JobStatus, LocalEnvironment, PipelineService, Service, Sink
from sage_flow.errors import CloseTimeout, ServiceTimeout
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.executors.threads import ThreadExecutor
from sage_flow.functions import Function

HERE = "test_end_of_jobs.py"
FOR_EVER = 3600.0
SHELLS = {"threads": ThreadExecutor, "processes": ProcessExecutor, "simulation": SimulationExecutor}


class Slow(Service):
    """Blocks in real time, or in that of its event loop, also when it is cancelled."""

    def get(self, value):
        return value if value == "ready" else time.sleep(FOR_EVER)

    async def swallow(self, value):
        while value != "ready":
            try:
                await asyncio.sleep(FOR_EVER)
            except asyncio.CancelledError:
                pass
        return value

    async def block(self, value):
        self.get(value)


def give_up(method):
    def ask(value, ctx):
        ctx.call_service("slow", "ready", method=method, timeout=60.0)
        return ctx.call_service("slow", value, method=method, timeout=0.5)

    return ask


class ClosesSlowly(Function):
    def __call__(self, value):
        return value

    def close(self):
        time.sleep(FOR_EVER)


class CommitsSlowly(Sink):
    def write(self, value):
        """Nothing is kept."""

    def commit(self):
        time.sleep(FOR_EVER)


def environment(shell="threads", **options):
    return LocalEnvironment("h", executor=SHELLS[shell](), close_grace_s=0.2, cancel_grace_s=0.2, **options)


def blocked_end(env, *fragments):
    """The error of a job whose end is held up."""
    with pytest.raises(CloseTimeout) as caught:
        env.execute(progress=False)
    for fragment in (HERE, *fragments):
        assert fragment in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shell", ["threads", "processes"])
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("method", ["get", "swallow", "block"])
def test_a_call_that_everybody_has_given_up_does_not_hold_up_the_end_for_ever(shell, method, concurrency):
    env = environment(shell)
    env.register_service("slow", Slow, concurrency=concurrency)
    env.from_collection([1]).map(give_up(method), on_error="skip").collect("r")
    text = blocked_end(
        env,
        "slow[1/1]",
        "in get" if method == "block" else f"in {method}",
        "0.2 s (close_grace_s)",
        "nothing was published",
    )
    assert "'h'" in text


def test_a_call_that_was_cancelled_is_given_up_whatever_time_it_had():
    env = environment()
    env.register_service("slow", Slow, timeout=FOR_EVER)
    began = threading.Event()

    class Begins(Slow):
        def get(self, value):
            began.set()
            super().get(value)

    env.register_service("begins", Begins, timeout=FOR_EVER)

    def ask(value, ctx):
        future = ctx.service("begins").get.remote(value)
        began.wait()
        future.cancel()
        return value

    env.from_collection([1]).map(ask).collect("r")
    blocked_end(env, "begins[1/1]", "in get")


@pytest.mark.parametrize("shell", ["threads", "processes"])
@pytest.mark.parametrize("operator", ["map", "map_async"])
def test_a_pipeline_that_answers_a_call_nobody_waits_for_is_named_by_the_operator(shell, operator):
    def body(requests):
        before = requests.map(lambda n: n, name="before", parallelism=2)
        if operator == "map":
            return before.map(Slow().get, name="sleeps", parallelism=1)
        return before.map_async(Slow().swallow, name="sleeps", parallelism=1)

    env = environment(shell)
    env.register_service("slow", PipelineService(body))
    env.from_collection([1]).map(give_up("process"), on_error="skip").collect("r")
    text = blocked_end(env, "slow/sleeps")
    assert "before" not in text


@pytest.mark.parametrize("shell", SHELLS)
def test_a_close_that_blocks_does_not_hold_up_the_end_for_ever(shell):
    env = environment(shell)
    env.from_collection([1]).map(ClosesSlowly(), name="closes").collect("r")
    blocked_end(env, "closes -> collect-1[1/1]", "in close")


@pytest.mark.parametrize("shell", ["threads", "processes"])
@pytest.mark.parametrize("timeout", [None, 0.05])
def test_a_coroutine_that_swallows_its_cancellation_does_not_hold_up_the_end_for_ever(shell, timeout):
    async def leave_one_behind(value):
        task = asyncio.create_task(Slow().swallow(value))
        await asyncio.sleep(0)
        left_behind.append(task)
        return value

    left_behind = []
    env = environment(shell)
    if timeout is None:
        env.from_collection([1]).map_async(leave_one_behind, name="awaits").collect("r")
    else:
        env.from_collection([1]).map_async(Slow().swallow, name="awaits", timeout=timeout, on_error="skip").collect("r")
    blocked_end(env, "awaits -> collect-1[1/1]", "in swallow")


def test_a_coroutine_of_a_simulated_job_is_given_up_in_virtual_time():
    env = LocalEnvironment("h", executor=SimulationExecutor(seed=3))
    env.from_collection([1]).map_async(Slow().swallow, timeout=0.05, on_error="skip", name="awaits").collect("r")
    blocked_end(env, "awaits -> collect-1[1/1]", "in swallow", "30 s (close_grace_s)")


def test_a_method_that_blocks_a_simulated_job_in_real_time_ends_when_the_job_is_cancelled():
    began = threading.Event()

    class Blocks(Slow):
        def get(self, value):
            began.set()
            super().get(value)

    env = environment("simulation")
    env.register_service("slow", Blocks)
    env.from_collection([1]).map(lambda n, ctx: ctx.service("slow").get(n)).collect("r")
    job = env.submit()
    began.wait()
    assert job.cancel() is JobStatus.CANCELLED
    (stuck,) = job.result().stuck
    assert "slow[1/1]" in stuck
    assert "in get" in stuck


@pytest.mark.parametrize("shell", SHELLS)
def test_a_sink_that_does_not_come_back_from_publishing_is_named_and_the_others_publish_nothing(shell, tmp_path):
    env = environment(shell)
    numbers = env.from_collection([1, 2])
    numbers.write_jsonl(str(tmp_path / "published.jsonl"))
    numbers.rebalance().add_sink(CommitsSlowly(), name="slow", parallelism=1)
    blocked_end(env, "slow[1/1]", "in commit", "no other sink has published")
    assert not (tmp_path / "published.jsonl").exists()


def test_an_error_is_told_although_a_coroutine_does_not_end():
    async def fail_or_stay(value):
        if value:
            raise ValueError("told")
        await Slow().swallow(value)

    env = environment()
    env.from_collection([0, 1]).map_async(fail_or_stay, ordered=False).collect("r")
    with pytest.raises(ValueError, match="told"):
        env.execute(progress=False)


def test_a_call_that_somebody_may_still_wait_for_is_not_given_up():
    class Gate(Service):
        def get(self, value):
            time.sleep(0.5)
            answered.append(value)

    def send(value, ctx):
        ctx.service("gate").get.remote(value)

    answered = []
    env = LocalEnvironment("h", close_grace_s=0.05)
    env.register_service("gate", Gate, timeout=FOR_EVER)
    env.from_collection([1, 2]).for_each(send)
    assert env.execute(progress=False).status is JobStatus.FINISHED
    assert answered == [1, 2]


def test_a_close_that_waits_for_a_service_has_the_time_of_that_call(tmp_path):
    class Gate(Service):
        def get(self):
            time.sleep(0.5)
            return "late"

    class AsksAtItsEnd(Function):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def __call__(self, value):
            return value

        def close(self):
            (tmp_path / "got").write_text(self.gate.get())

    env = LocalEnvironment("h", close_grace_s=0.05)
    env.register_service("gate", Gate, timeout=FOR_EVER)
    env.from_collection([1]).map(AsksAtItsEnd()).collect("r")
    assert env.execute(progress=False).collected["r"] == [1]
    assert (tmp_path / "got").read_text() == "late"


def test_the_time_of_a_call_is_over_although_the_coroutine_goes_on():
    async def function(value):
        await Slow().swallow(value)

    env = environment()
    env.from_collection([1]).map_async(function, timeout=0.01, name="awaits").collect("r")
    with pytest.raises(TimeoutError, match="still running although it was cancelled") as caught:
        env.execute(progress=False)
    assert "operator  'awaits'" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("wrong", [0, -1, "soon", None, True])
def test_close_grace_s_is_a_number_of_seconds(wrong):
    with pytest.raises(Exception, match="close_grace_s of job 'h' must be a number of seconds above 0"):
        LocalEnvironment("h", close_grace_s=wrong)


def test_a_timed_out_call_is_still_a_service_timeout():
    env = environment()
    env.register_service("slow", Slow)
    env.from_collection([1]).map(give_up("get")).collect("r")
    with pytest.raises(ServiceTimeout):
        env.execute(progress=False)
