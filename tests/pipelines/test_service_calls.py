"""Every call of a service has one outcome, which is its caller's and nobody else's."""

import inspect
import os
import re
import threading
from collections import Counter

import pytest
from failing_pipelines import TwoArguments, one_process
from services_under_test import Calculator, asked, caught_in_map, error_of_call, make_calculator

from sage_flow import Function, JobStatus, LocalEnvironment, PipelineService, Service
from sage_flow.errors import CodecError, PipelineError, ServiceError, UnknownService
from sage_flow.testing import MODES

HERE = os.path.basename(__file__)


# --- calls and replies ------------------------------------------------------------------------------------


@pytest.mark.on_ray
def test_a_class_service_answers_a_map(mode):
    replies = asked(lambda n, ctx: (n, ctx.call_service("calculator", n)), mode=mode, items=range(100), parallelism=3)
    assert Counter(replies) == Counter((n, n * 10) for n in range(100))


WAYS = {
    "call_service": lambda n, ctx: ctx.call_service("calculator", n, method="add"),
    "call_service with a keyword": lambda n, ctx: ctx.call_service("calculator", n, method="add", b=0, c=1),
    "a handle by name": lambda n, ctx: ctx.service("calculator").add(n),
    "a handle by class": lambda n, ctx: ctx.service(Calculator).add(n),
    "a handle with a timeout": lambda n, ctx: ctx.service("calculator").options(timeout=30).add(n, c=0),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_call_gives_the_same_reply(way):
    assert asked(way, items=[1, 2]) == [2, 3]


def test_none_is_a_reply_like_any_other():
    assert asked(lambda n, ctx: ctx.service("calculator").nothing()) == [None]
    identity = [("same", PipelineService(lambda requests: requests))]
    values = [None, 0, "", [], False]
    assert asked(lambda n, ctx: ctx.call_service("same", n), items=values, register=identity) == values


@pytest.mark.on_ray
def test_a_pipeline_service_answers_a_map(mode):
    body = PipelineService(lambda requests: requests.map(lambda n: n + 1).rebalance().map(lambda n: n * n), 2)
    replies = asked(
        lambda n, ctx: (n, ctx.call_service("squares", n)),
        mode=mode,
        items=range(60),
        register=[("squares", body)],
        parallelism=3,
    )
    assert Counter(replies) == Counter((n, (n + 1) ** 2) for n in range(60))


class Chained(Service):
    def open(self, ctx):
        self.calculator = ctx.service("calculator")

    def process(self, value):
        return self.calculator.process(value) + 1


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_services_call_services_from_a_service_and_from_a_pipeline(mode):
    def body(requests):
        return requests.map(lambda n, ctx: (ctx.service(Chained).process(n), ctx.call_service("calculator", n)))

    services = [("calculator", Calculator), ("chained", Chained), ("body", PipelineService(body, 2))]
    replies = asked(
        lambda n, ctx: (n, *ctx.call_service("body", n)), mode=mode, items=range(40), register=services, parallelism=2
    )
    assert Counter(replies) == Counter((n, n * 10 + 1, n * 10) for n in range(40))


class Opening(Function):
    def open(self, ctx):
        self.ctx = ctx
        self.base = ctx.call_service("calculator", 5)

    def __call__(self, value):
        return self.base + self.ctx.service("calculator").add(value)


@one_process
@pytest.mark.on_ray
def test_open_may_call_a_service(mode):
    assert asked(Opening, mode=mode, items=[1], parallelism=1) == [52]


def test_arguments_of_the_registration_go_to_the_class():
    env = LocalEnvironment("test")
    env.register_service("five", Calculator, 5)
    env.register_service("seven", Calculator, factor=7)
    env.from_collection([1]).map(lambda n, ctx: (ctx.call_service("five", n), ctx.call_service("seven", n))).collect(
        "x"
    )
    assert env.execute().collected["x"] == [(5, 7)]


def test_a_function_can_make_the_service():
    env = LocalEnvironment("test")
    env.register_service("made", make_calculator, 3)
    env.from_collection([1]).map(caught_in_map(lambda n, ctx: ctx.call_service("made", n))).collect("x")
    env.from_collection([1]).map(caught_in_map(lambda n, ctx: ctx.service("made").no_such())).collect("y")
    result = env.execute()
    assert result.collected["x"] == [("reply", 3)]
    assert isinstance(result.collected["y"][0], UnknownService)


def test_counts_of_a_service_are_its_answers():
    env = LocalEnvironment("test")
    env.register_service("calculator", Calculator, parallelism=2, stateless=True)
    env.from_collection(range(10)).map(lambda n, ctx: ctx.call_service("calculator", n)).for_each(str)
    assert env.execute().counts["calculator"] == 10


def test_a_job_in_which_nobody_calls_the_services_ends(mode):
    env = mode.environment()
    env.register_service("calculator", Calculator, parallelism=2, concurrency=2)
    env.register_service("body", PipelineService(lambda requests: requests.rebalance().map(str), 2))
    env.from_collection([1, 2]).collect("rows")
    result = env.execute()
    assert sorted(result.collected["rows"]) == [1, 2]
    assert result.status is JobStatus.FINISHED


@pytest.mark.parametrize("copies", ["local-1", "local-copy", "processes"])
def test_arguments_and_replies_are_copies(copies):
    mode = next(mode for mode in MODES if mode.name == copies)

    class Keeping(Service):
        def open(self, ctx):
            self.kept = []

        def take(self, value):
            value.append("taken")
            self.kept = value
            return value

        def again(self):
            return self.kept

    def function(n, ctx):
        argument = [n]
        reply = ctx.service("keeping").take(argument)
        reply.append("mine")
        argument.append("also mine")
        return (argument, reply, ctx.service("keeping").again())

    replies = asked(function, mode=mode, register=[("keeping", Keeping)])
    assert replies == [([1, "also mine"], [1, "taken", "mine"], [1, "taken"])]


# --- errors of a call -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["service", "pipeline", "pipeline over a service"])
def test_an_error_of_a_service_arrives_as_its_own_type_with_the_remote_traceback(mode, depth):
    def refuse(n):
        raise TwoArguments(n, "refused")

    services = {
        "service": ("calculator", "fail"),
        "pipeline": ("pipeline", "process"),
        "pipeline over a service": ("both", "process"),
    }
    env = mode.environment()
    env.register_service("calculator", Calculator)
    env.register_service("pipeline", PipelineService(lambda r: r.map(refuse, name="refuse")))
    env.register_service("both", PipelineService(lambda r: r.map(lambda n, ctx: ctx.service("calculator").fail(n))))
    name, method = services[depth]

    def call(n, ctx):
        try:
            ctx.call_service(name, n, method=method)
        except TwoArguments as error:
            return (str(error), error.code, error.reason, str(error.__cause__), "\n".join(error.__notes__))

    env.from_collection([8]).map(call, parallelism=1).collect("x")
    text, code, reason, cause, notes = env.execute().collected["x"][0]
    assert (text, code, reason) == ("8: refused", 8, "refused")
    assert (HERE if depth == "pipeline" else os.path.basename(inspect.getfile(Calculator))) in cause
    assert "in refuse" in cause if depth == "pipeline" else "in fail" in cause
    assert "service   '" in notes


@pytest.mark.on_ray
def test_an_error_that_the_caller_lets_through_fails_the_job_as_its_own_type(mode):
    with pytest.raises(TwoArguments, match="8: refused") as caught:
        asked(lambda n, ctx: ctx.service("calculator").fail(n), mode=mode, items=[8])
    assert caught.value.code == 8


def test_errors_of_the_standard_library_arrive_whole():
    error = error_of_call(lambda n, ctx: ctx.service("calculator").read("no/such/file"))
    assert isinstance(error, FileNotFoundError)
    assert error.filename == "no/such/file"


UNKNOWN = {
    "a service of another name": (lambda n, ctx: ctx.call_service("calculatr", n), ["'calculatr'", "'calculator'"]),
    "a handle of another name": (lambda n, ctx: ctx.service("nobody"), ["'nobody'", "'calculator'"]),
    "a class that is not registered": (lambda n, ctx: ctx.service(Chained), ["Chained", "exactly one"]),
    "a method that is not there": (lambda n, ctx: ctx.service("calculator").addd(1), ["'addd'", "'add'"]),
    "a private method": (lambda n, ctx: ctx.call_service("calculator", method="_private"), ["private"]),
    "the life cycle": (lambda n, ctx: ctx.service("calculator").close(), ["'close'"]),
    "neither name nor class": (lambda n, ctx: ctx.service(3), ["name or its class", "3"]),
    "an object": (lambda n, ctx: ctx.service(Calculator()), ["name or its class", "Calculator"]),
    "a method that is no name": (lambda n, ctx: ctx.call_service("calculator", n, method=3), ["by its name", "3"]),
    "an attribute": (lambda n, ctx: ctx.call_service("calculator", method="factor"), ["'factor'"]),
    "a method of a pipeline": (lambda n, ctx: ctx.service("body").answer(n), ["'answer'", "'process'"]),
}


@pytest.mark.parametrize(("call", "fragments"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_there_is_an_unknown_service(call, fragments):
    services = [("calculator", Calculator), ("body", PipelineService(lambda r: r))]
    error = error_of_call(call, register=services)
    assert isinstance(error, UnknownService)
    for fragment in fragments:
        assert fragment in str(error)


def test_a_class_that_is_registered_twice_wants_a_name():
    services = [("first", Calculator), ("second", Calculator)]
    error = error_of_call(lambda n, ctx: ctx.service(Calculator), register=services)
    assert isinstance(error, UnknownService)
    assert "'first'" in str(error)
    assert "'second'" in str(error)


WRONG = {
    "too many arguments": (lambda n, ctx: ctx.service("calculator").add(1, 2, 3), TypeError, "positional argument"),
    "an unknown keyword": (lambda n, ctx: ctx.service("calculator").add(1, d=3), TypeError, "'d'"),
    "two values for a pipeline": (lambda n, ctx: ctx.call_service("body", 1, 2), ServiceError, "one positional"),
    "no value for a pipeline": (lambda n, ctx: ctx.call_service("body"), ServiceError, "one positional"),
    "a keyword for a pipeline": (lambda n, ctx: ctx.call_service("body", n, x=1), ServiceError, "'x'"),
    "a timeout of 0": (lambda n, ctx: ctx.call_service("calculator", n, timeout=0), PipelineError, "above 0"),
    "a timeout of text": (lambda n, ctx: ctx.call_service("calculator", n, timeout="1"), PipelineError, "'1'"),
    "an argument that is no data": (
        lambda n, ctx: ctx.call_service("calculator", {"lock": threading.Lock()}),
        CodecError,
        r"the arguments of calculator\.process cannot be sent: .*lock",
    ),
    "a keyword that is no data": (
        lambda n, ctx: ctx.service("calculator").add(1, b=threading.Lock()),
        CodecError,
        r"the arguments of calculator\.add cannot be sent: .*lock",
    ),
    "a record that is no data": (
        lambda n, ctx: ctx.call_service("body", threading.Lock()),
        CodecError,
        r"the arguments of body\.process cannot be sent: .*lock",
    ),
    "a reply that is no data": (
        lambda n, ctx: ctx.service("calculator").lock(),
        CodecError,
        "a reply of service 'calculator' cannot be sent: .*lock",
    ),
    "a reply that is a generator": (
        lambda n, ctx: ctx.service("calculator").lines(),
        CodecError,
        "a reply of service 'calculator' cannot be sent: .*generator",
    ),
    "a pipeline's reply that is no data": (
        lambda n, ctx: ctx.call_service("locks", n),
        CodecError,
        "a reply of service 'locks' cannot be sent: .*lock",
    ),
}


@pytest.mark.parametrize(("call", "kind", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_an_error_at_its_caller_and_the_service_lives_on(call, kind, text):
    services = [
        ("calculator", Calculator),
        ("body", PipelineService(lambda r: r)),
        ("locks", PipelineService(lambda r: r.map(lambda n: threading.Lock()))),
    ]

    def function(n, ctx):
        error = caught_in_map(call)(n, ctx)
        return (error, ctx.call_service("calculator", 4), ctx.call_service("body", 5))

    ((error, four, five),) = asked(function, register=services)
    assert isinstance(error, kind)
    assert re.search(text, str(error))
    assert (four, five) == (40, 5)


@pytest.mark.parametrize("call", ["argument", "reply"])
def test_what_cannot_be_pickled_is_a_codec_error_in_processes_too(call):
    from sage_flow.executors.processes import ProcessExecutor

    def function(n, ctx):
        try:
            if call == "argument":
                ctx.call_service("calculator", threading.Lock())
            ctx.service("calculator").lock()
        except CodecError as error:
            return str(error)

    env = LocalEnvironment("test", executor=ProcessExecutor())
    env.register_service("calculator", Calculator)
    env.from_collection([1]).map(function).collect("x")
    assert "lock" in env.execute().collected["x"][0]
