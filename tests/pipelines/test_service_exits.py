"""A service that calls sys.exit(), or raises its like, ends neither itself nor the job: that is its caller's error."""

import asyncio
import sys
import traceback

import pytest
from services_under_test import asked

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.errors import ServiceError


class Leaving(Service):
    def process(self, number):
        return sys.exit(number) if number == 3 else number

    async def later(self, number):
        return self.process(number)


def leave(number):
    return Leaving().process(number)


async def leave_later(number):
    return Leaving().process(number)


SERVICES = {
    "class": (Leaving, "process"),
    "coroutine": (Leaving, "later"),
    "pipeline": (PipelineService(lambda requests: requests.map(leave)), "process"),
    "pipeline that awaits": (PipelineService(lambda requests: requests.map_async(leave_later)), "process"),
    "pipeline that awaits in time": (
        PipelineService(lambda requests: requests.map_async(leave_later, timeout=60)),
        "process",
    ),
    "pipeline that skips": (PipelineService(lambda requests: requests.map(leave, on_error="skip")), "process"),
}


def calling(method, outcome):
    def ask(number, ctx):
        try:
            return ctx.call_service("leaving", number, method=method)
        except ServiceError as error:
            return outcome(error)

    return ask


@pytest.mark.parametrize("kind", SERVICES)
def test_an_exit_in_a_service_is_an_error_of_its_caller_and_the_service_lives_on(mode, kind):
    service, method = SERVICES[kind]
    ask = calling(method, lambda error: type(error).__name__)
    replies = asked(ask, mode=mode, items=range(6), register=[("leaving", service)])
    assert sorted(replies, key=str) == [0, 1, 2, 4, 5, "ServiceError"]


@pytest.mark.parametrize("kind", SERVICES)
def test_the_error_tells_the_code_and_the_line(kind):
    service, method = SERVICES[kind]
    ask = calling(method, lambda error: (str(error), "".join(traceback.format_exception(error))))
    ((message, remote),) = asked(ask, items=[3], register=[("leaving", service)])
    assert "sys.exit(3)" in message
    assert "return sys.exit(number)" in remote
    assert "service   'leaving'" in remote
    assert "record    3" in remote or "call      " in remote


def test_an_exit_that_the_caller_lets_through_fails_the_job_as_a_service_error():
    with pytest.raises(ServiceError, match=r"sys\.exit"):
        asked(lambda n, ctx: ctx.call_service("leaving", n), items=[3], register=[("leaving", Leaving)])


RAISED = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "an own one": type("Own", (BaseException,), {}),
    "StopIteration": StopIteration,
}


class Raising(Service):
    """Raises what no caller can handle as it is, in each way in which a service can answer."""

    def __init__(self, kind):
        self.kind = kind

    def process(self, number):
        raise RAISED[self.kind](number)

    async def later(self, number):
        await asyncio.sleep(0)
        self.process(number)

    async def by_task(self, number):
        task = asyncio.create_task(self.later(number))
        if self.kind == "CancelledError":
            task.cancel()
        await task


class InPipeline:
    def __init__(self, kind):
        self.service = Raising(kind)

    def __call__(self, number):
        return self.service.process(number)


class InCoroutine(InPipeline):
    async def __call__(self, number):
        await self.service.later(number)


WAYS = {
    "method": lambda kind: ((Raising, kind), "process"),
    "coroutine": lambda kind: ((Raising, kind), "later"),
    "task of its own": lambda kind: ((Raising, kind), "by_task"),
    "pipeline": lambda kind: ((PipelineService(lambda requests: requests.map(InPipeline(kind))),), "process"),
    "pipeline that awaits": lambda kind: (
        (PipelineService(lambda requests: requests.map_async(InCoroutine(kind).__call__)),),
        "process",
    ),
}


def job_of(env, kind, way, ask, **options):
    """The job has no clock that could end a call: a caller that gets no answer waits for an hour."""
    service, method = WAYS[way](kind)
    env.register_service("raising", *service, timeout=3600.0)
    env.from_collection([1, 2]).map(lambda n, ctx: ask(n, ctx, method), name="ask", **options).collect("replies")
    return env


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", RAISED)
def test_whatever_a_service_raises_its_caller_is_answered_at_once_and_the_service_lives_on(kind, way):
    def ask(n, ctx, method):
        try:
            return ctx.call_service("raising", n, method=method)
        except Exception as error:
            return error

    errors = job_of(LocalEnvironment("test"), kind, way, ask).execute(progress=False).collected["replies"]
    assert len(errors) == 2
    for error in errors:
        assert "service   'raising'" in "\n".join(error.__notes__)
        assert RAISED[kind].__name__ in f"{error} {error.__cause__}"


@pytest.mark.parametrize("way", WAYS)
def test_such_an_error_fails_the_job_as_an_exception_that_names_service_operator_and_record(mode, way):
    def ask(n, ctx, method):
        return ctx.call_service("raising", n, method=method)

    with pytest.raises(Exception, match="KeyboardInterrupt") as caught:
        job_of(mode.environment(), "KeyboardInterrupt", way, ask).execute(progress=False)
    notes = "\n".join(caught.value.__notes__)
    assert "service   'raising'" in notes
    assert "operator  'ask' (map)" in notes
    assert "record    " in notes.partition("operator  'ask'")[2]


def test_a_caller_may_skip_records_whose_service_raises_such_an_error():
    env = job_of(
        LocalEnvironment("test"),
        "KeyboardInterrupt",
        "coroutine",
        lambda n, ctx, method: ctx.call_service("raising", n, method=method),
        on_error="skip",
    )
    assert env.execute(progress=False).skipped == {"ask": 2}


@pytest.mark.parametrize("operator", ["map", "map_async"])
def test_an_ordinary_error_of_a_service_names_the_calling_operator_and_the_record(mode, operator):
    class Refusing:
        def get(self, key):
            raise KeyError(key)

    env = mode.environment()
    env.register_service("refusing", Refusing)
    stream = env.from_collection(["only"])
    if operator == "map":
        stream.map(lambda key, ctx: ctx.service("refusing").get(key), name="ask").collect()
    else:
        stream.map_async(lambda key, ctx: ctx.service("refusing").get.remote(key), name="ask").collect()
    with pytest.raises(KeyError) as caught:
        env.execute(progress=False)
    notes = "\n".join(caught.value.__notes__)
    assert "service   'refusing', method 'get'" in notes
    assert "call      get('only')" in notes
    assert f"operator  'ask' ({operator})" in notes
    assert "record    'only'" in notes


def test_an_error_through_two_services_names_both_and_the_caller_of_the_first():
    class Inner:
        def get(self, key):
            raise KeyError(key)

    class Outer(Service):
        def open(self, ctx):
            self.inner = ctx.service("inner")

        def get(self, key):
            return self.inner.get(key)

    env = LocalEnvironment("test")
    env.register_service("inner", Inner)
    env.register_service("outer", Outer)
    env.from_collection(["only"]).map(lambda key, ctx: ctx.service("outer").get(key), name="ask").collect()
    with pytest.raises(KeyError) as caught:
        env.execute(progress=False)
    heads = [note.split(",")[0] for note in caught.value.__notes__ if note.startswith(("service", "operator"))]
    assert heads == ["service   'inner'", "service   'outer'", "operator  'ask' (map)"]


@pytest.mark.parametrize("where", ["__init__", "open", "close"])
@pytest.mark.parametrize("how", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_the_life_of_a_service_ends_the_job_with_an_error_and_not_the_program(mode, where, how):
    env = mode.environment()
    env.register_service("leaving", LeavesIn, where, how)
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("leaving", n)).collect()
    with pytest.raises(ServiceError, match=r"service 'leaving' (called sys\.exit|raised KeyboardInterrupt)") as caught:
        env.execute(progress=False)
    assert "raise an Exception instead" in str(caught.value)
    assert "service   'leaving', " in "\n".join(caught.value.__notes__)


class LeavesIn:
    def __init__(self, where, how):
        self.where, self.how = where, how
        self.leave("__init__")

    def leave(self, where):
        if where == self.where:
            raise self.how(3)

    def open(self, ctx):
        self.leave("open")

    def close(self):
        self.leave("close")

    def process(self, number):
        return number


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", RAISED)
def test_whatever_an_async_function_raises_the_job_ends_with_the_operator_and_the_record(kind, ordered):
    env = LocalEnvironment("test")
    env.from_collection([7]).map_async(InCoroutine(kind).__call__, name="waits", ordered=ordered).collect()
    with pytest.raises(BaseException) as caught:
        env.execute(progress=False)
    notes = "\n".join(caught.value.__notes__)
    assert "operator  'waits' (map_async)" in notes
    assert "record    7" in notes


def test_a_function_that_raises_stop_iteration_before_it_awaits_is_named():
    def function(number):
        raise StopIteration(number)

    env = LocalEnvironment("test")
    env.from_collection([7]).map_async(function, name="stops").collect()
    with pytest.raises(RuntimeError, match=r"the function of 'stops' raised StopIteration\(7\)") as caught:
        env.execute(progress=False)
    assert "record    7" in "\n".join(caught.value.__notes__)
