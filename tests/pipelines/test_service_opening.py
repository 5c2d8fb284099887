"""A service that takes long to open: calls wait for that, and then have their time."""

import asyncio
import time

import pytest

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.errors import PipelineError, ServiceTimeout
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.remote_service import connect_service
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.executors.threads import ThreadExecutor
from sage_flow.functions import Function

CALL_S = 3.0  # the time of a call: less than the services here need to open
SLOW_S = 4.0
FOR_EVER = 3600.0
EXECUTORS = {"threads": ThreadExecutor, "processes": ProcessExecutor}


class Model(Service):
    """Opens in real seconds, as a model's import does."""

    def __init__(self, made_in_s=0.0, seconds=SLOW_S):
        self.seconds = seconds
        time.sleep(made_in_s)

    def open(self, ctx):
        time.sleep(self.seconds)

    def ask(self, question):
        return question * 2

    def sleep(self, seconds):
        time.sleep(seconds)


class Clock(Service):
    """Lets seconds pass, in the simulation without taking any."""

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


class VirtualModel(Service):
    """Opens in virtual seconds."""

    def open(self, ctx):
        ctx.service("clock").options(timeout=1000.0).sleep(60.0)

    def ask(self, question):
        return question * 2

    async def ask_later(self, question):
        await asyncio.sleep(0)
        return question * 2


class OpensSlowly(Function):
    def open(self, ctx):
        ctx.service("clock").options(timeout=1000.0).sleep(60.0)

    def __call__(self, question):
        return question * 2


def simulated(seed=1):
    env = LocalEnvironment("h", executor=SimulationExecutor(seed=seed))
    env.register_service("clock", Clock)
    return env


def answers(env, call, items=(1, 2)):
    env.from_collection(list(items)).map(call, name="ask").collect("rows")
    return env.execute(progress=False).collected["rows"]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("made_in_s", [0.0, SLOW_S], ids=["open", "__init__"])
def test_a_call_to_a_service_that_is_still_opening_does_not_time_out(executor, made_in_s):
    env = LocalEnvironment("h", executor=EXECUTORS[executor]())
    env.register_service("model", Model, made_in_s, SLOW_S - made_in_s, timeout=CALL_S)
    assert answers(env, lambda q, ctx: ctx.service("model").ask(q)) == [2, 4]


async def awaits(question, ctx):
    return await ctx.service("model").ask.remote(question)


CALLS = {
    "waits": ("map", lambda q, ctx: ctx.service("model").ask(q)),
    "future": ("map", lambda q, ctx: ctx.service("model").ask.remote(q).result()),
    "coroutine": ("map", lambda q, ctx: ctx.service("model").ask_later(q)),
    "map_async": ("map_async", lambda q, ctx: ctx.service("model").ask.remote(q)),
    "awaited": ("map_async", awaits),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("call", CALLS)
def test_whoever_waits_for_a_call_waits_for_the_opening_too(call, seed):
    operator, function = CALLS[call]
    env = simulated(seed)
    env.register_service("model", VirtualModel)
    getattr(env.from_collection([1, 2]), operator)(function).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [2, 4]


@pytest.mark.parametrize("seed", range(3))
def test_a_pipeline_that_answers_is_open_when_all_of_its_operators_are(seed):
    env = simulated(seed)
    body = PipelineService(lambda requests: requests.map(abs, parallelism=2).map(OpensSlowly(), parallelism=1))
    env.register_service("model", body)
    assert answers(env, lambda q, ctx: ctx.call_service("model", q)) == [2, 4]


@pytest.mark.parametrize("seed", range(3))
def test_a_caller_that_has_no_place_while_the_service_opens_is_not_overloading_it(seed):
    env = simulated(seed)
    env.register_service("model", VirtualModel, max_pending=1)

    def ask(question, ctx):
        futures = [ctx.service("model").ask.remote(number) for number in range(3)]
        return [future.result() for future in futures]

    assert answers(env, ask, items=[1]) == [[0, 2, 4]]


def test_a_call_from_a_service_that_answers_has_no_more_time_than_its_own_caller_and_says_what_is_opening():
    class Front(Service):
        def open(self, ctx):
            self.ctx = ctx

        def ask(self, question):
            return self.ctx.service("model").ask(question)

    env = simulated()
    env.register_service("model", VirtualModel)
    env.register_service("front", Front)

    def ask(question, ctx):
        try:
            return ctx.service("front").ask(question)
        except ServiceTimeout as error:
            return str(error)

    rows = answers(env, ask, items=[1])
    assert "front.ask gave no reply within 10 s" in rows[0] or "'model' is still opening" in rows[0]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_callers_outside_wait_for_the_opening_too(executor):
    env = LocalEnvironment("h", executor=EXECUTORS[executor]())
    env.register_service("model", Model, timeout=CALL_S)
    env.from_iterable(ticks).for_each(str)
    with env.submit() as job:
        assert job.service("model").ask(3) == 6


def test_a_program_that_connects_waits_for_the_opening_too():
    env = LocalEnvironment("h")
    env.register_service("model", Model, timeout=CALL_S)
    env.from_iterable(ticks).for_each(str)
    with (
        env.submit() as job,
        job.serve("model", key=b"k" * 16) as served,
        connect_service(served.host, served.port, "model", key=b"k" * 16) as model,
    ):
        assert model.ask(3) == 6
        assert model.ask.remote(4).result() == 8
        with pytest.raises(ServiceTimeout, match=r"gave no reply within 0\.1 s"):
            model.options(timeout=0.1).sleep(1.0)


def ticks():
    while True:
        time.sleep(0.01)
        yield 1


def test_opening_has_a_limit_of_its_own_and_the_error_says_since_when_it_is_opening():
    env = LocalEnvironment("h", cancel_grace_s=0.1)
    env.register_service("model", Model, 0.0, FOR_EVER, timeout=0.1, open_timeout=0.2)
    with pytest.raises(ServiceTimeout, match=r"'model' is still opening, since \d\S* s \(open_timeout is 0\.2 s\)"):
        answers(env, lambda q, ctx: ctx.service("model").ask(q))


def test_a_service_that_is_still_opening_at_the_end_of_the_job_is_waited_for():
    env = LocalEnvironment("h", close_grace_s=0.1)
    env.register_service("model", Model)
    env.from_collection([1]).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [1]


def test_in_virtual_time_a_call_has_exactly_its_time_once_the_service_is_open():
    executor = SimulationExecutor(seed=5)

    class Virtual(Service):
        async def sleep(self, seconds):
            await asyncio.sleep(seconds)
            return executor.clock.now()

    def ask(seconds, ctx):
        began = executor.clock.now()
        try:
            ctx.service("model").options(timeout=10.0).sleep(seconds)
        except ServiceTimeout:
            return executor.clock.now() - began
        return None

    env = LocalEnvironment("h", executor=executor)
    env.register_service("model", Virtual)
    warm, exact = answers(env, ask, items=[11.0, 11.0])
    assert 10.0 <= warm < 10.2  # from when it heard that the service is open
    assert exact == pytest.approx(10.0)


@pytest.mark.parametrize("wrong", [0, -1, "soon", None, True])
def test_open_timeout_is_a_number_of_seconds(wrong):
    env = LocalEnvironment("h")
    with pytest.raises(PipelineError, match="open_timeout of service 'model' must be a number of seconds above 0"):
        env.register_service("model", Model, open_timeout=wrong)
