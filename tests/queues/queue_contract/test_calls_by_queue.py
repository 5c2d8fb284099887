"""Calls of services by queues: whoever holds the descriptor of the queue, however it came there, gets his answer."""

import itertools
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from call_peer import PIPELINE, Answerer, begun, call_there, serving, use_there, wrong_answers
from test_queue_waiting import until

from sage_flow import LocalEnvironment, PipelineService, ServiceClient, errors, wait
from sage_flow.executors import service_client
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.queues.call_items import Answer

FORMS = ("pickle", "dict", "JSON")
IN_ALL = 1500
"""Calls per kind: 10,000 over the seven."""


def form_of(descriptor, form):
    if form == "pickle":
        return pickle.dumps(descriptor)
    if form == "dict":
        return json.loads(json.dumps(descriptor.to_dict()))
    return descriptor.to_serializable_descriptor().to_json()


@pytest.mark.parametrize("service", [Answerer, PIPELINE], ids=["class", "pipeline"])
def test_a_client_calls_as_a_handle_does(make, service):
    requests = make()
    with serving(requests, service):
        client = ServiceClient(requests)
        assert client.process(7) == ("answer to", 7)
        assert client.process.remote("x").result(timeout_s=60) == ("answer to", "x")
        assert client.options(timeout=60.0).process(None) == ("answer to", None)
        assert repr(client) == f"ServiceClient({requests.queue_id!r})"


def test_every_call_is_answered_whatever_form_the_handle_came_in(make, kind, peers):
    """Never used, used here, used there: the schedules in which handles used to lose each other."""
    number = itertools.count()
    for used in ("never", "here", "there"):
        requests = make()
        if used == "here":
            requests.qsize()
        elif used == "there" and kind.reaches_other_processes:
            peers[0].run(use_there, kind, pickle.dumps(requests))
        with serving(requests):
            for clone in (requests.clone("a label"), requests.share(), pickle.loads(pickle.dumps(requests))):
                assert wrong_answers(kind.admit(clone), [next(number) for _ in range(3)]) == []
            if not kind.reaches_other_processes:
                continue
            for form, label, peer in itertools.product(FORMS, (None, "a label there"), peers):
                questions = [(used, form, label, next(number)) for _ in range(2)]
                assert peer.run(call_there, kind, form, form_of(requests, form), label, questions) == []


def test_ten_thousand_calls_from_everywhere_at_once_are_answered(make, kind, peers):
    requests = make()
    callers = peers if kind.reaches_other_processes else []
    share = IN_ALL // (len(callers) + 1)
    with serving(requests, concurrency=4):
        for caller, form in zip(callers, FORMS, strict=False):
            questions = [(caller.process.pid, number) for number in range(share)]
            caller.start(call_there, kind, form, form_of(requests, form), "of the caller", questions, 4)
        assert wrong_answers(requests.clone("of this process"), [("here", number) for number in range(share)], 4) == []
        for caller in callers:
            assert caller.result(300) == []
        assert requests.qsize() == 0


def test_callers_may_come_before_during_and_after_the_first_use_of_who_answers(make, kind, peers):
    requests = make()
    early = ServiceClient(requests.share().clone("early")).options(timeout=60)
    waiting = [early.process.remote(number) for number in range(20)]
    with ThreadPoolExecutor(1) as pool:
        during = pool.submit(wrong_answers, requests.clone("during"), list(range(100)), 2)
        with serving(requests):
            assert wrong_answers(requests.clone("after"), list(range(100))) == []
            assert during.result(60) == []
            done, left = wait(waiting, timeout_s=60)
    assert ([future.result() for future in done], left) == ([("answer to", number) for number in range(20)], [])


def test_a_service_pipeline_calls_by_a_clone(make):
    """The fault of the system before this one: a call from inside a service's pipeline, by a copy of the descriptor."""
    requests, outer = make(), make()

    def asks(stream):
        return stream.map(ServiceMap(requests.share().clone("inside")))

    with serving(requests), serving(outer, PipelineService(asks)):
        client = ServiceClient(outer, timeout=60)
        assert [client.process(number) for number in range(50)] == [
            ("through", ("answer to", number)) for number in range(50)
        ]


class ServiceMap:
    """A function that calls by a descriptor."""

    def __init__(self, descriptor):
        self._client = ServiceClient(descriptor, timeout=60)

    def __call__(self, question):
        return "through", self._client.process(question)


def test_many_futures_end_each_in_its_own_answer(make):
    requests = make()
    with serving(requests, PIPELINE):
        client = ServiceClient(requests, timeout=60, max_pending=50)
        futures = [client.process.remote(number) for number in range(300)]
        assert [future.result() for future in futures] == [("answer to", number) for number in range(300)]


def test_errors_are_the_callers_and_come_at_once(make):
    requests = make()
    with serving(requests):
        client = ServiceClient(requests, timeout=60)
        with pytest.raises(LookupError, match="why"):
            client.fail("why")
        with pytest.raises(errors.UnknownService, match="'proces'; did you mean 'process'"):
            client.proces(1)
        with pytest.raises(TypeError, match="positional"):
            client.process()
        assert client.process("and goes on") == ("answer to", "and goes on")


def test_a_request_that_is_filtered_out_ends_in_no_reply(make):
    requests = make()
    with serving(requests, PipelineService(lambda stream: stream.filter(lambda number: number % 2))):
        client = ServiceClient(requests, timeout=60)
        assert client.process(1) == 1
        with pytest.raises(errors.NoReply):
            client.process(2)


def test_replicas_are_chosen_by_the_key_of_the_call(make):
    requests = make()
    with serving(requests, Counter, parallelism=2):
        client = ServiceClient(requests, timeout=60)
        assert [client.options(key="a").count() for _ in range(3)] == [1, 2, 3]
        with pytest.raises(errors.ServiceError, match="replicas with a state"):
            client.count()


class Counter:
    def __init__(self):
        self._count = 0

    def count(self):
        self._count += 1
        return self._count


def test_what_does_not_pickle_is_the_error_of_its_call_alone(make):
    requests = make()
    with serving(requests, Unpicklable):
        client = ServiceClient(requests, timeout=60)
        with pytest.raises(errors.CodecError, match="arguments of"):
            client.process(threading.Lock())
        with pytest.raises(errors.CodecError):
            client.lock()
        assert client.process(1) == 1


class Unpicklable:
    def process(self, value):
        return value

    def lock(self):
        return threading.Lock()


def test_arguments_are_copies(make):
    requests = make()
    client = ServiceClient(requests, timeout=60)
    question = ["before"]
    future = client.process.remote(question)
    question.append("after")
    with serving(requests):
        assert future.result() == ("answer to", ["before"])


def test_a_request_whose_time_has_passed_in_the_queue_is_not_started(make, tmp_path):
    requests, log = make(), str(tmp_path / "log")
    late = ServiceClient(requests, timeout=0.05).begin.remote("late", 0)
    with pytest.raises(errors.ServiceTimeout):
        late.result()
    # By the clock of its host; a request that had not arrived there in time was withdrawn.
    while requests.qsize() and (requests.statistics()["oldest_s"] or 0.0) <= 0.05:
        time.sleep(0.001)
    with serving(requests, Answerer, log):
        assert ServiceClient(requests, timeout=60).begin("in time", 0) == ("answer to", "in time")
    assert begun(log) == ["in time"]


def test_a_call_that_times_out_frees_its_place(make, asleep):
    requests = make()
    with serving(requests, Sleeper, concurrency=2):
        client = ServiceClient(requests)
        stuck = client.options(timeout=0.2).sleep.remote()
        with pytest.raises(errors.ServiceTimeout):
            stuck.result()
        assert client.options(timeout=60).process(1) == 1
        Sleeper.woken.set()


class Sleeper:
    """Its jobs run in this process."""

    woken = threading.Event()

    def sleep(self):
        type(self).woken.wait(60)

    def process(self, value):
        return value


@pytest.fixture
def asleep():
    Sleeper.woken.clear()
    yield
    Sleeper.woken.set()


def test_requests_wait_for_the_next_job_when_one_has_ended(make):
    requests = make()
    client = ServiceClient(requests, timeout=60)
    with serving(requests):
        assert client.process(1) == ("answer to", 1)
    between = client.process.remote(2)
    assert not between.done()
    with serving(requests):
        assert between.result() == ("answer to", 2)


def test_several_jobs_may_serve_one_queue(make):
    requests = make()
    with serving(requests), serving(requests):
        assert wrong_answers(requests, list(range(200)), 4) == []


def test_a_door_takes_no_more_requests_than_the_service_can_work_on(make, asleep):
    requests = make()
    with serving(requests, Sleeper, concurrency=2):
        client = ServiceClient(requests, timeout=60)
        futures = [client.sleep.remote() for _ in range(2)]
        others = [client.process.remote(number) for number in range(5)]
        until(requests, held=2, depth=5)
        with serving(requests, Sleeper):
            assert [future.result() for future in others] == list(range(5))
        assert not any(future.done() for future in futures)
        Sleeper.woken.set()
        assert [future.result() for future in futures] == [None, None]


def test_what_is_no_request_is_dropped_with_a_warning(make, caplog):
    requests = make()
    requests.put({"not": "a request"})
    with serving(requests):
        assert ServiceClient(requests, timeout=60).process(1) == ("answer to", 1)
    assert "is not a request of a ServiceClient" in caplog.text


def test_the_service_may_be_in_other_processes_than_its_door(make_crossing):
    requests = make_crossing()
    with serving(requests, executor=ProcessExecutor()):
        assert wrong_answers(requests, list(range(100)), 2) == []


def by_queue(client, question):
    """Call through the queues; a plain call runs the service at once if its door is here and waits for a request."""
    return client.process.remote(question).result(timeout_s=60)


def test_a_process_has_one_queue_for_replies_per_place(make, kind):
    if kind.name == "rpc-tls":
        pytest.skip("here each descriptor has a TLS context of its own")
    one, other = make(), make()
    with serving(one), serving(other):
        by_queue(ServiceClient(one, timeout=60), 1)
        replies = service_client._replies_of[one.reply_place]
        by_queue(ServiceClient(other, timeout=60), 1)
        by_queue(ServiceClient(one.clone("label"), timeout=60), 1)
        assert service_client._replies_of[other.reply_place] is replies


def test_an_answer_that_comes_twice_is_dropped(make):
    requests = make()
    with serving(requests):
        client = ServiceClient(requests, timeout=60)
        assert by_queue(client, 1) == ("answer to", 1)
        replies = service_client._replies_of[requests.reply_place]
        replies._descriptor.put_many([Answer(1, (False, "again")).as_item(), "no answer"])
        assert [by_queue(client, number) for number in range(10)] == [("answer to", number) for number in range(10)]


def test_a_client_travels(make_crossing, crossing):
    requests = make_crossing()
    client = pickle.loads(pickle.dumps(ServiceClient(requests, timeout=60).options(retry=True)))
    assert client._retry
    if crossing.queue_type != "rpc":  # whose keys do not travel
        with serving(requests):
            assert client.process(1) == ("answer to", 1)


# --- who waits for a call in the process of who answers it --------------------------------------------------


def test_a_call_that_is_waited_for_takes_its_place_as_any_other(make, asleep):
    requests = make()
    with serving(requests, Sleeper), ThreadPoolExecutor(2) as pool:
        client = ServiceClient(requests, timeout=60)
        sleeping = pool.submit(client.sleep)
        until(requests, held=1)
        behind = pool.submit(client.process, "behind it")
        until(requests, held=1, depth=1)
        Sleeper.woken.set()
        assert (sleeping.result(60), behind.result(60)) == (None, "behind it")
        assert client.process("and so on") == "and so on"
        until(requests, held=0, depth=0)
        assert requests.statistics()["puts"] == 3


def test_who_came_before_is_not_overtaken_by_a_call_that_is_waited_for(make):
    requests = make()
    client = ServiceClient(requests, timeout=60)
    early = [client.count.remote() for _ in range(20)]
    with serving(requests, Counter):
        assert client.count() == 21
        assert [future.result() for future in early] == list(range(1, 21))


def test_a_call_that_is_waited_for_ends_with_the_job_or_goes_to_the_next(make, asleep):
    requests = make()
    with ThreadPoolExecutor(2) as pool:
        with serving(requests, Sleeper, concurrency=2) as job:
            client = ServiceClient(requests, timeout=60)
            once, again = pool.submit(client.sleep), pool.submit(client.options(retry=True).sleep)
            until(requests, held=2)
            cancelling = threading.Thread(target=job.cancel)
            cancelling.start()
            assert isinstance(once.exception(60), errors.ServiceUnavailable)
            Sleeper.woken.set()
            cancelling.join(60)
        until(requests, depth=1)
        with serving(requests, Sleeper):
            assert again.result(60) is None


# --- bad input --------------------------------------------------------------------------------------------


def test_the_queue_of_requests_is_a_descriptor():
    env = LocalEnvironment("bad")
    with pytest.raises(errors.PipelineError, match="requests of service 'a' must be a queue descriptor"):
        env.register_service("a", Answerer, requests="orders")
    with pytest.raises(errors.PipelineError, match="needs the descriptor of a queue"):
        ServiceClient("orders")


@pytest.mark.parametrize(("option", "value"), [("timeout", 0), ("timeout", "1"), ("max_pending", 0)])
def test_options_of_a_client_are_checked(kinds, option, value):
    with pytest.raises(errors.PipelineError, match=option):
        ServiceClient(kinds["python"].make(), **{option: value})


def test_retry_is_for_clients_only(kinds):
    with pytest.raises(errors.PipelineError, match="retry must be True or False"):
        ServiceClient(kinds["python"].make()).options(retry="yes")


def test_a_job_fails_if_its_queue_of_requests_cannot_be_reached(kinds):
    def nowhere():
        raise errors.ChannelNotReachable("nobody listens")

    with pytest.raises(errors.ChannelNotReachable, match="nobody listens") as raised, serving(nowhere) as job:
        job.result(60)
    assert "service 'answerer' takes requests" in "".join(raised.value.__notes__)


def test_the_simulation_takes_no_requests_from_queues(kinds):
    env = LocalEnvironment("simulated", executor=SimulationExecutor())
    env.register_service("a", Answerer, requests=kinds["python"].make())
    env.from_collection([1]).collect("out")
    with pytest.raises(errors.PipelineError, match="which the simulation cannot"):
        env.execute()
