"""Queues of a job: one channel for its program and all of its operators, closed when the job is over."""

import logging
import threading
from queue import Empty

import pytest
from failing_pipelines import one_process

from sage_flow import END, IDLE, LocalEnvironment, Service, Source
from sage_flow.channels import resolve_descriptor
from sage_flow.errors import ChannelConflict, PipelineError, QueueClosed
from sage_flow.executors.simulation import Deadlock
from sage_flow.functions import RuntimeContext
from sage_flow.testing import MODES, SimulationExecutor

REAL = [mode for mode in MODES if not mode.name.startswith("simulation")]
in_real_time = pytest.mark.parametrize("mode", REAL, ids=str)
WAIT_S = 60


def put(number, ctx):
    ctx.queue("numbers", 100).put(number)
    return number


class Getting(Source):
    """Gives what it gets from the queue, `count` times."""

    def __init__(self, count):
        self.left = count

    def open(self, ctx):
        self.queue = ctx.queue("numbers", 100)

    def next_batch(self):
        self.left -= 1
        return [self.queue.get(timeout=WAIT_S)] if self.left >= 0 else END


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_what_one_operator_puts_another_one_gets(mode):
    env = mode.environment()
    env.from_collection(range(30)).map(put).for_each(lambda n: None)
    env.from_source(Getting(30)).collect("got")
    assert sorted(env.execute().collected["got"]) == list(range(30))


@pytest.mark.on_ray
def test_what_the_program_has_put_before_the_start_the_operators_get(mode):
    env = mode.environment()
    numbers = env.queue("numbers", maxsize=100)
    numbers.put_many(range(10))
    env.from_source(Getting(10)).collect("got")
    assert sorted(env.execute().collected["got"]) == list(range(10))
    with pytest.raises(QueueClosed):
        numbers.qsize()


@in_real_time
def test_the_program_gets_what_operators_and_services_put_while_the_job_runs(mode):
    class Putting(Service):
        def open(self, ctx):
            self.queue = ctx.queue("numbers", 100)

        def process(self, number):
            self.queue.put(number)

    env = mode.environment()
    env.register_service("putting", Putting)
    released = env.queue("released")
    env.from_collection(range(10)).map(lambda n, ctx: ctx.service("putting").process(n)).for_each(
        lambda n, ctx: ctx.queue("released").get(timeout=WAIT_S)
    )
    with env.submit() as job:
        numbers, got = env.queue("numbers", 100), []
        while len(got) < 10:
            got.append(numbers.get(timeout=WAIT_S))
            released.put("go on")
        job.result()
    assert sorted(got) == list(range(10))


@pytest.mark.on_ray
def test_a_descriptor_without_a_name_is_given_to_operators(mode):
    env = mode.environment()
    numbers = env.queue()
    numbers.put_many(range(5))
    env.from_collection(range(5)).map(lambda _: numbers.get(timeout=WAIT_S)).collect("got")
    assert sorted(env.execute().collected["got"]) == list(range(5))


# --- the end ------------------------------------------------------------------------------------------------


class Endless(Source):
    def next_batch(self):
        return IDLE


def finish(env):
    env.from_collection([1]).for_each(lambda n: None)
    env.execute()


def fail(env):
    env.from_collection([1]).for_each(lambda n: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        env.execute()


def cancel(env):
    env.from_source(Endless()).for_each(lambda n: None)
    job = env.submit()
    job.cancel()
    job.wait(WAIT_S)


ENDS = pytest.mark.parametrize("end", [finish, fail, cancel])


@ENDS
@pytest.mark.on_ray
def test_however_a_job_ends_who_waits_is_told_and_nobody_gets_in_later(mode, end):
    env = mode.environment()
    queue, unused = env.queue("waited for"), env.queue("unused")
    queue.put("first")
    outcomes, has_begun = [], threading.Event()
    waiting = threading.Thread(target=lambda: outcomes.append(outcome_of_getting_all(queue, has_begun)))
    waiting.start()
    assert has_begun.wait(WAIT_S)
    end(env)
    waiting.join(WAIT_S)
    assert outcomes == [(["first"], QueueClosed)]
    for late in (queue.share(), unused, resolve_descriptor(unused.to_dict())):
        with pytest.raises(QueueClosed):
            late.put(1)


def outcome_of_getting_all(queue, has_begun):
    got = []
    try:
        while True:
            got.append(queue.get(timeout=WAIT_S))
            has_begun.set()
    except Exception as error:
        return got, type(error)


@one_process
def test_what_is_left_is_counted_and_logged(mode, caplog):
    env = mode.environment()
    env.from_collection(range(3)).for_each(put)
    with caplog.at_level(logging.WARNING, "sage_flow.channels"):
        env.execute()
    assert "the 3 items in it were dropped" in caplog.text
    assert "numbers" in caplog.text


def test_a_worker_process_counts_and_logs_what_is_left_in_its_queues(capfd):
    mode = next(mode for mode in MODES if mode.name == "processes")
    env = mode.environment()
    env.from_collection(range(3)).for_each(put)
    env.execute()
    assert "the 3 items in it were dropped" in capfd.readouterr().err


# --- whose they are -----------------------------------------------------------------------------------------


@pytest.mark.on_ray
def test_two_jobs_of_one_name_do_not_meet(mode):
    one, other = mode.environment("same"), mode.environment("same")
    one.queue("numbers", 100).put(1)
    other.queue("numbers", 100).put(2)
    for env, number in ((one, 1), (other, 2)):
        env.from_source(Getting(1)).collect("got")
        assert env.execute().collected["got"] == [number]


def test_an_environment_that_runs_again_has_new_queues(mode):
    env = mode.environment()
    env.from_source(Getting(2)).collect("got")
    for number in (1, 2):
        env.queue("numbers", 100).put_many([number, number])
        assert env.execute().collected["got"] == [number, number]


def test_a_second_job_while_the_first_one_runs_has_queues_of_its_own():
    env = LocalEnvironment("test")
    env.from_source(Getting(1)).collect("got")
    with env.submit() as first:
        first_numbers = env.queue("numbers", 100)
        with env.submit() as second:
            env.queue("numbers", 100).put("second's")
            assert second.result().collected["got"] == ["second's"]
        first_numbers.put("first's")
        assert first.result().collected["got"] == ["first's"]


def test_all_who_name_a_queue_have_the_same_channel_from_the_beginning():
    env = LocalEnvironment("test")
    assert env.queue("a").same_channel(env.queue("a"))
    assert env.queue("a").clone("b").same_channel(env.queue("a"))
    assert not env.queue().same_channel(env.queue())
    assert env.queue("a").scope.startswith("test-")


def test_they_agree_on_its_size():
    env = LocalEnvironment("test")
    env.queue("numbers", 5).put(1)
    env.from_collection([1]).for_each(put)
    with pytest.raises(ChannelConflict):
        env.execute()


def test_outside_a_job_there_are_none():
    with pytest.raises(PipelineError, match="'step' has no queues"):
        RuntimeContext("job", "step", 0, 1).queue("numbers")


# --- in the simulation --------------------------------------------------------------------------------------


def simulated(seed):
    return LocalEnvironment("test", executor=SimulationExecutor(seed))


@pytest.mark.parametrize("seed", range(5))
def test_who_waits_at_a_queue_lets_the_others_go_on(seed):
    env = simulated(seed)
    env.from_source(Getting(20)).collect("got")
    env.from_collection(range(20)).rebalance().for_each(put)
    assert sorted(env.execute().collected["got"]) == list(range(20))


def test_a_get_that_nobody_will_answer_times_out_in_virtual_time_or_is_a_deadlock():
    env = simulated(0)
    env.from_source(Getting(1)).collect("got")
    with pytest.raises(Empty):
        env.execute()
    env = simulated(0)
    env.from_collection([1]).for_each(lambda n, ctx: ctx.queue("never").get())
    with pytest.raises(Deadlock):
        env.execute()
