"""The port of a subtask: order, credit, calls, cancel. With real threads and a shell that only records."""

import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow import LocalEnvironment
from sage_flow.errors import CodecError, JobCancelled, JobRestarting, ProtocolError, ServiceOverloaded, ServiceTimeout
from sage_flow.executors.condition import BareCondition
from sage_flow.executors.port import WorkerPort
from sage_flow.executors.resources import Resources
from sage_flow.runtime.calls import CallTable
from sage_flow.runtime.messages import (
    DRIVER,
    Barrier,
    Cancel,
    Commit,
    Control,
    Credit,
    Data,
    EndOfInput,
    EndOfRequests,
    EndService,
    Idle,
    Reply,
    Request,
    Watermark,
)
from sage_flow.service import Call
from sage_flow.testing import VirtualClock

SOON_S = 0.05  # long enough to see that something does not happen
NEVER_S = 10.0  # a thread that is not back by then never comes


class RecordingShell:
    """Keeps what is sent; a record costs one credit. `answer(message)` may deliver something in return."""

    def __init__(self, window=8):
        self.resources = Resources()
        self._window = window
        self.sent = []
        self.answer = lambda target, message: None
        self.changed = threading.Condition()

    def condition(self, address=None):
        return BareCondition()

    def now(self):
        return time.monotonic()

    def wall_ms(self):
        return int(time.time() * 1000)

    def most_cost(self, producer, consumer):
        return self._window

    def shares_objects(self, producer, consumer):
        return True

    def medium(self, producer, consumer):
        return "memory"

    def send(self, sender, target, message, on_hold=False):
        with self.changed:
            self.sent.append(message)
            self.changed.notify_all()
        self.answer(target, message)
        return len(message.records) if isinstance(message, Data) else 0

    def frames(self):
        return [m for m in self.sent if isinstance(m, (Data, Control))]

    def records(self):
        return [record for m in self.sent if isinstance(m, Data) for record in m.records]

    def wait_for(self, count):
        """Wait until this many messages are sent."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.sent) >= count, NEVER_S), self.sent


def credit(channel, amount, window=1 << 20):
    """Credit for as many records as their cost. The window in time has room, unless it is given."""
    return Credit(channel, amount, amount, window)


class Echo:
    def process(self, value):
        return value


def port_of(operator="step", window=8, max_pending=256, replicas=1):
    env = LocalEnvironment("job")
    env.register_service("svc", Echo, max_pending=max_pending, parallelism=replicas)
    env.register_service("other", Echo)
    both = env.from_collection([]).union(env.from_collection([]))
    step = both.map(lambda n: n, name="step")
    step.for_each(print)
    step.for_each(print)
    plan = env._graph.plan()
    subtask = next(s for s in plan.subtasks if operator == s.chain.head.name)
    shell = RecordingShell(window)
    port = WorkerPort(plan, subtask, shell)
    for name in plan.services:
        port.note_open(name)
    outs = [c.id for c in plan.channels if c.producer == subtask.address]
    for out in outs:
        port.deliver(credit(out, 0))
    ins = [c.id for c in plan.channels if c.consumer == subtask.address]
    addresses = {name: plan.addresses(service.chain) for name, service in plan.services.items()}
    return SimpleNamespace(
        port=port, clock=VirtualClock(), shell=shell, outs=outs, ins=ins, plan=plan, subtask=subtask, at=addresses
    )


class InThread(threading.Thread):
    """Runs a function; `result()` waits for it and gives what it returned, or raised."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self._run, self._outcome = lambda: function(*args), None
        self.start()

    def run(self):
        try:
            self._outcome = (self._run(), None)
        except BaseException as error:
            self._outcome = (None, error)

    def result(self):
        self.join(NEVER_S)
        assert self._outcome is not None, "the thread is still blocked"
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    @property
    def is_blocked(self):
        self.join(SOON_S)
        return self.is_alive()


# --- credit -----------------------------------------------------------------------------------------------


def test_what_is_emitted_is_sent_at_once_while_there_is_credit():
    it = port_of()
    it.port.emit(it.outs[0], [1, 2])
    it.port.emit_element(it.outs[0], EndOfInput())
    assert it.shell.sent == [Data(it.outs[0], 0, [1, 2], None, 2), Control(it.outs[0], 1, EndOfInput())]


def test_a_frame_may_start_on_the_last_credit_and_the_next_one_waits_for_more():
    it = port_of(window=8)
    out = it.outs[0]
    it.port.emit(out, list(range(7)))
    it.port.emit(out, list(range(100)))
    emitting = InThread(it.port.emit, out, ["waits"])
    assert emitting.is_blocked
    it.port.deliver(credit(out, 99))  # 8 - 107 + 99 = 0
    assert emitting.is_blocked
    it.port.deliver(credit(out, 1))
    emitting.result()
    assert it.shell.records()[-1] == "waits"


def test_an_element_waits_behind_the_records_that_have_no_credit():
    it = port_of(window=1)
    out = it.outs[0]
    it.port.emit(out, [1])
    it.port.queue(out, [2])
    ending = InThread(it.port.emit_element, out, EndOfInput())
    assert ending.is_blocked
    it.port.deliver(credit(out, 5))
    ending.result()
    assert [type(frame) for frame in it.shell.frames()] == [Data, Data, Control]


@pytest.mark.parametrize("element", [Barrier(1), EndOfInput()])
def test_a_barrier_and_the_end_of_input_need_no_credit_when_nothing_is_before_them(element):
    it = port_of(window=1)
    it.port.emit(it.outs[0], [1, 2, 3])
    it.port.emit_element(it.outs[0], element)
    assert it.shell.frames()[-1] == Control(it.outs[0], 1, element)


@pytest.mark.parametrize("element", [Watermark(1), Idle()])
def test_other_elements_wait_for_credit(element):
    it = port_of(window=1)
    it.port.emit(it.outs[0], [1])
    it.port.queue_element(it.outs[0], element)
    assert it.shell.records() == [1]
    it.port.deliver(credit(it.outs[0], 1))
    it.port.take(0)
    assert it.shell.frames()[-1] == Control(it.outs[0], 1, element)


def test_a_queued_barrier_waits_behind_its_records_and_blocks_nobody():
    it = port_of(window=1)
    first, second = it.outs
    it.port.queue(first, [1])
    it.port.queue(first, [2])
    for out in it.outs:
        it.port.queue_element(out, Barrier(1))
    assert it.shell.frames() == [Data(first, 0, [1], None, 1), Control(second, 0, Barrier(1))]
    it.port.deliver(credit(first, 1))  # the second record takes it, and the barrier needs none
    it.port.take(0)
    assert it.shell.frames()[2:] == [Data(first, 1, [2], None, 1), Control(first, 2, Barrier(1))]


def test_a_watermark_that_waits_is_replaced_by_a_newer_one_directly_behind_it():
    it = port_of(window=1)
    out = it.outs[0]
    it.port.emit(out, [1])
    for timestamp in range(100):
        it.port.queue_element(out, Watermark(timestamp))
    it.port.queue(out, [2])
    it.port.queue_element(out, Watermark(100))
    it.port.deliver(credit(out, 2))
    it.port.take(0)
    assert it.shell.frames()[1:] == [
        Control(out, 1, Watermark(99)),
        Data(out, 2, [2], None, 1),
        Control(out, 3, Watermark(100)),
    ]


def test_a_watermark_that_is_being_sent_is_not_replaced():
    it = port_of()
    out = it.outs[0]

    def send_next(target, message):
        it.shell.answer = lambda target, message: None
        it.port.queue_element(out, Watermark(2))

    it.shell.answer = send_next
    it.port.queue_element(out, Watermark(1))
    assert it.shell.frames() == [Control(out, 0, Watermark(1)), Control(out, 1, Watermark(2))]


def test_a_channel_without_credit_does_not_block_another_one():
    it = port_of(window=1)
    first, second = it.outs
    it.port.emit(first, [1])
    it.port.queue(first, [2])
    it.port.emit(second, ["free"])
    assert it.shell.records() == [1, "free"]


def test_queue_never_blocks_and_what_it_left_goes_out_while_the_subtask_waits():
    it = port_of(window=1)
    out = it.outs[0]
    for n in range(5):
        it.port.queue(out, [n])
    assert it.shell.records() == [0]
    taking = InThread(it.port.take)
    for sent in range(2, 6):
        it.port.deliver(credit(out, 1))
        it.shell.wait_for(sent)
    it.port.deliver(Commit())
    assert taking.result() == [Commit()]
    assert it.shell.records() == [0, 1, 2, 3, 4]


def consume(it, frames, seconds=0.0):
    """Let the subtask process frames of one record, each in so many seconds; return what it told its producer."""
    it.port.now = it.clock.now
    it.port.opened()
    for seq in range(frames):
        it.port.deliver(Data(it.ins[0], seq, ["record"], None, 1))
        it.port.take(1.0)
        it.clock.advance(seconds)
        it.port.consumed(it.ins[0], 1)
    return [message for message in it.shell.sent if isinstance(message, Credit)]


def test_a_consumer_that_is_quick_widens_the_window_and_returns_credit_by_its_quarter():
    credits = consume(port_of(window=1000), 400)
    assert credits[0] == Credit(credits[0].channel, 1, 1, 2)
    assert credits[-1].window > 100
    assert 100 < credits[-1].records <= 250  # a quarter of the cost
    assert 150 < sum(credit.records for credit in credits) <= 400


def test_a_consumer_that_is_slow_has_only_what_it_processes_in_half_a_second_before_it():
    it = port_of(window=1000)
    it.port.deliver(Control(it.ins[1], 0, EndOfInput()))
    assert 45 <= consume(it, 400, 0.01)[-1].window <= 50


def test_a_wait_for_messages_does_not_make_a_consumer_slow():
    it = port_of(window=1000)
    it.port.inbox.take_all = waits_a_minute(it.port.inbox.take_all, it)
    assert consume(it, 400)[-1].window > 100


def waits_a_minute(take_all, it):
    """The clock goes on by a minute while messages are taken."""

    def take(taken):
        it.clock.advance(60.0)
        return take_all(taken)

    return take


def test_records_leave_in_frames_of_a_quarter_of_the_window_with_their_tickets():
    it = port_of(window=100)
    out = it.outs[0]
    it.port.deliver(credit(out, 0, window=8))
    it.port.queue(out, [1, 2, 3, 4, 5], ["a", "b", "c", "d", "e"])
    frames = [Data(out, 0, [1, 2], ["a", "b"], 2), Data(out, 1, [3, 4], ["c", "d"], 2), Data(out, 2, [5], ["e"], 1)]
    assert it.shell.sent == frames


def test_a_window_that_shrinks_cuts_records_that_wait_already():
    it = port_of(window=100)
    out = it.outs[0]
    it.port.deliver(credit(out, 0, window=4))
    it.port.queue(out, list(range(6)))
    it.port.queue_element(out, Watermark(1))
    assert it.shell.records() == [0, 1, 2, 3]
    it.port.deliver(credit(out, 4, window=1))
    it.port.take(0)
    assert it.shell.records() == [0, 1, 2, 3, 4]
    for _ in range(2):
        it.port.deliver(credit(out, 1, window=1))
        it.port.take(0)
    assert it.shell.frames()[-2:] == [Data(out, 5, [5], None, 1), Control(out, 6, Watermark(1))]


@pytest.mark.race
def test_frames_of_many_threads_leave_in_the_order_of_their_numbers():
    it = port_of(window=50)
    out = it.outs[0]
    unpaid = threading.Semaphore(0)

    def pay():
        for _ in range(400):
            unpaid.acquire()
            it.port.deliver(credit(out, 1))

    it.shell.answer = lambda target, message: unpaid.release()
    paying = InThread(pay)
    emitting = [InThread(lambda n=n: [it.port.emit(out, [(n, i)]) for i in range(100)]) for n in range(4)]
    for thread in [*emitting, paying]:
        thread.result()
    assert [frame.seq for frame in it.shell.frames()] == list(range(400))
    for n in range(4):
        assert [i for thread, i in it.shell.records() if thread == n] == list(range(100))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 9), st.integers(-9, -1)), max_size=40))
def test_whatever_the_order_of_frames_and_credits_nothing_is_lost_or_overtaken(events):
    it = port_of(window=5)
    out, queued, available = it.outs[0], [], 5
    for event in events:
        if event > 0:
            queued.append([event] * event)
            it.port.queue(out, queued[-1])
        else:
            available -= event
            it.port.deliver(credit(out, -event))
            it.port.take(0)
            it.port.queue(it.outs[1], [])  # any sending sends what has credit by now
    frames = [frame.records for frame in it.shell.frames() if frame.channel == out]
    assert frames == queued[: len(frames)]
    sent = sum(map(len, frames))
    assert len(frames) == len(queued) or sent >= available


def test_a_frame_that_cannot_be_encoded_is_an_error_of_who_emits_it():
    it = port_of()

    def refuse(target, message):
        raise CodecError("a lock cannot be pickled")

    it.shell.answer = refuse
    with pytest.raises(CodecError):
        it.port.emit(it.outs[0], [1])


# --- the inbox --------------------------------------------------------------------------------------------


def test_messages_are_taken_in_order_all_at_once_or_a_few():
    it = port_of()
    messages = [Data(it.ins[0], n, [n]) for n in range(4)]
    for message in messages:
        it.port.deliver(message)
    assert it.port.inbox.queued == 4
    assert it.port.take_one() == messages[0]
    assert it.port.take() == messages[1:]
    assert it.port.take(0) == []


def test_a_take_that_waits_is_woken_by_a_message():
    it = port_of()
    taking = InThread(it.port.take)
    assert taking.is_blocked
    it.port.deliver(Commit())
    assert taking.result() == [Commit()]


def test_a_wake_wakes_with_nothing():
    it = port_of()
    taking = InThread(it.port.take)
    it.port.wake()
    assert taking.result() == []


def test_a_take_gives_up_after_its_time():
    it = port_of()
    assert it.port.take(0.01) == []


# --- calls ------------------------------------------------------------------------------------------------


def answering(it, *values):
    """Let the shell answer requests at once with these values, in turn."""
    left = list(values)

    def answer(target, message):
        if isinstance(message, Request):
            it.port.deliver(Reply(message.call_id, 1, (left.pop(0),)))

    it.shell.answer = answer


def call(it, value=1, timeout_s=NEVER_S, service="svc"):
    made = it.port.call(it.plan.services[service], Call(service, "process", (value,), {}), timeout_s, None)
    it.port.await_calls([made], 1, None)
    return it.port.poll(made)


def test_a_call_returns_what_is_replied():
    it = port_of()
    answering(it, "reply")
    assert call(it).value == "reply"
    (request,) = it.shell.sent
    assert (request.reply_to, request.method, request.args) == (it.subtask.address, "process", (1,))
    assert 0 < request.remaining_s <= NEVER_S


def test_a_call_sends_what_was_queued_before_it():
    it = port_of()
    it.port.queue(it.outs[0], ["before"])
    answering(it, None)
    call(it)
    assert [type(message) for message in it.shell.sent] == [Data, Request]


def test_a_short_wait_holds_back_what_was_emitted_since_a_frame_that_was_just_sent():
    it = port_of()
    it.port.now = lambda: 100.0
    it.port.activations.enter()
    it.port.before_long_wait(lambda: it.port.queue(it.outs[0], ["while it waits"]))
    it.port.emit(it.outs[0], ["before"])
    it.port.suspend_until(lambda: True)
    assert it.shell.records() == ["before"]


def test_what_is_queued_without_credit_goes_out_while_a_call_waits():
    it = port_of(window=1)
    out = it.outs[0]
    it.port.queue(out, [1])
    it.port.queue(out, [2])
    calling = InThread(call, it)
    it.shell.wait_for(2)
    it.port.deliver(credit(out, 1))
    it.shell.wait_for(3)
    assert it.shell.records() == [1, 2]
    request = next(m for m in it.shell.sent if isinstance(m, Request))
    it.port.deliver(Reply(request.call_id, 1, ("done",)))
    assert calling.result().value == "done"


def test_replies_find_their_calls_in_whatever_order_they_come():
    it = port_of()
    calling = [InThread(call, it, n) for n in range(8)]
    it.shell.wait_for(8)
    for request in reversed(list(it.shell.sent)):
        it.port.deliver(Reply(request.call_id, 1, (request.args[0] * 10,)))
    assert [thread.result().value for thread in calling] == [n * 10 for n in range(8)]


def test_replicas_are_called_in_turn_and_told_when_no_more_calls_come():
    it = port_of(replicas=3)
    targets = []
    answering(it, *range(6))
    answer = it.shell.answer
    it.shell.answer = lambda target, message: (targets.append(target), answer(target, message))
    for _ in range(6):
        call(it)
    assert sorted(targets) == sorted(it.at["svc"] * 2)
    assert set(targets[:3]) == set(it.at["svc"])
    assert set(it.port.end_requests()) == set(it.at["svc"])
    assert it.shell.sent[-3:] == [EndOfRequests(it.subtask.address)] * 3


def test_a_call_that_is_not_answered_times_out_and_its_late_reply_is_ignored():
    it = port_of()
    outcome = call(it, timeout_s=0.02)
    assert isinstance(outcome.error, ServiceTimeout)
    assert "svc.process gave no reply within 0.02 s" in str(outcome.error)
    (request,) = it.shell.sent
    it.port.deliver(Reply(request.call_id, 1, ("late",)))
    answering(it, "next")
    assert call(it).value == "next"


def test_beyond_max_pending_a_caller_waits_for_a_place():
    it = port_of(max_pending=2)
    calling = [InThread(call, it, n) for n in range(3)]
    it.shell.wait_for(2)
    time.sleep(SOON_S)
    assert len(it.shell.sent) == 2
    first = it.shell.sent[0]
    it.port.deliver(Reply(first.call_id, 1, (None,)))
    it.shell.wait_for(3)
    for request in it.shell.sent[1:]:
        it.port.deliver(Reply(request.call_id, 1, (None,)))
    for thread in calling:
        thread.result()


def test_a_caller_that_gets_no_place_in_time_is_told_so():
    it = port_of(max_pending=1)
    waiting = InThread(call, it)
    it.shell.wait_for(1)
    outcome = call(it, timeout_s=0.02)
    assert isinstance(outcome.error, ServiceOverloaded)
    assert "max_pending" in str(outcome.error)
    it.port.deliver(Reply(it.shell.sent[0].call_id, 1, (None,)))
    waiting.result()


def test_a_call_that_times_out_gives_its_place_to_who_waits_for_one():
    it = port_of(max_pending=1)
    hopeless = InThread(lambda: call(it, "first", timeout_s=0.2))
    it.shell.wait_for(1)
    second = InThread(lambda: call(it, "second", timeout_s=2.0))
    assert isinstance(hopeless.result().error, ServiceTimeout)
    with it.shell.changed:
        assert it.shell.changed.wait_for(lambda: len(it.shell.sent) == 2, 1.0), "the free place was not taken"
    it.port.deliver(Reply(it.shell.sent[1].call_id, 1, ("reply",)))
    assert second.result().value == "reply"


def test_an_argument_that_cannot_be_sent_is_the_outcome_of_its_call():
    it = port_of()

    def refuse(target, message):
        raise CodecError("a lock cannot be pickled")

    it.shell.answer = refuse
    assert isinstance(call(it).error, CodecError)


def test_shares_above_one_stop_the_subtask_and_not_who_delivers_them():
    it = port_of()
    calling = InThread(call, it)
    it.shell.wait_for(1)
    it.port.deliver(Reply(it.shell.sent[0].call_id, 2, ()))
    with pytest.raises(ProtocolError):
        calling.result()


# --- a service asks before its first call of another ------------------------------------------------------


def test_a_service_asks_the_driver_once_before_it_calls_another():
    it = port_of("svc")
    targets = []

    def answer(target, message):
        if isinstance(message, Request):
            targets.append(target)
            it.port.deliver(Reply(message.call_id, 1, (True,)))

    it.shell.answer = answer
    call(it, service="other")
    call(it, service="other")
    assert targets == [DRIVER, *it.at["other"], *it.at["other"]]
    assert (it.shell.sent[0].method, it.shell.sent[0].args) == ("open_call", ("other",))
    assert it.port.end_requests() == tuple(it.at["other"])  # the driver is no service


def test_a_refusal_of_the_driver_is_the_outcome_of_the_call():
    it = port_of("svc")
    it.shell.answer = lambda target, message: it.port.deliver(Reply(message.call_id, 1, (), "packed"))
    assert call(it, service="other").remote_error == "packed"
    assert len(it.shell.sent) == 1


def test_calls_are_numbered_one_thread_at_a_time():
    it = port_of("svc")

    class Guarded(CallTable):
        def open(self, *args, **options):
            assert it.port._lock.locked(), "two activations could get the same number"
            return super().open(*args, **options)

    it.port._calls = Guarded()
    it.shell.answer = lambda target, message: it.port.deliver(Reply(message.call_id, 1, (True,)))
    assert call(it, service="other").value is True


# --- cancel -----------------------------------------------------------------------------------------------


def emit_without_credit(it):
    it.port.emit(it.outs[0], list(range(8)))
    it.port.emit(it.outs[0], ["no credit"])


def element_without_credit(it):
    it.port.emit(it.outs[0], list(range(8)))
    it.port.emit_element(it.outs[0], Watermark(1))


def call_without_place(it):
    it.port.call(it.plan.services["svc"], Call("svc", "process", (1,), {}), NEVER_S, None)  # takes the only place
    call(it)


@pytest.mark.parametrize(
    "suspend",
    [emit_without_credit, element_without_credit, call, call_without_place, lambda it: it.port.take()],
    ids=["emit", "element", "reply", "place", "take"],
)
def test_a_cancel_unwinds_whoever_is_suspended(suspend):
    it = port_of(max_pending=1)
    suspended = InThread(suspend, it)
    assert suspended.is_blocked
    it.port.deliver(Cancel("enough"))
    with pytest.raises(JobCancelled, match="enough"):
        suspended.result()


@pytest.mark.parametrize(
    "go_on",
    [lambda it: it.port.emit(it.outs[0], [1]), call, lambda it: it.port.take(0), lambda it: it.port.take()],
    ids=["emit", "call", "take 0", "take"],
)
def test_after_a_cancel_nothing_goes_on(go_on):
    it = port_of()
    it.port.deliver(Cancel("enough"))
    with pytest.raises(JobCancelled):
        go_on(it)


def test_a_cancel_comes_before_what_waits_in_the_inbox():
    it = port_of()
    it.port.deliver(EndService(()))
    it.port.deliver(Cancel("enough"))
    with pytest.raises(JobCancelled):
        it.port.take()


def test_a_cancel_says_whether_the_job_will_start_again():
    it = port_of()
    suspended = InThread(call, it)
    it.port.deliver(Cancel("failed elsewhere", restarts=True))
    with pytest.raises(JobRestarting, match="failed elsewhere"):
        suspended.result()
    assert it.port.is_cancelled
    it = port_of()
    it.port.deliver(Cancel("enough"))
    with pytest.raises(JobCancelled) as caught:
        it.port.take()
    assert type(caught.value) is JobCancelled


def fail(it):
    it.port.activations.have_failed = True


@pytest.mark.parametrize("end", [lambda it: it.port.deliver(Cancel("enough")), fail], ids=["cancel", "failure"])
def test_what_comes_of_calls_while_their_service_unwinds_is_no_reply(end):
    it = port_of("svc")
    end(it)
    it.port.reply(it.subtask.address, Reply(1, 1, ("late",)))
    assert it.shell.sent == []
