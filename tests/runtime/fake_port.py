"""A port that records: drives one subtask by hand, without a thread, a clock or another subtask."""

import contextlib
from datetime import timedelta

import pytest

from sage_flow import LocalEnvironment
from sage_flow.plan import kinds
from sage_flow.runtime.calls import OpenCall, Outcome
from sage_flow.runtime.messages import Barrier, Control, Data, EndOfInput, Idle, Reply, Ticket, Watermark
from sage_flow.runtime.service_subtask import ServiceSubtask
from sage_flow.runtime.subtask import ChainSubtask, GoOn
from sage_flow.testing import VirtualClock

__all__ = ["Barrier", "Bench", "EndOfInput", "FakePort", "Idle", "Ticket", "Watermark", "bench", "plan_of"]


class FakeTask:
    """A coroutine that runs to its end, without a loop, when the test says so."""

    def __init__(self, awaitable):
        self._awaitable = awaitable
        self._outcome = None

    def drop(self):
        """A test may leave it as it is."""
        self._awaitable.close()

    def finish(self):
        """Run it, to an end that needs nothing to be awaited."""
        try:
            self._awaitable.send(None)
        except StopIteration as end:
            self._outcome = Outcome(value=end.value)
        except Exception as error:
            self._outcome = Outcome(error=error)
        else:
            raise AssertionError("it awaits something")

    def done(self):
        return self._outcome is not None

    def result(self):
        return self._outcome.get()


class FakePort:
    """Keeps what it is given. `answer(service, method, args)` is called for calls, `before_emit(frame)` for frames.

    Calls take long, unless `answers_at_once`.
    """

    def __init__(self):
        self.clock = VirtualClock()
        self.sent = []
        self.consumed_frames = []
        self.replies = []
        self.queued = []
        self.answer = lambda service, method, args: None
        self.before_emit = lambda frame: None
        self.resource = lambda asker, name, factory, close: factory()
        self.while_suspended = lambda: None
        self.queue_emitted = lambda: None
        self.answers_at_once = False
        self.woken = 0
        self.begun = []
        self.tasks = []
        self.user_lock = contextlib.nullcontext()

    def emit(self, channel, records, tickets=None):
        frame = Data(channel, len(self.on(channel)), list(records), tickets)
        self.before_emit(frame)
        self.sent.append(frame)

    def queue(self, channel, records, tickets=None):
        self.queued.append(list(records))
        self.sent.append(Data(channel, len(self.on(channel)), list(records), tickets))

    def emit_element(self, channel, element):
        self.sent.append(Control(channel, len(self.on(channel)), element))

    def queue_element(self, channel, element):
        self.emit_element(channel, element)

    def shares_objects(self, channel):
        return True

    def consumed(self, channel, cost):
        self.consumed_frames.append((channel, cost))

    def reply(self, caller, reply):
        self.replies.append((caller, reply))

    def call(self, service, call, timeout_s, group):
        label = f"{service.name}.{call.method}"
        if not self.answers_at_once:
            self.queue_emitted()
        made = OpenCall(0, service.name, service.name, label, self.now(), self.now() + timeout_s)
        made.outcome = Outcome(value=self.answer(service.name, call.method, call.args))
        return made

    def await_call(self, call, deadline=None):
        self.await_calls([call], 1, deadline)
        return self.poll(call)

    def await_calls(self, calls, count, deadline):
        assert sum(call.outcome is not None for call in calls) >= count

    def poll(self, call):
        return call.outcome

    def begin(self, request):
        self.begun.append(request)
        return True

    def in_activation(self):
        return True

    def wake(self):
        self.woken += 1

    def start(self, awaitable, timeout_s=None):
        task = FakeTask(awaitable)
        self.tasks.append(task)
        return task

    def before_long_wait(self, queue_emitted):
        self.queue_emitted = queue_emitted

    def suspend_until(self, is_ready):
        self.while_suspended()
        assert is_ready(), "suspended for ever"

    def now(self):
        return self.clock.now()

    def wall_ms(self):
        return self.clock.wall_ms()

    def on(self, channel):
        """The frames sent on a channel."""
        return [frame for frame in self.sent if frame.channel == channel]

    def records(self, channel=None):
        """The records sent, on one channel or on all."""
        frames = self.sent if channel is None else self.on(channel)
        return [record for frame in frames if isinstance(frame, Data) for record in frame.records]

    def story(self, channel=None):
        """What was sent: records as they are, elements as they are."""
        frames = self.sent if channel is None else self.on(channel)
        return [item for frame in frames for item in (frame.records if isinstance(frame, Data) else [frame.element])]

    def untimed_records(self, channel):
        """The records sent on a channel that carries timestamps, without them."""
        return [record for record, _ in self.records(channel)]

    def untimed_story(self, channel):
        """The same of a channel that carries timestamps: the records without them."""
        return [item[0] if isinstance(item, tuple) else item for item in self.story(channel)]


def plan_of(write, parallelism=1):
    """The plan of the pipeline that `write(env)` writes."""
    env = LocalEnvironment("job", parallelism)
    write(env)
    return env._graph.plan()


class Bench:
    """A subtask, its port, and hands to feed it: `ins` and `outs` are its channels, by number."""

    def __init__(self, plan, operator, index=0):
        chain = next(chain for chain in plan.chains if operator in [o.name for o in chain.operators])
        mine = next(s for s in plan.subtasks if s.chain is chain and s.index == index)
        self.plan = plan
        self.port = FakePort()
        is_service = chain.head.kind is kinds.SERVICE
        self.subtask = (ServiceSubtask if is_service else ChainSubtask)(plan, mine, self.port)
        self.subtask.open()
        self.ins = [c.id for c in plan.channels if c.consumer == mine.address]
        self.outs = [c.id for c in plan.channels if c.producer == mine.address]
        self._next = dict.fromkeys(self.ins, 0)

    def deliver(self, channel, *items, tickets=None, cost=None):
        """Deliver, without processing: a control element, or records as one frame."""
        seq = self._next[channel]
        self._next[channel] += 1
        if len(items) == 1 and isinstance(items[0], (Barrier, EndOfInput, Idle, Watermark)):
            self.subtask.on_message(Control(channel, seq, items[0]))
        else:
            edge = next(c.edge for c in self.plan.channels if c.id == channel)
            records = [(item, 0) for item in items] if edge.timed else list(items)
            self.subtask.on_message(Data(channel, seq, records, tickets, len(items) if cost is None else cost))

    def run(self):
        """Go on until there is nothing to do; return the last step."""
        while isinstance(step := self.subtask.advance(), GoOn):
            pass
        return step

    def give(self, channel, *items, **options):
        """Deliver and process."""
        self.deliver(channel, *items, **options)
        return self.run()

    def counts(self):
        return {name: counts.emitted for name, counts in self.subtask.report().operators.items()}


def bench(write, operator, parallelism=1, index=0):
    """Put the subtask that runs `operator`, in the pipeline that `write(env)` writes, on a bench."""
    return Bench(plan_of(write, parallelism), operator, index)


def shares(port, call_id):
    """The sum of the shares of a call that were replied."""
    return sum(reply.share for _, reply in port.replies if isinstance(reply, Reply) and reply.call_id == call_id)


@pytest.fixture(name="made")
def two_inputs_two_readers():
    """Two inputs, and two readers, which are not fused and get everything."""

    def build(env):
        step = env.from_collection([]).union(env.from_collection([])).map(lambda n: n, name="step")
        step.for_each(print)
        step.for_each(print)

    return bench(build, "step")


@pytest.fixture(name="made")
def two_timed_inputs():
    """The same, where all use the timestamps of the records."""

    def timed(env):
        return env.from_collection([]).assign_timestamps(int, max_out_of_order=timedelta(0))

    def build(env):
        step = timed(env).union(timed(env)).map(lambda n, ctx: n, name="step")
        step.for_each(lambda n, ctx: None)
        step.for_each(lambda n, ctx: None)

    return bench(build, "step")
