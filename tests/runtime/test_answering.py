"""One subtask of a service, driven by hand: what it answers, and when it is over."""

from fractions import Fraction

import pytest
from fake_port import EndOfInput, Ticket, bench, shares

from sage_flow import PipelineService
from sage_flow.errors import JobCancelled, PipelineError, ProtocolError
from sage_flow.runtime.failure import unpack_error
from sage_flow.runtime.messages import Control, EndOfRequests, EndService, Reply, Request
from sage_flow.runtime.subtask import Done, WaitForMessage

# --- pipelines that answer --------------------------------------------------------------------------------

ME, CALL = 7, 42  # the caller's address, its number of the call


def in_a_service(build, operator, **options):
    """The subtask of the body `build(requests)` that runs `operator`."""

    def write(env):
        env.register_service("svc", PipelineService(build), **options)
        env.from_collection([]).for_each(lambda v, ctx: ctx.call_service("svc", v))

    return bench(write, operator)


def ask(made, record, remaining_s=5.0, call=CALL, args=None, kwargs=None):
    made.subtask.on_message(
        Request(ME, call, remaining_s, "process", (record,) if args is None else args, kwargs or {}, remaining_s)
    )
    made.run()


def test_the_one_output_is_the_reply():
    made = in_a_service(lambda requests: requests.map(lambda n: n + 1, name="m"), "svc/m")
    ask(made, 1)
    assert made.port.replies == [(ME, Reply(CALL, Fraction(1), (2,)))]


def test_a_filtered_record_returns_its_share_without_an_output():
    made = in_a_service(lambda requests: requests.filter(lambda n: n > 5, name="f"), "svc/f")
    ask(made, 1)
    assert made.port.replies == [(ME, Reply(CALL, Fraction(1), ()))]


def test_several_outputs_share_the_call():
    made = in_a_service(lambda requests: requests.flat_map(range, name="f"), "svc/f")
    ask(made, 3)
    assert made.port.replies == [(ME, Reply(CALL, Fraction(1), (0, 1, 2)))]


def test_two_readers_halve_the_share_and_one_output_goes_on():
    def body(requests):
        first = requests.map(lambda n: n, name="head")
        return first.map(lambda n: ("left", n), name="left").union(first.map(lambda n: ("right", n), name="right"))

    made = in_a_service(body, "svc/head")
    ask(made, 1)
    tickets = [frame.tickets for channel in made.outs for frame in made.port.on(channel)]
    assert tickets == [[Ticket(ME, CALL, Fraction(1, 2), 5.0)]] * 2


def test_a_step_further_on_divides_the_share_that_it_got():
    def body(requests):
        first = requests.map(lambda n: n, name="head")
        return first.flat_map(range, name="more").union(first.map(str, name="text"))

    made = in_a_service(body, "svc/more")
    (channel,) = made.ins
    made.give(channel, 2, 0, tickets=[Ticket(ME, 1, Fraction(1, 2), 5.0), Ticket(ME, 2, Fraction(1, 3), 5.0)])
    assert shares(made.port, 1) == Fraction(1, 2)
    assert shares(made.port, 2) == Fraction(1, 3)
    outputs = {call: [o for _, r in made.port.replies if r.call_id == call for o in r.outputs] for call in (1, 2)}
    assert outputs == {1: [0, 1], 2: []}


def test_an_error_is_the_callers_and_does_not_stop_the_service():
    made = in_a_service(lambda requests: requests.map(lambda n: 1 // n, name="divide"), "svc/divide")
    ask(made, 0)
    ask(made, 1, call=CALL + 1)
    (_, failed), (_, answered) = made.port.replies
    assert isinstance(unpack_error(failed.error), ZeroDivisionError)
    assert (answered.call_id, answered.outputs) == (CALL + 1, (1,))


def test_outputs_of_a_record_that_failed_do_not_go_out_with_the_next_one():
    def sometimes(n):
        yield n
        yield 10 // n

    made = in_a_service(lambda requests: requests.flat_map(sometimes, name="f"), "svc/f")
    ask(made, 0)
    ask(made, 5, call=CALL + 1)
    assert [reply.outputs for _, reply in made.port.replies] == [(), (5, 2)]


def test_a_skipped_record_is_answered_like_a_filtered_one():
    made = in_a_service(lambda requests: requests.map(lambda n: 1 // n, name="m", on_error="skip"), "svc/m")
    ask(made, 0)
    assert made.port.replies == [(ME, Reply(CALL, Fraction(1), ()))]


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"a": 1})])
def test_a_request_of_another_form_is_answered_with_an_error(args, kwargs):
    made = in_a_service(lambda requests: requests.map(str, name="m"), "svc/m")
    ask(made, None, args=args, kwargs=kwargs)
    ((_, reply),) = made.port.replies
    assert "one positional argument" in str(unpack_error(reply.error))


def test_work_whose_time_has_passed_is_not_started():
    ran = []
    made = in_a_service(lambda requests: requests.map(ran.append, name="m"), "svc/m")
    ask(made, 1, remaining_s=0)
    assert ran == []
    assert made.port.replies == []


def test_the_time_that_is_left_travels_with_the_record():
    def body(requests):
        head = requests.map(slow, name="head")
        return head.map(str, name="a").union(head.map(str, name="b"))

    def slow(n):
        made.port.clock.advance(2)
        return n

    made = in_a_service(body, "svc/head")
    ask(made, 1, remaining_s=5)
    assert {ticket.remaining_s for frame in made.port.sent for ticket in frame.tickets} == {3}


def test_a_full_buffer_takes_half_of_what_is_left_and_the_shares_still_sum_to_one():
    made = in_a_service(lambda requests: requests.flat_map(range, name="f"), "svc/f")
    ask(made, 5000)
    assert shares(made.port, CALL) == 1
    assert sum(len(reply.outputs) for _, reply in made.port.replies) == 5000
    assert max(len(reply.outputs) for _, reply in made.port.replies) == 1024


def test_records_for_the_driver_carry_no_share_and_do_not_divide_the_call():
    def body(requests):
        head = requests.map(lambda n: n, name="head")
        head.flat_map(range, name="log").collect("logged")
        return head.map(str, name="reply")

    made = in_a_service(body, "svc/log")
    (channel,) = made.ins
    made.give(channel, 3, tickets=[Ticket(ME, CALL, Fraction(1, 2), 5.0)])
    assert made.port.records() == [0, 1, 2]
    assert made.port.replies == [(ME, Reply(CALL, Fraction(1, 2), ()))]


def test_a_full_buffer_for_the_driver_is_sent_too():
    def body(requests):
        head = requests.map(lambda n: n, name="head")
        head.flat_map(range, name="log").collect("logged")
        return head.map(str, name="reply")

    made = in_a_service(body, "svc/log")
    (channel,) = made.ins
    made.give(channel, 5000, tickets=[Ticket(ME, CALL, Fraction(1), 5.0)])
    assert made.port.records() == list(range(5000))
    assert shares(made.port, CALL) == 1
    assert len(made.port.replies) < 10  # not one per record above 1024


def test_a_service_ends_when_the_driver_named_its_callers_and_each_has_said_goodbye():
    made = in_a_service(lambda requests: requests.map(str, name="m"), "svc/m")
    for message in (EndOfRequests(3), EndService((3, 4))):
        made.subtask.on_message(message)
    assert made.run() == WaitForMessage()
    made.subtask.on_message(EndOfRequests(4))
    assert made.run() == Done()


def test_a_service_that_nobody_called_ends_at_once():
    made = in_a_service(lambda requests: requests.map(str, name="m"), "svc/m")
    made.subtask.on_message(EndService(()))
    assert made.run() == Done()


def test_the_next_step_of_a_service_is_told_its_end():
    def body(requests):
        head = requests.map(lambda n: n, name="head")
        return head.map(str, name="a").union(head.map(str, name="b"))

    made = in_a_service(body, "svc/head")
    made.subtask.on_message(EndService(()))
    made.run()
    assert [made.port.story(channel) for channel in made.outs] == [[EndOfInput()]] * 2


# --- class services ---------------------------------------------------------------------------------------


class Memory:
    def __init__(self, start):
        self.turns = [start]

    def open(self, ctx):
        self.ctx = ctx

    def append(self, turn, *, twice=False):
        self.turns += [turn] * (1 + twice)
        return len(self.turns)

    def fail(self):
        raise KeyError("k")

    def cancel(self):
        raise JobCancelled("now")

    def close(self):
        self.turns = None


@pytest.fixture
def memory():
    def write(env):
        env.register_service("memory", Memory, "hello")
        env.from_collection([]).for_each(lambda v, ctx: ctx.call_service("memory", v, method="append"))

    return bench(write, "memory")


def released():
    """The place is free again."""


def request(method, *args, remaining_s=5.0, **kwargs):
    return Request(ME, CALL, remaining_s, method, args, kwargs, remaining_s)


def test_a_request_calls_the_method(memory):
    message = request("append", "x", twice=True)
    assert memory.subtask.on_message(message) is message
    memory.subtask.answer(message, released)
    assert memory.port.replies == [(ME, Reply(CALL, 1, (3,)))]
    assert memory.counts() == {"memory": 1}


def test_an_exception_of_the_method_is_the_reply(memory):
    memory.subtask.answer(request("fail"), released)
    ((_, reply),) = memory.port.replies
    error = unpack_error(reply.error)
    assert isinstance(error, KeyError)
    assert error.__notes__[0].startswith("service   'memory', method 'fail', subtask 1 of 1, job 'job', registered at ")
    assert error.__notes__[1].startswith("call      fail(")


@pytest.mark.parametrize("name", ["_secret", "__init__", "open", "close", "nothing", "turns"])
def test_only_public_methods_can_be_called(memory, name):
    memory.subtask.answer(request(name), released)
    ((_, reply),) = memory.port.replies
    assert f"no method {name!r}; it has: append, cancel, fail" in str(unpack_error(reply.error))


def test_a_request_too_late_is_not_started(memory):
    memory.subtask.answer(request("append", "x", remaining_s=0), released)
    assert memory.port.replies == []
    assert memory.counts() == {"memory": 0}


def test_a_cancel_unwinds_a_method(memory):
    with pytest.raises(JobCancelled):
        memory.subtask.answer(request("cancel"), released)


def test_a_service_is_over_when_all_its_callers_are(memory):
    assert not memory.subtask.is_over
    memory.subtask.on_message(EndService((3,)))
    assert not memory.subtask.is_over
    assert memory.subtask.on_message(EndOfRequests(3)) is None
    assert memory.subtask.is_over


def test_a_service_takes_no_data(memory):
    with pytest.raises(ProtocolError, match="Control"):
        memory.subtask.on_message(Control(0, 0, EndOfInput()))


def test_a_service_whose_open_fails_is_named_and_not_closed():
    class Broken:
        def open(self, ctx):
            raise RuntimeError("no model")

        def close(self):
            raise AssertionError("was never open")

    def write(env):
        env.register_service("broken", Broken)
        env.from_collection([]).for_each(lambda v, ctx: ctx.call_service("broken", v))

    with pytest.raises(RuntimeError) as caught:
        bench(write, "broken")
    assert caught.value.__notes__[0].startswith("service   'broken', open(), subtask 1 of 1")


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


def on_bench(kind, *args):
    def write(env):
        env.register_service("counting", kind, *args)
        env.from_collection([]).for_each(lambda n, ctx: ctx.call_service("counting", n))

    return bench(write, "counting").subtask


def test_the_state_of_a_service_is_taken_and_given_back():
    first, second = on_bench(Counting), on_bench(Counting)
    first.answer(request("add", 3), released)
    assert first.snapshot() == 3
    second.restore(first.snapshot())
    assert second.snapshot() == 3


def test_a_service_without_a_state_has_none_to_take_and_takes_none():
    service = on_bench(Memory, "hello")
    assert service.snapshot() is None
    with pytest.raises(PipelineError, match=r"'counting' .* no restore"):
        service.restore(1)


# --- deadlines of calls that a pipeline makes while it answers one ------------------------------------------


class Helper:
    def get(self, value):
        return value


def calls_helper(operator, function):
    """The subtask of a service's pipeline whose `operator` calls another service, which would have 60 s."""

    def write(env):
        env.register_service("helper", Helper, timeout=60.0)
        env.register_service("svc", PipelineService(lambda requests: operator(requests, function)))
        env.from_collection([]).for_each(lambda v, ctx: ctx.call_service("svc", v))

    return bench(write, "svc/asks")


OPERATORS = {
    "map": lambda requests, function: requests.map(function, name="asks"),
    "filter": lambda requests, function: requests.filter(function, name="asks"),
    "behind another chain": lambda requests, function: requests.map(lambda n: n, name="before", parallelism=2).map(
        function, name="asks", parallelism=1
    ),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_call_inside_a_pipeline_that_answers_has_no_more_time_than_the_call_that_it_answers(operator):
    made = calls_helper(OPERATORS[operator], lambda n, ctx: ctx.service("helper").get(n))
    timeouts, call = [], made.port.call
    made.port.call = lambda service, what, timeout_s, group: (
        timeouts.append(timeout_s) or call(service, what, timeout_s, group)
    )
    if made.ins:
        made.give(made.ins[0], 1, tickets=[Ticket(ME, CALL, Fraction(1), 0.25)])
    else:
        ask(made, 1, remaining_s=0.25)
    assert timeouts == [0.25]


def test_a_record_of_no_call_leaves_a_call_its_own_time():
    made = calls_helper(OPERATORS["map"], lambda n, ctx: ctx.service("helper").options(timeout=7.0).get(n))
    timeouts, call = [], made.port.call
    made.port.call = lambda service, what, timeout_s, group: (
        timeouts.append(timeout_s) or call(service, what, timeout_s, group)
    )
    ask(made, 1, remaining_s=9.0)
    ask(made, 2, remaining_s=0.25)
    ask(made, 3, remaining_s=8.0)
    assert timeouts == [7.0, 0.25, 7.0]
