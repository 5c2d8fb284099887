"""`ctx.resource`: made once per process and job, kept over restarts, closed at the end of the job."""

import threading
import time

import pytest

from sage_flow import FixedDelay, LocalEnvironment, Service, Source
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.resources import Resources
from sage_flow.functions import RuntimeContext
from sage_flow.testing import SimulationExecutor


class Client:
    """Tells its story."""

    def __init__(self, story):
        self.story = story
        story.append("made")

    def reset(self):
        self.story.append("reset")

    def leave(self):
        self.story.append("closed")


STORY = []
"""Of the clients of a job in this process."""


def client(ctx):
    return ctx.resource("client", lambda: Client(STORY), close=Client.leave)


@pytest.fixture(autouse=True)
def story():
    STORY.clear()
    return STORY


def executors():
    return [None, SimulationExecutor(seed=1), SimulationExecutor(seed=2)]


@pytest.mark.parametrize("executor", executors(), ids=["threads", "simulation 1", "simulation 2"])
def test_all_subtasks_of_a_job_share_a_resource_which_is_closed_at_its_end(executor, story):
    class Answers(Service):
        def open(self, ctx):
            self.mine = client(ctx)

        def is_same(self):
            return isinstance(self.mine, Client)

    env = LocalEnvironment("shares", 3, executor=executor)
    env.register_service("answers", Answers)
    asked = env.from_collection(range(30)).map(lambda n, ctx: ctx.service("answers").is_same())
    asked.rebalance().map(lambda n, ctx: (n, id(client(ctx)))).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    assert len(set(rows)) == 1
    assert story == ["made", "closed"]


def test_two_jobs_share_nothing(story):
    for _ in range(2):
        env = LocalEnvironment("apart")
        env.from_collection([1]).map(lambda n, ctx: client(ctx) and n).collect("rows")
        env.execute(progress=False)
    assert story == ["made", "closed", "made", "closed"]


@pytest.mark.parametrize("executor", executors(), ids=["threads", "simulation 1", "simulation 2"])
def test_a_resource_is_kept_over_a_restart_and_reset_before_the_new_attempt(executor, story):
    def fail_once(n, ctx):
        client(ctx).story.append(f"attempt {ctx.attempt}")
        if ctx.attempt == 1:
            raise ValueError("once")
        return n

    env = LocalEnvironment("kept", executor=executor, restart=FixedDelay(1, 0.0))
    env.from_collection([1]).map(fail_once).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [1]
    assert story == ["made", "attempt 1", "reset", "attempt 2", "closed"]


def test_in_worker_processes_each_has_its_own_and_closes_it(tmp_path):
    path = str(tmp_path / "story")

    def note(what):
        with open(path, "a") as file:
            file.write(what + "\n")

    def use(n, ctx):
        ctx.resource("client", lambda: note("made"), close=lambda made: note("closed"))
        return n

    env = LocalEnvironment("processes", 2, executor=ProcessExecutor(2))
    env.from_collection(range(10)).rebalance().map(use).collect("rows")
    env.execute(progress=False)
    assert sorted((tmp_path / "story").read_text().split()) == ["closed", "closed", "made", "made"]


# --- errors -----------------------------------------------------------------------------------------------


def test_an_error_of_the_factory_names_the_operator_and_the_resource():
    def refuse():
        raise ConnectionError("nobody there")

    env = LocalEnvironment("fails")
    env.from_collection([1]).map(lambda n, ctx: ctx.resource("database", refuse), name="asks").collect("rows")
    with pytest.raises(ConnectionError) as caught:
        env.execute(progress=False)
    told = "\n".join(caught.value.__notes__)
    assert "the factory of resource 'database'" in told
    assert "'asks'" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((3, list), r"'asks': the name of a resource must be a text, not 3"),
        (("", list), r"'asks': the name of a resource must be a text, not ''"),
        (("a", 3), r"'asks': resource 'a' needs a function that makes it, not 3"),
    ],
)
def test_wrong_arguments_are_refused_with_the_operator(arguments, told):
    env = LocalEnvironment("wrong")
    env.from_collection([1]).map(lambda n, ctx: ctx.resource(*arguments), name="asks").collect("rows")
    with pytest.raises(PipelineError, match=told):
        env.execute(progress=False)


def test_close_must_be_a_function():
    with pytest.raises(PipelineError, match="close= of resource 'a' must be a function that takes it, not 3"):
        Resources().get("asks", "a", list, 3)


def test_a_context_without_a_job_has_no_resources():
    with pytest.raises(PipelineError, match="'step' has no resources here: it does not run in a job"):
        RuntimeContext("job", "step", 0, 1).resource("a", list)


def test_a_factory_that_asks_for_its_own_resource_is_refused():
    resources = Resources()
    with pytest.raises(PipelineError, match="'asks': the factory of resource 'a' asks for that resource itself"):
        resources.get("asks", "a", lambda: resources.get("asks", "a", list, None), None)


# --- threads ----------------------------------------------------------------------------------------------


def test_threads_that_ask_at_the_same_time_get_the_same_one():
    resources, made, got = Resources(), [], []
    begun = threading.Event()

    def factory():
        begun.wait()
        made.append(object())
        return made[-1]

    threads = [threading.Thread(target=lambda: got.append(resources.get("asks", "a", factory, None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert got == made * 8


def test_after_a_factory_has_failed_the_next_who_asks_tries_again():
    resources = Resources()
    with pytest.raises(ZeroDivisionError):
        resources.get("asks", "a", lambda: 1 // 0, None)
    assert resources.get("asks", "a", lambda: 7, None) == 7


def test_a_factory_may_ask_for_another_resource():
    resources = Resources()
    assert resources.get("asks", "a", lambda: [resources.get("asks", "b", lambda: 1, None)], None) == [1]


# --- reset and close --------------------------------------------------------------------------------------


def test_a_resource_whose_reset_fails_is_closed_and_made_anew(caplog):
    class Broken(Client):
        def reset(self):
            raise OSError("the connection is gone")

    resources = Resources()
    resources.get("asks", "a", lambda: Broken(STORY), Client.leave)
    resources.reset()
    resources.get("asks", "a", lambda: Client(STORY), Client.leave)
    assert STORY == ["made", "closed", "made"]
    assert "resource 'a' is made anew: its reset() raised OSError: the connection is gone" in caplog.text


def test_the_latest_is_closed_first_and_an_error_leaves_the_others_to_be_closed(caplog):
    closed, resources = [], Resources()
    resources.get("asks", "first", lambda: 1, closed.append)
    resources.get("asks", "broken", lambda: 0, lambda made: 1 // made)
    resources.get("asks", "last", lambda: 3, closed.append)
    resources.close(10.0)
    assert closed == [3, 1]
    assert "closing resource 'broken' failed: ZeroDivisionError" in caplog.text


def test_a_close_that_does_not_return_is_left_behind_and_named(caplog):
    resources, gate = Resources(), threading.Event()
    resources.get("asks", "stuck", object, lambda made: gate.wait())
    resources.close(0.05)
    gate.set()
    assert "these resources were not closed within 0.05 s: 'stuck'" in caplog.text


# --- threads that stay, in local mode ---------------------------------------------------------------------


class Receiving(Source):
    """Waits in a read that no cancel ends."""

    parallel = False
    blocking = True
    gate = threading.Event()

    def next_batch(self):
        while not self.gate.wait(0.01):
            pass
        return []


def test_in_local_mode_no_attempt_begins_beside_a_feeder_that_still_reads():
    def fail(n, ctx):
        time.sleep(0.05)  # the feeder is in its read
        raise ValueError("first")

    env = LocalEnvironment("beside", restart=FixedDelay(3, 0.0))
    env.from_source(Receiving()).collect("received")
    env.from_collection([1]).map(fail).collect("rows")
    with pytest.raises(ValueError, match="first") as caught:
        env.execute(progress=False)
    Receiving.gate.set()
    (note,) = [note for note in caught.value.__notes__ if note.startswith("not restarted")]
    assert "code of the failed attempt still runs in this process: feeder of source-1" in note
    assert "test_kept_resources.py" in note
    assert "next_batch" in note


def test_in_local_mode_no_attempt_begins_beside_a_thread_that_a_coroutine_has_started():
    import asyncio

    gate = threading.Event()

    def stay(n):
        while not gate.wait(0.01):
            pass
        return n

    env = LocalEnvironment("thread", restart=FixedDelay(3, 0.0))

    async def to_thread(n):
        return await asyncio.to_thread(stay, n)

    def fail(n):
        time.sleep(0.1)
        raise ValueError("first")

    env.from_collection([1]).map_async(to_thread).collect("stays")
    env.from_collection([1]).map(fail).collect("rows")
    with pytest.raises(ValueError, match="first") as caught:
        env.execute(progress=False)
    gate.set()
    assert any("still runs in this process: threads of coroutines" in note for note in caught.value.__notes__)
