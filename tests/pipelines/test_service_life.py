"""Services are registered, opened and closed once; what is registered wrongly is refused."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from failing_pipelines import Boom, one_process
from services_under_test import Calculator, make_calculator

from sage_flow import Function, LocalEnvironment, PipelineService, Service
from sage_flow.errors import PipelineError, ServiceCycle, ServiceError, UnknownService
from sage_flow.testing import MODES

HERE = os.path.basename(__file__)


# --- life cycle -------------------------------------------------------------------------------------------


class FailsIn(Service):
    def __init__(self, where):
        self.where = where
        if where == "__init__":
            raise Boom(where)

    def open(self, ctx):
        if self.where == "open":
            raise Boom("open")

    def close(self):
        if self.where == "close":
            raise Boom("close")

    def process(self, value):
        return value


LIFE = {"__init__": "its constructor", "open": "open()", "close": "close()"}


@one_process
@pytest.mark.parametrize("where", LIFE)
def test_a_service_whose_life_cycle_fails_fails_the_job_and_is_named(mode, where):
    env = mode.environment()
    env.register_service("broken", FailsIn, where)
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("broken", n)).collect()
    with pytest.raises(Boom, match=where) as caught:
        env.execute()
    notes = "\n".join(caught.value.__notes__)
    assert f"service   'broken', {LIFE[where]}, subtask 1 of 1" in notes
    assert HERE in notes


class Noting:
    """Notes its close in a file, after a last call of `other`."""

    def __init__(self, path, name, other=None, calls=True):
        self.path, self.name, self.other, self.calls = path, name, other, calls

    def open(self, ctx):
        self.ctx = ctx

    def process(self, value):
        if self.other is not None and self.calls:
            self.ctx.call_service(self.other, value)
        return value

    def close(self):
        last = self.ctx.call_service(self.other, 7, timeout=2.0) if self.other is not None else None
        with open(self.path, "a") as file:
            file.write(f"{self.name} {last}\n")


class NotingFunction(Noting, Function):
    def __call__(self, value):
        return self.process(value)


class NotingService(Noting, Service):
    pass


@pytest.mark.on_ray
def test_callers_close_before_the_services_they_call_and_may_call_in_close(mode, tmp_path):
    path = str(tmp_path / "closed")
    env = mode.environment(parallelism=1)
    env.register_service("c", NotingService, path, "c")
    env.register_service("b", NotingService, path, "b", "c")
    env.register_service("a", NotingService, path, "a", "b")
    env.from_collection([1]).map(NotingFunction(path, "map", "a")).for_each(str)
    env.execute()
    assert (tmp_path / "closed").read_text().splitlines() == ["map 7", "a 7", "b 7", "c None"]


@one_process
def test_the_first_call_of_all_may_be_in_close(mode, tmp_path):
    path = str(tmp_path / "closed")
    env = mode.environment(parallelism=1)
    env.register_service("callee", NotingService, path, "callee")
    env.from_collection([1]).map(NotingFunction(path, "map", "callee", calls=False)).for_each(str)
    env.execute()
    assert (tmp_path / "closed").read_text().splitlines() == ["map 7", "callee None"]


def test_the_first_call_of_a_service_may_be_in_its_close(tmp_path):
    path = str(tmp_path / "closed")
    env = LocalEnvironment("test")
    env.register_service("callee", NotingService, path, "callee")
    env.register_service("caller", NotingService, path, "caller", "callee", calls=False)
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("caller", n)).for_each(str)
    env.execute()
    assert (tmp_path / "closed").read_text().splitlines() == ["caller 7", "callee None"]


@pytest.mark.on_ray
def test_every_replica_is_opened_and_closed_once(mode, tmp_path):
    path = str(tmp_path / "closed")
    env = mode.environment()
    env.register_service("three", NotingService, path, "x", parallelism=3, concurrency=2, stateless=True)
    env.from_collection(range(10)).map(lambda n, ctx: ctx.call_service("three", n)).for_each(str)
    env.execute()
    assert (tmp_path / "closed").read_text().splitlines() == ["x None"] * 3


# --- state ------------------------------------------------------------------------------------------------


class Counting:
    def open(self, ctx):
        self.total = 0

    def add(self, amount):
        self.total += amount
        return self.total

    def snapshot(self):
        return self.total

    def restore(self, state):
        self.total = state


def test_the_life_cycle_cannot_be_called(mode):
    def ask(n, ctx):
        for name in ("open", "close", "snapshot", "restore"):
            with pytest.raises(UnknownService, match=name):
                ctx.call_service("counting", method=name)
        return ctx.call_service("counting", n, method="add")

    env = mode.environment()
    env.register_service("counting", Counting)
    env.from_collection([5]).map(ask).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [5]


# --- threads of the user's own -----------------------------------------------------------------------------


class Pooled(Function):
    """Asks from eight threads of its own, and keeps one that asks on after `close`."""

    def open(self, ctx):
        self.ctx = ctx
        self.pool = ThreadPoolExecutor(8)
        self.closed, self.told = threading.Event(), None

    def __call__(self, n):
        return list(self.pool.map(lambda i: self.ctx.call_service("calculator", n + i), range(40)))

    def late(self):
        self.closed.wait(60)
        try:
            self.ctx.call_service("calculator", 1)
        except ServiceError as error:
            return f"{type(error).__name__}: {error}"

    def close(self):
        asking = self.pool.submit(self.late)
        assert self.ctx.call_service("calculator", 1) == 10  # its own thread may
        self.closed.set()
        told = asking.result(60)
        self.pool.shutdown()
        assert "OutsideActivation: calculator.process was called by a thread of its own after close()" in told, told


@pytest.mark.parametrize("name", ["local-1", "local-3", "processes"])
def test_a_pool_inside_an_operator_may_call_until_the_operator_closes(name):
    mode = next(mode for mode in MODES if mode.name == name)
    env = mode.environment()
    env.register_service("calculator", Calculator)
    env.from_collection(range(5)).rebalance().map(Pooled).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    assert sorted(rows) == [[10 * (n + i) for i in range(40)] for n in range(5)]


# --- registration -----------------------------------------------------------------------------------------


class HasOptions:
    def options(self):
        pass


class HasTimeout:
    def ask(self, question, timeout):
        pass


class HasMethod:
    def ask(self, method=None):
        pass


class HasSnapshot:
    def snapshot(self):
        return 1


REFUSED = {
    "stateless with a state": (
        lambda env: env.register_service("s", HasSnapshot, stateless=True),
        ["'s'", "snapshot()", "without stateless=True"],
    ),
    "an unknown argument of a partial": (
        lambda env: env.register_service("s", partial(make_calculator), speed=1),
        ["'s'", "partial"],
    ),
    "an instance": (lambda env: env.register_service("s", Calculator()), ["'s'", "instance", "Calculator"]),
    "the same name": (
        lambda env: [env.register_service("s", Calculator) for _ in "ab"],
        ["'s'", "already", HERE],
    ),
    "no name": (lambda env: env.register_service("", Calculator), ["non-empty"]),
    "a method named options": (lambda env: env.register_service("s", HasOptions), ["'options'", "rename"]),
    "a parameter named timeout": (lambda env: env.register_service("s", HasTimeout), ["'ask'", "'timeout'", "rename"]),
    "a parameter named method": (lambda env: env.register_service("s", HasMethod), ["'ask'", "'method'", "rename"]),
    "too many arguments": (lambda env: env.register_service("s", Calculator, 1, 2), ["'s'", "Calculator"]),
    "an unknown argument": (lambda env: env.register_service("s", Calculator, speed=1), ["'s'", "'speed'"]),
    "a missing argument": (lambda env: env.register_service("s", make_calculator), ["'s'", "'factor'"]),
    "concurrency 0": (lambda env: env.register_service("s", Calculator, concurrency=0), ["concurrency", "at least 1"]),
    "parallelism 0": (lambda env: env.register_service("s", Calculator, parallelism=0), ["parallelism", "at least 1"]),
    "max_pending True": (lambda env: env.register_service("s", Calculator, max_pending=True), ["max_pending", "True"]),
    "timeout 0": (lambda env: env.register_service("s", Calculator, timeout=0), ["timeout", "'s'", "above 0"]),
    "a negative timeout": (lambda env: env.register_service("s", Calculator, timeout=-1.5), ["timeout", "-1.5"]),
    "uses that are no list": (lambda env: env.register_service("s", Calculator, uses="t"), ["uses", "'s'", "list"]),
    "a pipeline with arguments": (
        lambda env: env.register_service("s", PipelineService(lambda r: r), 1),
        ["'s'", "no arguments"],
    ),
    "a pipeline that is none": (lambda env: PipelineService(3), ["function", "3"]),
    "a pipeline without a stream": (
        lambda env: env.register_service("s", PipelineService(lambda r: None)),
        ["'s'", "return the stream", "None"],
    ),
}


@pytest.mark.parametrize(
    ("register", "fragments"),
    REFUSED.values(),
    ids=REFUSED,
)
def test_a_wrong_registration_is_refused_at_once(register, fragments):
    with pytest.raises(PipelineError) as caught:
        register(LocalEnvironment("test"))
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("made", "text"), [(HasOptions, "'options'"), (HasTimeout, "'timeout'"), (HasMethod, "'method'")]
)
def test_what_a_function_makes_is_refused_when_it_is_made(made, text):
    env = LocalEnvironment("test")
    env.register_service("s", lambda: made())
    env.from_collection([1]).for_each(str)
    with pytest.raises(PipelineError, match=f"'s'.*{text}|{text}.*'s'"):
        env.execute()


class HasProperty:
    @property
    def broken(self):
        raise RuntimeError("was read")

    def answer(self):
        return 42


def test_properties_are_no_methods_and_are_not_read():
    env = LocalEnvironment("test")
    env.register_service("s", HasProperty)
    env.from_collection([1]).map(lambda n, ctx: ctx.service("s").answer()).collect("rows")
    assert env.execute().collected["rows"] == [42]


def test_a_circle_of_declared_uses_is_refused_before_the_job_runs():
    env = LocalEnvironment("test")
    env.register_service("a", Calculator, uses=["b"])
    env.register_service("b", PipelineService(lambda r: r.map(str)), uses=["c"])
    env.register_service("c", Calculator, uses=["a"])
    env.from_collection([1]).for_each(str)
    with pytest.raises(PipelineError, match=r"'a' .* would wait for itself: a -> b -> c -> a"):
        env.explain()


def test_a_declared_use_must_be_registered():
    env = LocalEnvironment("test")
    env.register_service("a", Calculator, uses=["b"])
    env.from_collection([1]).for_each(str)
    with pytest.raises(PipelineError, match=r"'a' .* uses 'b', which is not registered"):
        env.submit()
    assert "\nmissing: service 'a'" in env.explain()


def test_a_declared_use_closes_a_circle_with_a_call_that_was_not_declared():
    env = LocalEnvironment("test")
    env.register_service("outer", Calling, "inner", uses=["inner"])
    env.register_service("inner", Calling, "outer")
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("inner", n)).for_each(str)
    with pytest.raises(ServiceCycle, match="inner -> outer -> inner"):
        env.execute()


class Calling:
    def __init__(self, other):
        self.other = other

    def open(self, ctx):
        self.ctx = ctx

    def process(self, value):
        return self.ctx.call_service(self.other, value)


def test_a_service_is_not_registered_inside_a_pipeline():
    env = LocalEnvironment("test")
    with pytest.raises(PipelineError, match="inside the pipeline of 's'"):
        env.register_service("s", PipelineService(lambda r: env.register_service("t", PipelineService(str)) or r))


def outside(env):
    return env.from_collection([1], name="outside")


BODIES = {
    "map_batches": (lambda r, env: r.map_batches(list), ["'s/map_batches-1'", HERE, "one by one"]),
    "final aggregates": (lambda r, env: r.key_by(str).count(emit="final"), ["'s/count-1'", HERE, "one by one"]),
    "broadcast": (lambda r, env: r.broadcast().map(str), ["'s/map-1'", HERE, "broadcast"]),
    "a source of its own": (lambda r, env: r.union(outside(env)).map(str), ["'s/outside'", HERE]),
    "a source instead of requests": (lambda r, env: outside(env).map(str), ["'s/outside'", HERE]),
    "an unread branch": (lambda r, env: r.map(str, name="lost") and r, ["'s/lost'", HERE]),
}


@pytest.mark.parametrize(("body", "fragments"), BODIES.values(), ids=BODIES)
def test_what_cannot_answer_one_request_at_a_time_is_refused_before_it_runs(body, fragments):
    env = LocalEnvironment("test")
    with pytest.raises(PipelineError) as caught:  # noqa: PT012 - at the registration or at the start
        env.register_service("s", PipelineService(lambda r: body(r, env)))
        env.from_collection([1], name="main").map(lambda n, ctx: ctx.call_service("s", n, timeout=1.0)).collect()
        env.execute()
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("build", [lambda r, s: s, lambda r, s: s.map(str), lambda r, s: r.union(s).map(str)])
def test_a_body_cannot_read_a_stream_of_outside(build):
    env = LocalEnvironment("test")
    stream = outside(env)
    stream.collect()
    with pytest.raises(PipelineError, match="main pipeline"):  # noqa: PT012 - at the registration or at the start
        env.register_service("s", PipelineService(lambda r: build(r, stream)))
        env.execute()


def test_a_stream_of_a_body_cannot_be_read_outside():
    leaked = []
    env = LocalEnvironment("test")
    env.register_service("s", PipelineService(lambda r: leaked.append(r.map(str)) or r))
    leaked[0].collect()
    with pytest.raises(PipelineError, match="main pipeline"):
        env.execute()


def test_a_registration_that_failed_can_be_repeated():
    env = LocalEnvironment("test")
    with pytest.raises(ZeroDivisionError):
        env.register_service("s", PipelineService(lambda r: r.map(str, parallelism=1 // 0)))
    env.register_service("s", PipelineService(lambda r: r.map(str)))
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("s", n)).collect("x")
    assert env.execute().collected["x"] == ["1"]
