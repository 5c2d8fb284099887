"""A pipeline as a service gives one reply per request; calls in a circle are refused."""

from collections import Counter

import pytest
from failing_pipelines import Boom, one_process
from services_under_test import asked, error_of_call

from sage_flow import DeadLetter, LocalEnvironment, PipelineService, Service, Sink
from sage_flow.errors import NoReply, ServiceCycle, ServiceError

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


@pytest.mark.on_ray
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
@pytest.mark.on_ray
def test_two_services_that_share_a_third_are_no_circle(mode):
    env = mode.environment()
    env.register_service("a", Calls, "c")
    env.register_service("b", Calls, "c")
    env.register_service("c", Calls)
    env.from_collection([5]).map(lambda n, ctx: (ctx.call_service("a", n), ctx.call_service("b", n))).collect("x")
    assert env.execute().collected["x"] == [(4, 4)]
