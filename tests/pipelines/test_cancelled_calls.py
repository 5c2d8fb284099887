"""A call that waits when its job is cancelled ends as the job says, whether its caller or its service is told first."""

import asyncio
import threading

import pytest

from sage_flow import END, IDLE, FixedDelay, JobStatus, LocalEnvironment, NoRestart, PipelineService, Source
from sage_flow.errors import JobCancelled, ServiceUnavailable
from sage_flow.executors.threads import ThreadShell
from sage_flow.runtime.messages import DRIVER, Cancel, Ended, Failed, Reply

NEVER_S = 60.0


def call(n, ctx):
    return ctx.service("asked").options(timeout=NEVER_S).ask(n)


def future(n, ctx):
    return ctx.service("asked").options(timeout=NEVER_S).ask.remote(n).result()


def call_of_one_that_hides_its_end(n, ctx):
    return ctx.service("asked").options(timeout=NEVER_S).ask_and_hide_the_end(n)


def call_through_another_service(n, ctx):
    return ctx.service("asks_on").options(timeout=NEVER_S).ask(n)


def call_through_another_coroutine(n, ctx):
    return ctx.service("asks_on").options(timeout=NEVER_S).ask_awaiting(n)


def call_through_a_pipeline(n, ctx):
    return ctx.service("piped").options(timeout=NEVER_S).process(n)


WAYS = [
    call,
    future,
    call_of_one_that_hides_its_end,
    call_through_another_service,
    call_through_another_coroutine,
    call_through_a_pipeline,
]


class AsksOn:
    """A service that asks another one, and does not let its caller see what came of that."""

    def open(self, ctx):
        self.asked = ctx.service("asked").options(timeout=NEVER_S)

    def ask(self, n):
        try:
            self.asked.ask(n)
        except BaseException:
            return "swallowed by the service"

    async def ask_awaiting(self, n):
        await self.asked.ask.remote(n)


class Burst(Source):
    """One record, once the file is there."""

    def __init__(self, path):
        self._path = path
        self._is_over = False

    def next_batch(self):
        if self._is_over:
            return END
        self._is_over = self._path.exists()
        return [0] if self._is_over else IDLE


def never_answers(began):
    """The class of a service whose coroutines do not end; it touches the file `began` when it is asked."""

    class Asked:
        async def ask(self, n):
            began.touch()
            await asyncio.Event().wait()

        async def ask_and_hide_the_end(self, n):
            try:
                await self.ask(n)
            except BaseException as error:
                raise ValueError("told by the service") from error

        def fail(self):
            raise JobCancelled("no, it is not: this fails the subtask of the service")

    return Asked


def waiting_job(way, told, began, ends, restart):
    """A job in which `caller` waits for the outcome of a call, and writes it down; `ends` then fails the job."""

    def work(n, ctx):
        try:
            told.append(way(n, ctx))
        except BaseException as error:
            told.append(type(error).__name__)
            raise

    env = LocalEnvironment("test", parallelism=1, restart=restart)
    env.register_service("asked", never_answers(began), concurrency=2)
    env.register_service("asks_on", AsksOn)
    env.register_service("piped", PipelineService(lambda requests: requests.map(call)))
    env.from_collection([1]).map(work, name="caller").for_each(id)
    env.from_source(Burst(began)).for_each(ends, name="ends")
    return env


class Order:
    """Holds back the `Cancel` of the subtask of an operator until all other subtasks have ended.

    `late` are the replies of services that were sent although the job had failed.
    """

    def __init__(self, plan, last):
        (self._last,) = [s.address for s in plan.subtasks if last in [o.name for o in s.chain.operators]]
        self._others = {subtask.address for subtask in plan.subtasks} - {self._last}
        self._held = []
        self._has_failed = False
        self.late = []
        self._lock = threading.Lock()
        self._send = ThreadShell.send

    def send(self, shell, sender, target, message, on_hold=False):
        due = []
        with self._lock:
            self._has_failed = self._has_failed or isinstance(message, (Cancel, Failed))
            if self._has_failed and isinstance(message, Reply) and sender != DRIVER:
                self.late.append(message)
            if isinstance(message, Cancel) and target == self._last and self._others:
                self._held.append((shell, sender, target, message))
                return 0
            if isinstance(message, Ended):
                self._others.discard(message.subtask)
                if not self._others:
                    due, self._held = self._held, []
        for held in due:
            self._send(*held)
        return self._send(shell, sender, target, message, on_hold)


@pytest.mark.parametrize("last", ["caller", "asks_on", "piped/map-1", "asked"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("failure", "restart", "unwound"),
    [
        ("elsewhere", FixedDelay(1, delay_s=0.0), "JobRestarting"),
        ("elsewhere", NoRestart(), "JobCancelled"),
        ("in the service", FixedDelay(1, delay_s=0.0), "JobRestarting"),
    ],
    ids=["restart", "failure", "failure of the service"],
)
def test_a_call_that_waits_when_its_job_is_cancelled_ends_as_the_job_says_whoever_goes_first(
    monkeypatch, tmp_path, last, way, failure, restart, unwound
):
    def ends(n, ctx):
        if failure == "in the service":
            ctx.service("asked").fail()
        raise ZeroDivisionError

    told, began = [], tmp_path / "began"
    env = waiting_job(way, told, began, ends, restart)
    order = Order(env._graph.plan(), last)
    monkeypatch.setattr(ThreadShell, "send", lambda shell, *sent: order.send(shell, *sent))
    with env.submit() as job:
        assert job.wait(NEVER_S) is JobStatus.FAILED
    assert order.late == []
    assert told[0] == unwound
    assert set(told) == {unwound}


def test_a_call_from_outside_to_a_service_that_fails_ends_in_service_unavailable(monkeypatch, tmp_path):
    held, send = [], ThreadShell.send

    def send_failure_last(shell, sender, target, message, on_hold=False):
        if isinstance(message, Failed):
            held.append((shell, sender, target, message))
            return 0
        if isinstance(message, Ended):
            while held:
                send(*held.pop())
        return send(shell, sender, target, message, on_hold)

    monkeypatch.setattr(ThreadShell, "send", send_failure_last)
    env = LocalEnvironment("test")
    env.register_service("asked", never_answers(tmp_path / "began"), concurrency=2)
    env.from_source(Burst(tmp_path / "never")).for_each(id)
    with env.submit() as job:
        asked = job.service("asked").options(timeout=NEVER_S)
        waiting = asked.ask.remote(1)
        asked.fail.remote()
        with pytest.raises(ServiceUnavailable, match="the job failed in asked"):
            waiting.result()
