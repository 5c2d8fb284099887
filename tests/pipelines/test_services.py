"""Calls of services: every call has one outcome, which is its caller's and nobody else's."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from sage_flow import DeadLetter, Function, JobStatus, LocalEnvironment, PipelineService, Service, Sink
from sage_flow.errors import (
    CodecError,
    NoReply,
    PipelineError,
    ServiceCycle,
    ServiceError,
    ServiceOverloaded,
    ServiceTimeout,
    UnknownService,
)
from sage_flow.testing import MODES

HERE = os.path.basename(__file__)

one_process = pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "processes"], ids=str)
"""For what does not depend on processes, of which each job costs most of a second."""


class Boom(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Calculator(Service):
    """Answers what a service can be asked."""

    def __init__(self, factor=10):
        self.factor = factor

    def open(self, ctx):
        self.ctx = ctx

    def process(self, value):
        return value * self.factor

    def add(self, a, b=1, *, c=0):
        return a + b + c

    def nothing(self):
        return None

    def fail(self, value):
        raise TwoArguments(value, "refused")

    def read(self, path):
        with open(path) as file:
            return file.read()

    def take(self, value):
        value.append("taken")
        return value

    def lock(self):
        return threading.Lock()

    def lines(self):
        return (line for line in "ab")

    def _private(self):
        return "secret"


def asked(function, *, mode=None, items=(1,), register=(("calculator", Calculator),), **options):
    """What `function(value, ctx)` gives for `items`, in a job with these services."""
    env = LocalEnvironment("test") if mode is None else mode.environment()
    for name, service in register:
        env.register_service(name, service)
    env.from_collection(list(items)).map(function, name="ask", **options).collect("replies")
    return env.execute().collected["replies"]


def caught_in_map(call):
    """A function that returns what error `call(value, ctx)` raised."""

    def function(value, ctx):
        try:
            return ("reply", call(value, ctx))
        except Exception as error:
            return error

    return function


def error_of_call(call, **kwargs):
    (error,) = asked(caught_in_map(call), **kwargs)
    return error


# --- calls and replies ------------------------------------------------------------------------------------


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


def make_calculator(factor):
    return Calculator(factor)


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
    env.register_service("calculator", Calculator, parallelism=2)
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
    assert HERE in cause
    assert "in refuse" in cause if depth == "pipeline" else "in fail" in cause
    assert "operator  '" in notes


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
        "lock",
    ),
    "a keyword that is no data": (
        lambda n, ctx: ctx.service("calculator").add(1, b=threading.Lock()),
        CodecError,
        "lock",
    ),
    "a record that is no data": (lambda n, ctx: ctx.call_service("body", threading.Lock()), CodecError, "lock"),
    "a reply that is no data": (lambda n, ctx: ctx.service("calculator").lock(), CodecError, "lock"),
    "a reply that is a generator": (lambda n, ctx: ctx.service("calculator").lines(), CodecError, "generator"),
    "a pipeline's reply that is no data": (lambda n, ctx: ctx.call_service("locks", n), CodecError, "lock"),
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
    assert text in str(error)
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


# --- timeouts and places ----------------------------------------------------------------------------------


class Gate(Service):
    """Blocks calls of `wait` until `event` is set; notes who began."""

    def __init__(self, event, began=None):
        self.event = event
        self.began = began if began is not None else []

    def wait(self, value):
        self.began.append(value)
        self.event.wait(30)
        return value

    def pass_by(self, value):
        self.began.append(value)
        return value


def test_no_reply_in_time_is_a_timeout_that_names_the_method_and_the_seconds():
    event = threading.Event()
    env = LocalEnvironment("test")
    env.register_service("gate", Gate, event)

    def function(n, ctx):
        try:
            ctx.service("gate").options(timeout=0.05).wait(n)
        except ServiceTimeout as error:
            event.set()
            return error

    env.from_collection([1]).map(function).collect("x")
    (error,) = env.execute().collected["x"]
    assert isinstance(error, TimeoutError)
    assert "gate.wait" in str(error)
    assert "0.05 s" in str(error)


def test_the_timeout_of_the_registration_is_the_default():
    event = threading.Event()
    env = LocalEnvironment("test")
    env.register_service("gate", Gate, event, timeout=0.05)

    def function(n, ctx):
        try:
            ctx.service("gate").wait(n)
        except ServiceTimeout as error:
            event.set()
            return str(error)

    env.from_collection([1]).map(function).collect("x")
    assert "0.05 s" in env.execute().collected["x"][0]


def test_a_late_reply_is_nobody_elses():
    event = threading.Event()
    env = LocalEnvironment("test")
    env.register_service("gate", Gate, event)

    def function(n, ctx):
        gate = ctx.service("gate")
        try:
            gate.options(timeout=0.05).wait("late")
        except ServiceTimeout:
            event.set()
        return [gate.pass_by(number) for number in range(20)]

    env.from_collection([1]).map(function).collect("x")
    assert env.execute().collected["x"] == [list(range(20))]


def test_work_whose_time_has_passed_is_not_started():
    event, began = threading.Event(), []
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event, began))
    first_began = threading.Event()

    def first(n, ctx):
        first_began.set()
        return ctx.service("gate").options(timeout=30).wait("first")

    def second(n, ctx):
        first_began.wait(30)
        while not began:  # until the service is busy with the first call
            threading.Event().wait(0.001)
        try:
            ctx.service("gate").options(timeout=0.05).pass_by("second")
        except ServiceTimeout:
            event.set()
        return ctx.service("gate").pass_by("third")

    env.from_collection([1]).map(first).collect("first")
    env.from_collection([1]).map(second).collect("second")
    env.execute()
    assert began == ["first", "third"]


def test_nested_calls_wait_no_longer_than_the_call_they_help_to_answer():
    event = threading.Event()

    class Patient(Service):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def ask(self):
            try:
                self.gate.options(timeout=1000).wait(1)
            except ServiceTimeout as error:
                event.set()
                told.append(str(error))
                raise

    told = []
    env = LocalEnvironment("test")
    env.register_service("gate", Gate, event)
    env.register_service("patient", Patient)

    def function(n, ctx):
        try:
            ctx.service("patient").options(timeout=0.1).ask()
        except ServiceTimeout as error:
            return str(error)

    env.from_collection([1]).map(function).collect("x")
    env.execute()
    assert len(told) == 1
    assert "gate.wait gave no reply within 0." in told[0]


def test_four_calls_are_answered_in_parallel_by_concurrency_four():
    barrier = threading.Barrier(4)  # lets nobody pass before four are in

    class Meeting(Service):
        def meet(self, n):
            barrier.wait(30)
            return n

    env = LocalEnvironment("test", parallelism=4)
    env.register_service("meeting", Meeting, concurrency=4)
    stream = env.from_collection(range(8)).rebalance()
    stream.map(lambda n, ctx: ctx.service("meeting").meet(n)).collect("x")
    assert sorted(env.execute().collected["x"]) == list(range(8))


@one_process
def test_concurrency_one_answers_one_at_a_time(mode):
    class Alone(Service):
        def open(self, ctx):
            self.inside = 0
            self.most = 0

        def enter(self, n):
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.inside -= 1
            return self.most

    replies = asked(
        lambda n, ctx: ctx.service("alone").enter(n),
        mode=mode,
        items=range(50),
        register=[("alone", Alone)],
        parallelism=3,
    )
    assert replies == [1] * 50


def test_a_place_that_a_timed_out_call_frees_goes_to_the_next_caller():
    """One call is open and times out; the one that waits for its place must get it at once."""
    event = threading.Event()
    env = LocalEnvironment("test")

    class Calls(Function):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def __call__(self, n):
            with ThreadPoolExecutor(2) as pool:
                slow = pool.submit(self.gate.options(timeout=0.2).wait, "slow")
                while not began:
                    threading.Event().wait(0.001)
                quick = pool.submit(self.gate.options(timeout=2).pass_by, "quick")
                try:
                    slow.result()
                except ServiceTimeout:
                    return quick.result()
                finally:
                    event.set()

    began = []
    env.register_service("gate", lambda: Gate(event, began), concurrency=2, max_pending=1)
    env.from_collection([1]).map(Calls).collect("x")
    assert env.execute().collected["x"] == ["quick"]


def test_a_caller_that_gets_no_place_in_time_is_told_that_the_service_is_overloaded():
    event = threading.Event()
    began = []
    env = LocalEnvironment("test")
    env.register_service("gate", lambda: Gate(event, began), max_pending=1)

    class Calls(Function):
        def open(self, ctx):
            self.gate = ctx.service("gate")

        def __call__(self, n):
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(self.gate.wait, "first")
                while not began:
                    threading.Event().wait(0.001)
                try:
                    self.gate.options(timeout=0.05).pass_by("second")
                except ServiceOverloaded as error:
                    return (str(error), event.set() or first.result())

    env.from_collection([1]).map(Calls).collect("x")
    text, first = env.execute().collected["x"][0]
    assert "gate.pass_by" in text
    assert "1 earlier calls (max_pending)" in text
    assert first == "first"
    assert began == ["first"]


@one_process
def test_callers_beyond_max_pending_wait_and_are_all_answered(mode):
    env = mode.environment()
    env.register_service("calculator", Calculator, max_pending=1)
    stream = env.from_collection(range(100)).rebalance()
    stream.map(lambda n, ctx: (n, ctx.call_service("calculator", n)), parallelism=3).collect("x")
    assert Counter(env.execute().collected["x"]) == Counter((n, n * 10) for n in range(100))


def test_the_first_calls_of_a_concurrent_service_are_not_mixed_up():
    """Every activation asks at once whether it may call: each must get the answer to its own call."""
    barrier = threading.Barrier(8)

    class Relay(Service):
        def open(self, ctx):
            self.calculator = ctx.service("calculator")

        def ask(self, n):
            barrier.wait(30)
            return self.calculator.process(n)

    for _ in range(10):
        env = LocalEnvironment("test", parallelism=8)
        env.register_service("calculator", Calculator)
        env.register_service("relay", Relay, concurrency=8)
        env.from_collection(range(8)).rebalance().map(lambda n, ctx: (n, ctx.service("relay").ask(n))).collect("x")
        assert sorted(env.execute().collected["x"]) == [(n, n * 10) for n in range(8)]


# --- one request, one reply -------------------------------------------------------------------------------


def outcome_of(body, items, parallelism=1, mode=None, **register):
    """(value, reply or type of error) for each item that is sent to the pipeline `body`."""

    def function(n, ctx):
        try:
            return (n, ctx.call_service("body", n))
        except ServiceError as error:
            return (n, type(error).__name__)

    env = LocalEnvironment("test") if mode is None else mode.environment()
    env.register_service("body", PipelineService(body, parallelism), **register)
    env.from_collection(list(items)).map(function).collect("x")
    return sorted(env.execute().collected["x"])


@one_process
def test_a_filtered_request_has_no_reply(mode):
    found = outcome_of(lambda r: r.rebalance().filter(lambda n: n % 2), range(6), 2, mode)
    assert found == [(n, n if n % 2 else "NoReply") for n in range(6)]


def test_no_reply_and_several_replies_say_what_happened():
    services = [
        ("none", PipelineService(lambda r: r.filter(lambda n: False))),
        ("two", PipelineService(lambda r: r.flat_map(lambda n: [n, n]))),
    ]
    none = error_of_call(lambda n, ctx: ctx.call_service("none", n), register=services)
    two = error_of_call(lambda n, ctx: ctx.call_service("two", n), register=services)
    assert isinstance(none, NoReply)
    assert "none.process" in str(none)
    assert isinstance(two, ServiceError)
    assert "two.process gave 2 outputs" in str(two)


@one_process
@pytest.mark.parametrize("spread", [False, True], ids=["in one chain", "over subtasks"])
def test_outputs_of_two_branches_are_one_reply_only_if_one_is_left(mode, spread):
    """n < 4 leaves both branches alive, 4 <= n < 8 one of them, the rest none."""

    def body(requests):
        left = requests.filter(lambda n: n < 8)
        right = requests.filter(lambda n: n < 4)
        if spread:
            left, right = left.rebalance().map(lambda n: n), right.rebalance().map(lambda n: n)
        return left.union(right)

    expected = [(n, "ServiceError" if n < 4 else n if n < 8 else "NoReply") for n in range(12)]
    assert outcome_of(body, range(12), 2, mode) == expected


@one_process
@pytest.mark.parametrize("count", [1023, 1024, 1025, 3500])
def test_many_outputs_that_come_down_to_one_are_a_reply(mode, count):
    def body(requests):
        many = requests.flat_map(lambda n: range(n)).rebalance().map(lambda n: n)
        return many.filter(lambda n: n == 1000)

    assert outcome_of(body, [count], 2, mode) == [(count, 1000)]


def test_many_outputs_that_come_down_to_none_or_two_are_not_a_reply():
    def body(requests):
        many = requests.flat_map(lambda n: range(n)).rebalance().map(lambda n: n)
        return many.filter(lambda n: n in (10, 3400))

    assert outcome_of(body, [5, 3000, 3500], 2) == [(5, "NoReply"), (3000, 10), (3500, "ServiceError")]


def test_a_failing_record_among_many_outputs_is_the_callers_error():
    def body(requests):
        many = requests.flat_map(lambda n: range(n)).rebalance().map(lambda n: 1 // (n - 2000))
        return many.filter(lambda n: False)

    error = error_of_call(lambda n, ctx: ctx.call_service("body", 3500), register=[("body", PipelineService(body))])
    assert isinstance(error, ZeroDivisionError)


def failing_body(policy, letters=None):
    def checked(n):
        if n % 3 == 0:
            raise Boom(n)
        return n

    def body(requests):
        stream = requests.map(checked, on_error=policy, name="checked")
        if policy == "dead_letter":
            stream.dead_letters().add_sink(letters, name="letters")
        return stream

    return body


class Letters(Sink):
    """Writes one line per dead letter."""

    def __init__(self, path):
        self.path = path

    def write(self, letter):
        with open(self.path, "a") as file:
            file.write(f"{letter!r}\n")


@one_process
@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
def test_a_record_that_a_body_rejects_has_no_reply(mode, tmp_path, policy):
    env = mode.environment()
    env.register_service("body", PipelineService(failing_body(policy, Letters(tmp_path / "letters")), 2))

    def function(n, ctx):
        try:
            return (n, ctx.call_service("body", n))
        except NoReply:
            return (n, None)

    env.from_collection(range(12)).map(function).collect("x")
    result = env.execute()
    assert sorted(result.collected["x"]) == [(n, n if n % 3 else None) for n in range(12)]
    if policy == "skip":
        assert result.skipped == {"body/checked": 4}
        return
    assert result.dead_letters == {"body/checked": 4}
    written = sorted((tmp_path / "letters").read_text().splitlines())
    assert written == sorted(repr(DeadLetter(n, f"Boom: {n}", "body/checked")) for n in (0, 3, 6, 9))


def test_a_body_may_collect_on_the_side():
    def body(requests):
        stream = requests.map(lambda n, ctx: ctx.output("seen", n) or n)
        stream.side_output("seen").collect("seen")
        return stream

    env = LocalEnvironment("test")
    env.register_service("body", PipelineService(body, 2))
    env.from_collection(range(5)).map(lambda n, ctx: ctx.call_service("body", n)).collect("x")
    result = env.execute()
    assert result.collected["x"] == list(range(5))
    assert sorted(result.collected["body/seen"]) == list(range(5))


def test_a_body_has_keyed_state(mode):
    def body(requests):
        return requests.key_by(lambda n: n % 3).process(count_of_key)

    replies = asked(
        lambda n, ctx: (n % 3, ctx.call_service("body", n)),
        mode=mode,
        items=range(30),
        register=[("body", PipelineService(body, 3))],
        parallelism=1,
    )
    assert Counter(replies) == Counter((key, (key, count)) for key in range(3) for count in range(1, 11))


def count_of_key(n, ctx):
    seen = ctx.state.value("seen", 0)
    seen.set(seen.get() + 1)
    yield (ctx.key, seen.get())


def test_running_aggregates_are_replies():
    found = outcome_of(lambda r: r.key_by(lambda n: n % 2).sum(), range(6))
    assert found == [(0, (0, 0)), (1, (1, 1)), (2, (0, 2)), (3, (1, 4)), (4, (0, 6)), (5, (1, 9))]


# --- cycles -----------------------------------------------------------------------------------------------


class Calls(Service):
    def __init__(self, other=None):
        self.other = other

    def open(self, ctx):
        self.ctx = ctx

    def process(self, value):
        if value == 0 or self.other is None:
            return value
        return self.ctx.call_service(self.other, value - 1)


@one_process
@pytest.mark.parametrize(
    ("edges", "entry", "circle"),
    [
        ({"x": "x"}, "x", "x -> x"),
        ({"x": "y", "y": "x"}, "x", "y -> x -> y"),
        ({"v": "x", "x": "y", "y": "x"}, "v", "y -> x -> y"),
        ({"v": "x", "x": "y", "y": "v"}, "v", "y -> v -> x -> y"),
    ],
    ids=["self", "two", "behind an entry", "three"],
)
def test_the_call_that_would_close_a_circle_is_refused(mode, edges, entry, circle):
    env = mode.environment()
    for name, other in edges.items():
        env.register_service(name, Calls, other)
    env.from_collection([9]).map(lambda n, ctx: ctx.call_service(entry, n)).collect()
    with pytest.raises(ServiceCycle) as caught:
        env.execute()
    assert circle in str(caught.value)


def test_a_circle_through_a_pipeline_is_refused_and_calls_without_one_go_on():
    env = LocalEnvironment("test")

    def body(requests):
        return requests.map(lambda n, ctx: n if n == 0 else ctx.call_service("x", n - 1))

    env.register_service("x", Calls, "body")
    env.register_service("body", PipelineService(body))

    def function(n, ctx):
        try:
            return ctx.call_service("x", n)
        except ServiceCycle as error:
            return str(error)

    env.from_collection([1, 2, 0, 1]).map(function).collect("rows")
    one, two, zero, again = env.execute().collected["rows"]
    assert (one, zero, again) == (0, 0, 0)
    assert "body -> x -> body" in two


@one_process
def test_two_services_that_share_a_third_are_no_circle(mode):
    env = mode.environment()
    env.register_service("a", Calls, "c")
    env.register_service("b", Calls, "c")
    env.register_service("c", Calls)
    env.from_collection([5]).map(lambda n, ctx: (ctx.call_service("a", n), ctx.call_service("b", n))).collect("x")
    assert env.execute().collected["x"] == [(4, 4)]


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


@one_process
@pytest.mark.parametrize("where", ["__init__", "open", "close"])
def test_a_service_whose_life_cycle_fails_fails_the_job_and_is_named(mode, where):
    env = mode.environment()
    env.register_service("broken", FailsIn, where)
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("broken", n)).collect()
    with pytest.raises(Boom, match=where) as caught:
        env.execute()
    notes = "\n".join(caught.value.__notes__)
    assert "operator  'broken' (service)" in notes
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


def test_every_replica_is_opened_and_closed_once(mode, tmp_path):
    path = str(tmp_path / "closed")
    env = mode.environment()
    env.register_service("three", NotingService, path, "x", parallelism=3, concurrency=2)
    env.from_collection(range(10)).map(lambda n, ctx: ctx.call_service("three", n)).for_each(str)
    env.execute()
    assert (tmp_path / "closed").read_text().splitlines() == ["x None"] * 3


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


REFUSED = {
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
