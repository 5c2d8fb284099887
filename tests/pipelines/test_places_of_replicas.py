"""Each replica of a service has `max_pending` places for a caller."""

import threading

from sage_flow import LocalEnvironment, Service, wait


class Held(Service):
    """Answers when all that shall come have come."""

    gate = threading.Barrier(2)

    def open(self, ctx):
        self.index = ctx.subtask_index

    def meet(self, key=None):
        Held.gate.wait(30)
        return self.index

    def name(self, key=None):
        return self.index


def run(work, **options):
    env = LocalEnvironment("places")
    env.register_service("held", Held, parallelism=2, max_pending=1, timeout=60, **options)
    env.from_collection([1]).map(work).collect("rows")
    return env.execute(progress=False).collected["rows"]


def test_a_caller_has_max_pending_open_calls_of_each_replica():
    def work(_, ctx):
        meet = ctx.service("held").meet
        return sorted(future.result() for future in [meet.remote(), meet.remote()])

    assert run(work, stateless=True) == [[0, 1]]


def test_calls_go_to_the_replica_that_has_the_fewest():
    def work(_, ctx):
        held = ctx.service("held")
        busy = held.meet.remote()
        others = {held.name() for _ in range(5)}  # one is free, whichever would be next
        last = held.meet.remote()
        return others, {busy.result(), last.result()}

    ((others, both),) = run(work, stateless=True)
    assert len(others) == 1
    assert both == {0, 1}


def test_a_replica_without_a_place_holds_up_no_call_with_the_key_of_another():
    def work(_, ctx):
        held = ctx.service("held")
        keys = {held.options(key=key).name(): key for key in range(20)}
        calls = [held.options(key=keys[index]).meet.remote() for index in (0, 1)]
        wait(calls)
        return [call.result() for call in calls]

    assert run(work) == [[0, 1]]
