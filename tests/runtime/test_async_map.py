"""Records whose function has not ended, driven by hand."""

from datetime import timedelta
from fractions import Fraction

import pytest
from fake_port import EndOfInput, FakePort, Ticket, bench

from sage_flow import PipelineService, TumblingWindow
from sage_flow.runtime.messages import Request
from sage_flow.runtime.subtask import GoOn


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """Every task that a test starts; what it leaves is dropped."""
    tasks, start = [], FakePort.start

    def start_and_keep(*args):
        tasks.append(start(*args))
        return tasks[-1]

    monkeypatch.setattr(FakePort, "start", start_and_keep)
    yield
    for task in tasks:
        task.drop()


async def double(n):
    if n < 0:
        raise ValueError(f"no {n}")
    return 2 * n


def mapped(**options):
    """The bench of a map_async behind an edge, and the tasks it started."""

    def build(env):
        env.from_collection([]).rebalance().map_async(double, parallelism=2, name="step", **options).for_each(print)

    made = bench(build, "step")
    return made, made.port.tasks


def test_results_wait_for_those_before_them():
    made, tasks = mapped()
    made.give(made.ins[0], 1, 2, 3)
    for task in (tasks[1], tasks[2]):
        task.finish()
    made.run()
    assert made.port.records() == []
    tasks[0].finish()
    made.run()
    assert made.port.records() == [2, 4, 6]


def test_results_leave_as_they_come_if_their_order_does_not_count():
    made, tasks = mapped(ordered=False)
    made.give(made.ins[0], 1, 2, 3)
    for number in (2, 0, 1):
        tasks[number].finish()
        made.run()
    assert made.port.records() == [6, 2, 4]


def test_a_record_beyond_the_capacity_suspends_until_a_result_leaves():
    made, tasks = mapped(capacity=2)
    made.port.while_suspended = lambda: next(task for task in tasks if not task.done()).finish()
    made.give(made.ins[0], 1, 2, 3, 4)
    assert sum(not task.done() for task in tasks) == 2
    assert made.port.records() == [2, 4]


def test_the_end_of_input_waits_for_what_is_under_way():
    made, tasks = mapped()
    made.give(made.ins[0], 1, 2)
    made.port.while_suspended = lambda: next(task for task in tasks if not task.done()).finish()
    made.give(made.ins[0], EndOfInput())
    assert made.port.story() == [2, 4, EndOfInput()]
    assert made.counts()["step"] == 2


def test_an_error_names_its_own_record_and_not_the_one_that_came_last():
    made, tasks = mapped()
    made.give(made.ins[0], -1, 5)
    for task in tasks:
        task.finish()
    with pytest.raises(ValueError, match="no -1") as caught:
        made.run()
    assert "record    -1" in caught.value.__notes__


# --- in the pipeline of a service -------------------------------------------------------------------------


def body(**options):
    def build(env):
        env.register_service("svc", PipelineService(lambda r: r.map_async(double, name="step", **options)))
        env.from_collection([]).for_each(lambda n, ctx: ctx.call_service("svc", n))

    return bench(build, "svc/step")


def ask(made, call_id, value):
    made.subtask.on_message(Request(9, call_id, 5.0, "process", (value,), {}, 5.0))
    made.run()


def test_a_result_carries_what_its_record_was_worth():
    made = body()
    ask(made, 1, 10)
    assert made.port.replies == []
    made.port.tasks[0].finish()
    made.run()
    ((_, reply),) = made.port.replies
    assert (reply.share, reply.outputs) == (1, (20,))


def test_calls_are_answered_in_whatever_order_their_results_come():
    made = body(ordered=False)
    for call_id in (1, 2):
        ask(made, call_id, call_id)
    for number in (1, 0):
        made.port.tasks[number].finish()
        made.run()
    assert [(reply.call_id, reply.outputs) for _, reply in made.port.replies if reply.outputs] == [(2, (4,)), (1, (2,))]


def test_an_error_is_the_callers_and_the_next_call_is_answered():
    made = body()
    ask(made, 1, -1)
    ask(made, 2, 1)
    for task in made.port.tasks:
        task.finish()
    made.run()
    replies = [reply for _, reply in made.port.replies if reply.outputs or reply.error]
    assert [(reply.call_id, reply.outputs) for reply in replies] == [(1, ()), (2, (2,))]
    assert replies[0].error.message == "no -1"


def test_a_request_beyond_the_capacity_waits_for_a_result():
    made = body(capacity=1)
    made.port.while_suspended = lambda: made.port.tasks[0].finish()
    ask(made, 1, 1)
    assert [reply.outputs for _, reply in made.port.replies if reply.outputs] == [(2,)]


def test_a_share_that_came_over_an_edge_is_kept_as_it_is():
    def build(env):
        env.register_service(
            "svc", PipelineService(lambda r: r.rebalance().map_async(double, name="step", parallelism=2), 1)
        )
        env.from_collection([]).for_each(lambda n, ctx: ctx.call_service("svc", n))

    made = bench(build, "svc/step")
    made.give(made.ins[0], 7, tickets=[Ticket(9, 1, Fraction(1, 3), 5.0)])
    made.port.tasks[0].finish()
    made.run()
    assert [(reply.share, reply.outputs) for _, reply in made.port.replies] == [(Fraction(1, 3), (14,))]


def test_results_that_come_while_a_window_fires_do_not_let_it_fire_again(monkeypatch):
    """They move time, too: the step that moves it already must have come to its end."""
    monkeypatch.setattr("sage_flow.runtime.aligned_windows.FIRED_RECORDS", 1)

    async def later(value):
        return value

    def build(env):
        pairs = env.from_collection([]).union(env.from_collection([]))
        timed = pairs.assign_timestamps(lambda pair: pair[1], max_out_of_order=timedelta(0), name="time")
        keyed = timed.map_async(later, capacity=9).key_by(lambda pair: pair[0])
        results = keyed.window(TumblingWindow(timedelta(seconds=1))).count()
        results.map(lambda result: (result.key, result.start, result.value)).collect("out")

    made = bench(build, "time")
    for key, time in [("a", 0), ("b", 0), ("c", 0), ("d", 1_500), ("e", 1_600)]:
        made.give(made.ins[0], (key, time))
    tasks, start = made.port.tasks, made.port.start

    def start_and_finish_others(awaitable, timeout_s=None):
        for task in tasks[:4]:
            task.finish()
        return start(awaitable, timeout_s)

    made.port.start = start_and_finish_others  # so that a to d leave with f; e came at 1,500: the window may fire
    made.deliver(made.ins[0], ("f", 1_700))
    while not made.port.records():
        assert isinstance(made.subtask.advance(), GoOn)
    tasks[4].finish()
    made.run()
    for task in tasks[5:]:
        task.finish()
    for channel in made.ins:
        made.give(channel, EndOfInput())
    assert sorted(made.port.records()) == [*((key, 0, 1) for key in "abc"), *((key, 1000, 1) for key in "def")]
