"""The life of a job: who ends when, and that it ends exactly once, whatever happens."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from fake_port import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.checkpoint.prepared import Prepared
from sage_flow.plan import kinds
from sage_flow.runtime.coordinator import AllFinished, Coordinator, JobEnded, JobStatus, Tell
from sage_flow.runtime.messages import Cancel, Commit, Drain, EndService, Finished, Publish


class Echo:
    def process(self, value):
        return value


def job_with(*services, replicas=1, parallelism=1, restarts=False):
    """A coordinator of `collection -> two sinks` and of services, and the addresses by name."""

    def write(env):
        source = env.from_collection([], name="source")
        source.for_each(print, name="left", parallelism=parallelism)
        source.for_each(print, name="right")
        for name in services:
            env.register_service(name, Echo, parallelism=replicas)

    plan = plan_of(write)
    addresses = {}
    for subtask in plan.subtasks:
        addresses.setdefault(subtask.chain.head.name, []).append(subtask.address)
    return Coordinator(plan, restarts=restarts), SimpleNamespace(**addresses), plan


def tells(decisions):
    return [(decision.address, decision.message) for decision in decisions]


def finished(address, called=(), **what):
    return Finished(address, None, tuple(called), **what)


def decided(coordinator, decisions):
    """The decisions, after the leader has recorded the end as soon as it could."""
    for decision in decisions:
        if isinstance(decision, AllFinished):
            yield from coordinator.on_decided()
        else:
            yield decision


def finish(coordinator, addresses, called=()):
    events = (coordinator.on_finished(finished(address, called)) for address in addresses)
    return [decision for event in events for decision in decided(coordinator, event)]


def end(coordinator, addresses, failure=None):
    return [decision for address in addresses for decision in coordinator.on_ended(address, failure)]


# --- the order of ends ------------------------------------------------------------------------------------


def test_all_commit_when_the_last_has_finished_and_the_job_is_over_when_the_last_has_ended():
    job, at, _ = job_with()
    assert list(job.start()) == []
    assert finish(job, at.source + at.left) == []
    assert tells(finish(job, at.right)) == [(address, Commit()) for address in at.source + at.left + at.right]
    assert end(job, at.source + at.right) == []
    assert end(job, at.left) == [JobEnded(JobStatus.FINISHED)]


def test_services_end_when_the_main_pipeline_has_finished():
    job, at, _ = job_with("svc", replicas=2)
    first, second = at.svc
    finish(job, at.source)
    assert finish(job, at.left, called=[first]) == []
    told = tells(finish(job, at.right, called=[first, second]))
    assert told == [
        (first, EndService((*at.left, *at.right))),
        (second, EndService(tuple(at.right))),
    ]


def test_a_service_that_nobody_called_ends_with_no_callers():
    job, at, _ = job_with("svc")
    told = tells(finish(job, at.source + at.left + at.right))
    assert told == [(at.svc[0], EndService(()))]


def test_services_end_callers_before_callees_and_all_replicas_of_a_caller_before_it():
    job, at, _ = job_with("outer", "inner", replicas=2)
    for replica in at.outer:
        assert job.on_open_call(replica, "inner") is None
    told = tells(finish(job, at.source + at.left + at.right))
    assert [address for address, _ in told] == at.outer
    assert finish(job, at.outer[:1], called=at.inner) == []
    told = tells(finish(job, at.outer[1:], called=at.inner[:1]))
    assert told == [(at.inner[0], EndService(tuple(at.outer))), (at.inner[1], EndService((at.outer[0],)))]
    told = tells(finish(job, at.inner))
    assert {message for _, message in told} == {Commit()}
    assert len(told) == 7


def test_a_pipeline_service_ends_at_its_head():
    def write(env):
        from sage_flow import PipelineService

        def body(requests):
            head = requests.map(str, name="head")
            return head.map(str, name="a").union(head.map(str, name="b"))

        env.register_service("svc", PipelineService(body))
        env.from_collection([], name="source").for_each(print)

    plan = plan_of(write)
    job = Coordinator(plan)
    source = next(s.address for s in plan.subtasks if s.chain.head.name == "source")
    told = tells(job.on_finished(finished(source)))
    assert told == [(plan.addresses(plan.services["svc"].chain)[0], EndService(()))]


# --- failures and cancels ---------------------------------------------------------------------------------


def test_the_first_failure_cancels_everybody_once():
    job, at, plan = job_with("svc")
    told = tells(job.on_failed(at.left[0], "first"))
    reason = f"the job failed in {plan.subtasks[at.left[0] - 1].name}"
    assert told == [(s.address, Cancel(reason)) for s in plan.subtasks]
    assert list(job.on_failed(at.right[0], "second")) == []
    assert list(job.on_cancel("too late")) == []
    assert finish(job, at.source) == []  # nobody commits, no service is told to end
    *_, last = end(job, at.source + at.left + at.right + at.svc)
    assert last == JobEnded(JobStatus.FAILED, "first")


def test_a_failure_of_an_attempt_that_another_one_follows_says_so_to_whoever_is_cancelled():
    job, at, plan = job_with(restarts=True)
    told = tells(job.on_failed(at.left[0], "first"))
    reason = f"the job failed in {plan.subtasks[at.left[0] - 1].name}"
    assert told == [(s.address, Cancel(reason, restarts=True)) for s in plan.subtasks]
    *_, last = end(job, at.source + at.left + at.right)
    assert last == JobEnded(JobStatus.FAILED, "first")  # what comes next others decide


def test_a_user_who_cancels_wants_no_other_attempt():
    job, _, plan = job_with(restarts=True)
    assert tells(job.on_cancel("stop")) == [(s.address, Cancel("stop")) for s in plan.subtasks]


def test_a_cancel_reaches_everybody_once():
    job, at, plan = job_with()
    assert tells(job.on_cancel("stop")) == [(s.address, Cancel("stop")) for s in plan.subtasks]
    assert list(job.on_cancel("again")) == []
    assert list(job.on_failed(at.left[0], "while unwinding")) == []
    *_, last = end(job, at.source + at.left + at.right)
    assert last == JobEnded(JobStatus.CANCELLED)


def test_a_cancel_during_the_commit_comes_too_late():
    job, at, _ = job_with()
    finish(job, at.source + at.left + at.right)
    assert list(job.on_cancel("stop")) == []
    *_, last = end(job, at.source + at.left + at.right)
    assert last == JobEnded(JobStatus.FINISHED)


def test_nothing_is_published_before_the_end_of_the_job_is_recorded():
    job, at, _ = job_with()
    assert list(job.on_finished(finished(at.source[0]))) == []
    handle = Prepared("left", 0, "handle")
    assert list(job.on_finished(finished(at.left[0], prepared=(handle,)))) == []
    assert list(job.on_finished(finished(at.right[0]))) == [AllFinished((handle,))]
    assert not job.is_committing
    assert tells(job.on_decided()) == [(address, Commit()) for address in at.source + at.left + at.right]
    assert job.is_committing


def test_at_least_once_sinks_publish_before_the_end_is_recorded():
    job, at, _ = job_with()
    finish(job, at.source)
    finish(job, at.left[:0])
    assert list(job.on_finished(finished(at.left[0], publishes=True))) == []
    assert tells(job.on_finished(finished(at.right[0], publishes=True))) == [
        (at.left[0], Publish()),
        (at.right[0], Publish()),
    ]
    assert list(job.on_published(at.right[0])) == []
    assert list(job.on_published(at.left[0])) == [AllFinished(())]


def test_an_at_least_once_sink_that_fails_keeps_the_job_from_publishing():
    job, at, plan = job_with()
    finish(job, at.source + at.right)
    list(job.on_finished(finished(at.left[0], publishes=True)))
    told = tells(job.on_failed(at.left[0], "refused"))
    assert [address for address, message in told if isinstance(message, Cancel)] == [s.address for s in plan.subtasks]
    assert list(job.on_published(at.left[0])) == []


def test_an_attempt_that_only_publishes_begins_with_the_commit():
    plan = job_with()[2].publishing(2, (Prepared("left", 0, "handle"),))
    job = Coordinator(plan)
    (address,) = (s.address for s in plan.subtasks)
    assert tells(job.start()) == [(address, Commit())]
    assert list(job.on_cancel("too late")) == []
    assert list(job.on_ended(address, None)) == [JobEnded(JobStatus.FINISHED)]


def test_a_cancel_before_the_end_is_recorded_reaches_those_that_have_finished():
    job, at, plan = job_with()
    for address in at.source + at.left + at.right:
        list(job.on_finished(finished(address)))  # and the leader records nothing, since somebody has cancelled
    assert tells(job.on_cancel("stop")) == [(s.address, Cancel("stop")) for s in plan.subtasks]


def test_a_commit_that_fails_fails_the_job():
    job, at, _ = job_with()
    finish(job, at.source + at.left + at.right)
    end(job, at.left, failure="disk full")
    *_, last = end(job, at.source + at.right)
    assert last == JobEnded(JobStatus.FAILED, "disk full")


def test_a_failure_behind_the_recorded_end_leaves_the_others_to_their_commit():
    job, at, _ = job_with()
    finish(job, at.source + at.left + at.right)
    end(job, at.source)
    assert list(job.on_died(at.left, "late")) == []
    assert end(job, at.right) == [JobEnded(JobStatus.FAILED, "late")]


def test_who_has_ended_is_not_cancelled_any_more():
    job, at, _ = job_with()
    list(job.on_died(at.source, "gone"))
    told = tells(job.on_cancel("late"))
    assert told == []
    job, at, _ = job_with()
    finish(job, at.source)
    told = tells(job.on_died(at.left, "gone"))
    assert [address for address, _ in told] == at.source + at.right


def test_a_dead_worker_fails_the_job_and_is_not_waited_for():
    job, at, _ = job_with()
    told = tells(job.on_died(at.source + at.left, "killed"))
    assert [address for address, _ in told] == at.right
    assert end(job, at.right) == [JobEnded(JobStatus.FAILED, "killed")]


def test_the_death_of_everybody_ends_the_job():
    job, at, _ = job_with()
    assert list(job.on_died(at.source + at.left + at.right, "power cut")) == [JobEnded(JobStatus.FAILED, "power cut")]


def test_the_death_of_a_worker_that_had_ended_is_no_news():
    job, at, _ = job_with()
    finish(job, at.source + at.left + at.right)
    end(job, at.source)
    assert list(job.on_died(at.source, "exit")) == []
    *_, last = end(job, at.left + at.right)
    assert last == JobEnded(JobStatus.FINISHED)


def test_a_subtask_that_ends_without_having_finished_is_no_success():
    job, at, _ = job_with()
    decisions = end(job, at.left)  # neither Finished nor Failed came, and nobody cancelled
    decisions += finish(job, at.source + at.right) + end(job, at.source + at.right)
    assert decisions[-1].status is JobStatus.FAILED


# --- drain ------------------------------------------------------------------------------------------------


def test_a_drain_reaches_the_sources_once():
    job, at, _ = job_with("svc")
    assert tells(job.on_drain()) == [(at.source[0], Drain())]
    assert list(job.on_drain()) == []
    told = tells(finish(job, at.source + at.left + at.right))
    assert [address for address, _ in told] == at.svc
    finish(job, at.svc)
    *_, last = end(job, at.source + at.left + at.right + at.svc)
    assert last == JobEnded(JobStatus.FINISHED)


def test_sources_that_have_ended_are_not_drained():
    job, at, _ = job_with()
    finish(job, at.source)
    assert list(job.on_drain()) == []


@pytest.mark.parametrize(
    "first", [lambda job, at: job.on_cancel("stop"), lambda job, at: job.on_failed(at.left[0], "first")]
)
def test_nothing_is_drained_that_unwinds(first):
    job, at, _ = job_with()
    assert list(first(job, at))
    assert list(job.on_drain()) == []


def test_a_drain_can_be_cancelled():
    job, at, plan = job_with()
    list(job.on_drain())
    assert tells(job.on_cancel("stop")) == [(s.address, Cancel("stop")) for s in plan.subtasks]
    *_, last = end(job, at.source + at.left + at.right)
    assert last == JobEnded(JobStatus.CANCELLED)


# --- circles of services ----------------------------------------------------------------------------------


def test_a_service_that_calls_itself_is_a_circle():
    job, at, _ = job_with("a")
    assert "a -> a would wait for itself" in str(job.on_open_call(at.a[0], "a"))


def test_the_call_that_closes_a_circle_is_refused_and_the_circle_is_named():
    job, at, _ = job_with("a", "b", "c")
    assert job.on_open_call(at.a[0], "b") is None
    assert job.on_open_call(at.b[0], "c") is None
    assert "a -> b -> c -> a" in str(job.on_open_call(at.c[0], "a")).replace("c -> a -> b -> c", "a -> b -> c -> a")
    assert job.on_open_call(at.a[0], "c") is None  # a shortcut is no circle


def test_a_refused_call_leaves_no_trace():
    job, at, _ = job_with("a", "b")
    job.on_open_call(at.a[0], "b")
    job.on_open_call(at.b[0], "a")
    told = tells(finish(job, at.source + at.left + at.right))
    assert [address for address, _ in told] == at.a


def test_the_main_pipeline_can_call_anything():
    job, at, _ = job_with("a")
    assert job.on_open_call(at.left[0], "a") is None


def test_a_long_circle_is_found():
    names = [f"s{n}" for n in range(60)]
    job, at, _ = job_with(*names)
    for name, callee in pairwise(names):
        assert job.on_open_call(getattr(at, name)[0], callee) is None
    refused = str(job.on_open_call(at.s59[0], "s0"))
    assert all(f"{name} -> " in refused for name in names)


class TooMany(Exception):
    pass


def test_the_search_for_a_circle_looks_at_shared_callees_once(monkeypatch):
    layers = [(f"a{n}", f"b{n}") for n in range(16)]
    job, at, _ = job_with("new", *(name for layer in layers for name in layer))
    for upper, lower in pairwise(layers):
        for caller in upper:
            for callee in lower:
                assert job.on_open_call(getattr(at, caller)[0], callee) is None
    looks, search = [], Coordinator._path

    def counted(self, *args):
        looks.append(args)
        if len(looks) > 1000:
            raise TooMany("32 services, looked at again and again")
        return search(self, *args)

    monkeypatch.setattr(Coordinator, "_path", counted)
    assert job.on_open_call(at.new[0], "a0") is None


# --- whatever happens -------------------------------------------------------------------------------------


class Subtasks:
    """What each subtask may do next: run, then finish or fail, then end; die at any time."""

    def __init__(self, plan):
        self.plan = plan
        self.state = {s.address: "running" for s in plan.subtasks}
        self.told = {s.address: [] for s in plan.subtasks}
        self.service = {s.address: s.chain.service for s in plan.subtasks}
        self.published = set()

    def can(self, address):
        state, told = self.state[address], [type(message) for message in self.told[address]]
        may_finish = self.service[address] is None or EndService in told
        return [
            *(["finish"] if state == "running" and may_finish else []),
            *(["fail"] if state == "running" else []),
            *(["publish"] if state == "finished" and Publish in told and address not in self.published else []),
            *(["end"] if state == "failed" or (state == "finished" and Commit in told) else []),
            *(["end badly"] if state == "finished" and Commit in told else []),
            *(["unwind"] if state in ("running", "finished") and Cancel in told and Commit not in told else []),
            *(["die"] if state != "ended" else []),
        ]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_order_of_events_ends_the_job_exactly_once(data):
    job, at, plan = job_with("a", "b", replicas=2, parallelism=2)
    model = Subtasks(plan)
    ended, failed, cancelled = [], False, False
    sources = {s.address for s in plan.subtasks if s.chain.head.kind is kinds.SOURCE}

    def obey(decisions):
        for decision in decisions:
            if isinstance(decision, JobEnded):
                ended.append(decision)
                continue
            if isinstance(decision, AllFinished):
                assert all(Publish not in map(type, model.told[a]) or a in model.published for a in model.told)
                obey(job.on_decided())
                continue
            assert isinstance(decision, Tell)
            told = model.told[decision.address]
            assert model.state[decision.address] != "ended", "nobody is told anything after its end"
            assert type(decision.message) not in map(type, told), "nobody is told anything twice"
            assert not isinstance(decision.message, Drain) or decision.address in sources
            told.append(decision.message)

    obey(job.start())
    is_lucky = data.draw(st.booleans(), label="nothing goes wrong")
    while not ended:
        moves = [(address, move) for address in model.state for move in model.can(address)]
        if is_lucky:
            moves = [move for move in moves if move[1] in ("finish", "publish", "end")]
        assert moves, "everybody waits"
        address, move = data.draw(st.sampled_from(moves))
        match move:
            case "finish":
                callees = at.a if model.service[address] is None else []
                called = data.draw(st.lists(st.sampled_from(callees), unique=True)) if callees else []
                model.state[address] = "finished"
                publishes = data.draw(st.booleans(), label="at-least-once")
                obey(job.on_finished(finished(address, called, publishes=publishes)))
            case "publish":
                model.published.add(address)
                obey(job.on_published(address))
            case "fail":
                failed = True
                model.state[address] = "failed"
                obey(job.on_failed(address, "failed"))
            case "end" | "end badly" | "unwind":
                failed |= move == "end badly"
                model.state[address] = "ended"
                obey(job.on_ended(address, "bad end" if move == "end badly" else None))
            case "die":
                failed = True
                model.state[address] = "ended"
                obey(job.on_died([address], "died"))
        if data.draw(st.integers(0, 5)) == 0:
            obey(job.on_drain())
        if not is_lucky and not cancelled and data.draw(st.integers(0, 20)) == 0:
            cancelled = True
            obey(job.on_cancel("stop"))
    assert len(ended) == 1
    assert all(state == "ended" for state in model.state.values())
    if not failed and not cancelled:
        assert ended == [JobEnded(JobStatus.FINISHED)]
    if not failed and cancelled:
        assert ended[0].status in (JobStatus.CANCELLED, JobStatus.FINISHED)
    if failed and not cancelled:
        assert ended[0].status is JobStatus.FAILED
        assert ended[0].failure is not None


@pytest.mark.parametrize("status", list(JobStatus))
def test_final_statuses_are_those_that_cannot_change(status):
    assert status.is_final == (status in ("FINISHED", "FAILED", "CANCELLED", "STOPPED"))
