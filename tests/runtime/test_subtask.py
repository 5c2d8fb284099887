"""One subtask, driven by hand: what arrives, what leaves, in what order, and what it answers."""

from fractions import Fraction
from typing import ClassVar

import pytest
from fake_port import Barrier, EndOfInput, Idle, Ticket, Watermark, bench, shares

from sage_flow import END, IDLE, Function, PipelineService, Sink, Source
from sage_flow.channels.frame import Commit, Control, Data, EndOfRequests, EndService, Reply, Request
from sage_flow.errors import JobCancelled, PipelineError, ProtocolError
from sage_flow.runtime.failure import unpack_error
from sage_flow.runtime.subtask import Done, WaitForMessage, WaitForSource


@pytest.fixture
def made():
    """Two inputs, and two readers, which are not fused and get everything."""

    def build(env):
        step = env.from_collection([]).union(env.from_collection([])).map(lambda n: n, name="step")
        step.for_each(print)
        step.for_each(print)

    return bench(build, "step")


# --- records ----------------------------------------------------------------------------------------------


def test_records_go_through_the_chain_to_every_reader(made):
    a, b = made.ins
    made.give(a, 1, 2)
    made.give(b, 3)
    assert [made.port.records(channel) for channel in made.outs] == [[1, 2, 3], [1, 2, 3]]


def test_a_long_frame_is_worked_off_in_slices_and_its_credit_returned_at_its_end(made):
    a, _ = made.ins
    made.deliver(a, *range(100), cost=777)
    made.subtask.advance()
    made.subtask.advance()
    assert 0 < len(made.port.records(made.outs[0])) < 100
    assert made.port.credits == []
    assert made.run() == WaitForMessage()
    assert made.port.records(made.outs[0]) == list(range(100))
    assert made.port.credits == [(a, 777)]


def test_no_frame_is_longer_than_1024_records():
    made = bench(
        lambda env: (
            env.from_collection([])
            .union(env.from_collection([]))
            .map_batches(lambda batch: batch * 1000, batch_size=5, name="step")
            .rebalance()
            .for_each(print, parallelism=2)
        ),
        "step",
    )
    made.give(made.ins[0], *range(5))
    assert max(len(frame.records) for frame in made.port.sent) <= 1024
    assert len(made.port.records()) == 5000


@pytest.mark.parametrize("seq", [0, 2])
def test_a_repeat_or_a_gap_in_the_sequence_is_refused(made, seq):
    a, _ = made.ins
    made.give(a, 1)
    with pytest.raises(ProtocolError, match=f"frame {seq} on channel {a}, where 1 was due"):
        made.subtask.on_message(Data(a, seq, [2]))


def test_an_unknown_channel_is_refused(made):
    with pytest.raises(ProtocolError, match="channel 99"):
        made.subtask.on_message(Data(99, 0, [2]))


def test_records_behind_the_end_of_input_are_refused_also_when_both_come_at_once(made):
    a, _ = made.ins
    made.deliver(a, EndOfInput())
    with pytest.raises(ProtocolError, match="end of input"):
        made.give(a, 1)


def test_an_end_of_input_that_comes_twice_is_refused(made):
    a, _ = made.ins
    made.deliver(a, EndOfInput())
    with pytest.raises(ProtocolError, match="end of input"):
        made.give(a, EndOfInput())


def test_a_message_that_is_not_for_a_chain_is_refused(made):
    made.subtask.on_message(Commit())
    with pytest.raises(ProtocolError, match="Commit"):
        made.run()


# --- the end ----------------------------------------------------------------------------------------------


def test_the_end_is_forwarded_when_all_inputs_have_ended_behind_the_last_records(made):
    a, b = made.ins
    made.give(a, 1)
    assert made.give(a, EndOfInput()) == WaitForMessage()
    made.deliver(b, 2)
    assert made.give(b, EndOfInput()) == Done()
    for channel in made.outs:
        assert made.port.story(channel) == [1, 2, EndOfInput()]


def test_what_was_held_back_comes_before_the_end():
    def build(env):
        both = env.from_collection([]).union(env.from_collection([]))
        sums = both.map_batches(lambda batch: [sum(batch)], batch_size=10, name="sums")
        final = sums.key_by(lambda n: n % 2).count(emit="final", name="final").map(lambda pair: pair, name="last")
        final.for_each(print)
        final.for_each(print)

    made = bench(build, "sums")
    a, b = made.ins
    made.give(a, 1, 2, 3)
    made.give(a, EndOfInput())
    assert made.port.sent == []
    made.give(b, EndOfInput())
    assert made.port.story(made.outs[0]) == [(0, 1), EndOfInput()]
    assert made.counts() == {"sums": 1, "final": 1, "last": 1}


class Ledger(Sink):
    story: ClassVar = []

    def open(self, ctx):
        Ledger.story.append("open")

    def write(self, value):
        Ledger.story.append(value)

    def close(self):
        Ledger.story.append("close")

    def commit(self):
        Ledger.story.append("commit")

    def abort(self):
        Ledger.story.append("abort")


@pytest.mark.parametrize("outcome", ["commit", "abort"])
def test_a_sink_is_committed_or_aborted_after_it_is_closed_once(monkeypatch, outcome):
    monkeypatch.setattr(Ledger, "story", [])
    made = bench(
        lambda env: env.from_collection([]).union(env.from_collection([])).add_sink(Ledger(), name="ledger"), "ledger"
    )
    made.give(made.ins[0], 1)
    made.subtask.close()
    made.subtask.close()  # a second time does nothing
    getattr(made.subtask, outcome)()
    assert Ledger.story == ["open", 1, "close", outcome]


class Fragile(Function):
    closed: ClassVar = []

    def __init__(self, name):
        self.name = name

    def __call__(self, value):
        return value

    def close(self):
        Fragile.closed.append(self.name)
        raise ValueError(self.name)


def test_all_that_was_opened_is_closed_and_the_first_error_is_told(monkeypatch):
    monkeypatch.setattr(Fragile, "closed", [])

    def build(env):
        both = env.from_collection([]).union(env.from_collection([]))
        both.map(Fragile("a"), name="a").map(Fragile("b"), name="b").for_each(print)

    made = bench(build, "a")
    with pytest.raises(ValueError) as caught:
        made.subtask.close()
    assert sorted(Fragile.closed) == ["a", "b"]
    assert str(caught.value) == Fragile.closed[0]
    assert f"operator  {Fragile.closed[0]!r}" in caught.value.__notes__[0]


# --- watermarks and idleness ------------------------------------------------------------------------------


def test_the_least_watermark_is_forwarded(made):
    a, b = made.ins
    made.give(a, Watermark(5))
    made.give(b, Watermark(3))
    made.give(b, Watermark(9))
    assert made.port.story(made.outs[0]) == [Watermark(3), Watermark(5)]


def test_a_watermark_does_not_overtake_records(made):
    a, b = made.ins
    made.deliver(a, Watermark(9))
    made.deliver(b, 1, 2)
    made.give(b, Watermark(7))
    assert made.port.story(made.outs[1]) == [1, 2, Watermark(7)]


def test_idle_is_forwarded_when_every_input_is_idle_and_not_before(made):
    a, b = made.ins
    made.give(a, Idle())
    assert made.port.sent == []
    made.give(b, Idle())
    assert made.port.story(made.outs[0]) == [Idle()]


def test_a_record_wakes_an_idle_input(made):
    a, b = made.ins
    made.give(a, Watermark(1))
    made.give(a, Idle())
    made.give(a, "late")
    made.give(b, Watermark(8))
    assert made.port.story(made.outs[0]) == ["late", Watermark(1)]


def test_an_ended_input_leaves_the_minimum(made):
    a, b = made.ins
    made.give(a, Watermark(5))
    made.give(b, EndOfInput())
    assert made.port.story(made.outs[0]) == [Watermark(5)]


# --- barriers ---------------------------------------------------------------------------------------------


def test_a_barrier_is_forwarded_behind_what_came_before_it_and_before_what_came_after(made):
    a, b = made.ins
    made.deliver(a, "a1")
    made.deliver(a, Barrier(1))
    made.deliver(a, "a2")
    made.deliver(b, "b1")
    assert made.run() == WaitForMessage()
    assert made.port.story(made.outs[0]) == ["a1", "b1"]  # a2 is held
    made.deliver(b, Barrier(1))
    made.deliver(b, "b2")
    made.run()
    assert made.port.story(made.outs[0]) == ["a1", "b1", Barrier(1), "a2", "b2"]
    assert made.port.story(made.outs[1]) == made.port.story(made.outs[0])


def test_no_credit_is_returned_for_what_is_held(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, 1, 2)
    assert made.port.credits == []
    made.give(b, Barrier(1))
    assert made.port.credits == [(a, 2)]


def test_held_frames_keep_their_order_when_some_arrived_with_the_barrier_and_some_after_it(made):
    a, b = made.ins
    made.deliver(a, Barrier(1))
    made.deliver(a, "first")
    made.subtask.advance()  # the barrier; "first" still waits
    made.deliver(a, "second")
    made.run()
    made.give(b, Barrier(1))
    assert made.port.records(made.outs[0]) == ["first", "second"]


def test_what_is_held_comes_out_before_what_waits_and_in_order(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.deliver(a, "a1")
    made.deliver(a, Watermark(4))
    made.deliver(a, "a2")
    made.run()
    made.deliver(b, Barrier(1))
    made.deliver(b, "b1")
    made.deliver(a, "a3")  # before the barrier of b is looked at: a is still held
    made.run()
    assert made.port.records(made.outs[0]) == ["a1", "a2", "b1", "a3"]


def test_a_second_barrier_among_the_held_frames_holds_its_channel_again(made):
    a, b = made.ins
    for item in ("a1", Barrier(1), "a2", Barrier(2), "a3"):
        made.give(a, item)
    for item in ("b1", Barrier(1), "b2", Barrier(2), "b3"):
        made.give(b, item)
    story = made.port.story(made.outs[0])
    assert story == ["a1", "b1", Barrier(1), "a2", "b2", Barrier(2), "a3", "b3"]


def test_an_ended_input_counts_as_every_later_barrier(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, "a1")
    made.give(b, EndOfInput())
    assert made.port.story(made.outs[0]) == [Barrier(1), "a1"]


def test_a_newer_barrier_abandons_the_older_one(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, "a1")
    made.give(b, "b1")
    made.give(b, Barrier(2))
    made.give(b, "b2")
    assert made.port.story(made.outs[0]) == ["b1", "a1"]
    made.give(a, Barrier(2))
    assert made.port.story(made.outs[0]) == ["b1", "a1", Barrier(2), "b2"]


def test_an_end_of_input_that_is_held_counts_when_it_is_released(made):
    a, b = made.ins
    made.give(a, Barrier(1))
    made.give(a, EndOfInput())
    made.give(b, "b1")
    assert made.give(b, Barrier(1)) == WaitForMessage()
    assert made.give(b, EndOfInput()) == Done()
    assert made.port.story(made.outs[0]) == ["b1", Barrier(1), EndOfInput()]


# --- sources ----------------------------------------------------------------------------------------------


class Scripted(Source):
    def __init__(self, *script):
        self.script = list(script)

    def next_batch(self):
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item


def from_source(*script):
    def build(env):
        stream = env.from_source(Scripted(*script), name="source")
        stream.for_each(print)
        stream.for_each(print)

    return bench(build, "source")


def test_a_source_is_asked_until_its_end():
    made = from_source([1, 2], IDLE, [3], END)
    assert made.run() == WaitForSource()
    assert made.port.story(made.outs[0]) == [1, 2]
    assert made.run() == Done()
    assert made.port.story(made.outs[0]) == [1, 2, 3, EndOfInput()]
    assert made.counts() == {"source": 3}


def test_falsy_records_are_records():
    made = from_source([None, 0, "", [], False], END)
    made.run()
    assert made.port.records(made.outs[0]) == [None, 0, "", [], False]


@pytest.mark.parametrize("wrong", [None, (1, 2), iter([1])])
def test_a_source_that_gives_no_list_is_told_what_to_give(wrong):
    with pytest.raises(PipelineError, match=r"next_batch\(\) of 'source' .* must return a list, IDLE or END"):
        from_source(wrong).run()


def test_a_source_that_raises_is_named():
    with pytest.raises(OSError) as caught:
        from_source([1], OSError("gone")).run()
    assert caught.value.__notes__[0].startswith("operator  'source' (source), subtask 1 of 1, job 'job'")


def test_slices_are_short_where_records_are_slow():
    made = bench(
        lambda env: (
            env.from_collection([]).union(env.from_collection([])).map(lambda n: slowly(n), name="step").for_each(print)
        ),
        "step",
    )

    def slowly(n):
        made.port.clock.advance(0.1)
        return n

    made.deliver(made.ins[0], *range(40))
    made.subtask.advance()  # takes the frame
    counts = []
    for _ in range(3):
        made.subtask.advance()
        counts.append(made.counts()["step"])
    assert counts == [16, 17, 18]


# --- a call before what was emitted is sent ---------------------------------------------------------------


class Echo:
    def process(self, value):
        return value


def test_what_was_emitted_before_a_call_is_queued_before_it():
    def build(env):
        env.register_service("echo", Echo)

        def ask(n, ctx):
            return ctx.call_service("echo", n) if n == 3 else n

        both = env.from_collection([]).union(env.from_collection([]))
        step = both.map(ask, name="ask")
        step.for_each(print)
        step.for_each(print)

    made = bench(build, "ask")
    sent_at_call = []
    made.port.answer = lambda service, method, args: sent_at_call.append(made.port.records(made.outs[0])) or "reply"
    made.give(made.ins[0], 1, 2, 3, 4)
    assert sent_at_call == [[1, 2]]
    assert made.port.records(made.outs[0]) == [1, 2, "reply", 4]


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


def request(method, *args, remaining_s=5.0, **kwargs):
    return Request(ME, CALL, remaining_s, method, args, kwargs, remaining_s)


def test_a_request_calls_the_method(memory):
    message = request("append", "x", twice=True)
    assert memory.subtask.on_message(message) is message
    memory.subtask.answer(message)
    assert memory.port.replies == [(ME, Reply(CALL, 1, (3,)))]
    assert memory.counts() == {"memory": 1}


def test_an_exception_of_the_method_is_the_reply(memory):
    memory.subtask.answer(request("fail"))
    ((_, reply),) = memory.port.replies
    error = unpack_error(reply.error)
    assert isinstance(error, KeyError)
    assert "operator  'memory' (service), subtask 1 of 1" in error.__notes__[0]


@pytest.mark.parametrize("name", ["_secret", "__init__", "open", "close", "nothing", "turns"])
def test_only_public_methods_can_be_called(memory, name):
    memory.subtask.answer(request(name))
    ((_, reply),) = memory.port.replies
    assert f"no method {name!r}; it has: append, cancel, fail" in str(unpack_error(reply.error))


def test_a_request_too_late_is_not_started(memory):
    memory.subtask.answer(request("append", "x", remaining_s=0))
    assert memory.port.replies == []
    assert memory.counts() == {"memory": 0}


def test_a_cancel_unwinds_a_method(memory):
    with pytest.raises(JobCancelled):
        memory.subtask.answer(request("cancel"))


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
    assert "'broken' (service)" in caught.value.__notes__[0]
