"""How a job flows: backpressure, bounded memory, cancelling, handles."""

import itertools
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from sage_flow import JobStatus, LocalEnvironment, Sink
from sage_flow.errors import PipelineError
from sage_flow.functions import IDLE, Source
from sage_flow.testing import PAUSE, TestSource

AHEAD = 1000 + 2 * 1024  # a generator is read 1000 records ahead, and a batch may be under way on either side
WINDOW = 8192  # records on the way between two subtasks


class Tap:
    """Counts what a generator was asked for."""

    def __init__(self, limit=None):
        self.taken = 0
        self.limit = limit

    def __iter__(self):
        while self.limit is None or self.taken < self.limit:
            self.taken += 1
            yield self.taken


def settled(read):
    """The value of `read` once it has stopped changing."""
    before = None
    while (now := read()) != before:
        before = now
        threading.Event().wait(0.3)
    return now


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_a_sink_that_blocks_stops_the_source_after_a_bounded_number_of_records(hops):
    tap, gate, written = Tap(60_000), threading.Event(), []

    def write(n):
        gate.wait(60)
        written.append(n)

    env = LocalEnvironment("test")
    stream = env.from_iterable(tap)
    for _ in range(hops):
        stream = stream.rebalance().map(lambda n: n, parallelism=2).rebalance().map(lambda n: n, parallelism=1)
    stream.for_each(write)
    with env.submit() as job:
        most = AHEAD + hops * 4 * (WINDOW + 2 * 1024)
        assert settled(lambda: tap.taken) <= most
        assert job.status is JobStatus.RUNNING
        gate.set()
        assert job.wait(60) is JobStatus.FINISHED
    assert tap.taken == 60_000
    assert sorted(written) == list(range(1, 60_001))


class Counted:
    """A record that knows how many of its kind are alive."""

    alive = 0
    most = 0
    __slots__ = ("n",)

    def __init__(self, n):
        self.n = n
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


def many_outputs_of_one_record(count, spread):
    Counted.alive = Counted.most = 0
    total = 0

    def add(record):
        nonlocal total
        total += record.n

    env = LocalEnvironment("test")
    stream = env.from_collection([count]).flat_map(lambda n: map(Counted, range(n)))
    stream = stream.rebalance().map(lambda record: record, parallelism=2) if spread else stream
    stream.for_each(add, parallelism=1)
    assert env.execute().counts["flat_map-1"] == count
    assert total == count * (count - 1) // 2
    return Counted.most


@pytest.mark.parametrize(("spread", "most"), [(False, 10), (True, 4 * (WINDOW + 2 * 1024))])
def test_a_flat_map_to_a_million_keeps_few_records_alive(spread, most):
    assert many_outputs_of_one_record(200_000 if spread else 1_000_000, spread) <= most


@pytest.mark.soak
@pytest.mark.parametrize(("spread", "most"), [(False, 10), (True, 4 * (WINDOW + 2 * 1024))])
def test_a_flat_map_to_ten_million_keeps_few_records_alive(spread, most):
    assert many_outputs_of_one_record(10_000_000, spread) <= most


# --- cancelling -------------------------------------------------------------------------------------------


class Life(Sink):
    """Notes open, close, commit and abort in a file."""

    def __init__(self, path):
        self.path = str(path)

    def note(self, what):
        with open(self.path, "a") as file:
            file.write(what + "\n")

    def open(self, ctx):
        self.note("open")

    def write(self, value):
        pass

    def close(self):
        self.note("close")

    def commit(self):
        self.note("commit")

    def abort(self):
        self.note("abort")


def test_an_endless_job_ends_when_it_is_cancelled(tmp_path):
    env = LocalEnvironment("endless")
    stream = env.from_iterable(itertools.count())
    stream.rebalance().map(lambda n: n, parallelism=2).rebalance().add_sink(Life(tmp_path / "life"), parallelism=1)
    job = env.submit()
    while not job.metrics()["operators"]["map-1"].emitted:
        threading.Event().wait(0.01)
    assert job.cancel() is JobStatus.CANCELLED
    assert job.result().status is JobStatus.CANCELLED
    assert job.result().counts["map-1"] > 0
    assert (tmp_path / "life").read_text().split() == ["open", "close", "abort"]


def test_a_job_cancelled_at_once_ends_and_publishes_nothing(tmp_path):
    for number in range(30):
        env = LocalEnvironment("early")
        path = tmp_path / f"life {number}"
        env.from_iterable(itertools.count()).add_sink(Life(path))
        assert env.submit().cancel("changed my mind") is JobStatus.CANCELLED
        life = path.read_text().split() if path.exists() else []
        assert life.count("open") == life.count("close")
        assert "commit" not in life


@pytest.mark.on_ray
def test_the_end_of_its_with_block_cancels_a_job(mode):
    if mode.name.startswith("simulation"):
        pytest.skip("nothing is endless in the simulation")
    env = mode.environment()
    env.from_iterable(itertools.count).rebalance().for_each(id)
    with env.submit() as job:
        assert job.wait(0) is not JobStatus.FINISHED
    assert job.status is JobStatus.CANCELLED


def test_cancelling_unwinds_user_code_that_waits_for_a_service():
    waiting, release, unwound = threading.Event(), threading.Event(), []

    class Slow:
        def ask(self):
            waiting.set()
            release.wait(60)

    def call(n, ctx):
        try:
            ctx.service("slow").options(timeout=1000).ask()
        except BaseException as error:
            unwound.append(type(error).__name__)
            release.set()
            raise

    env = LocalEnvironment("test")
    env.register_service("slow", Slow)
    env.from_collection([1]).for_each(call)
    job = env.submit()
    waiting.wait(60)
    assert job.cancel() is JobStatus.CANCELLED
    assert unwound == ["JobCancelled"]
    assert job.result().stuck == []


def test_user_code_that_does_not_come_back_is_named_with_its_line():
    began, never = threading.Event(), threading.Event()

    def hang(n):
        began.set()
        never.wait(60)  # stuck here

    env = LocalEnvironment("test", cancel_grace_s=0.1)
    env.from_collection([1]).map(hang, name="hanging").for_each(id)
    with env.submit() as job:
        began.wait(60)
    result = job.result()
    never.set()
    assert result.status is JobStatus.CANCELLED
    (stuck,) = result.stuck
    assert "hanging" in stuck
    assert "threading.py" in stuck or "test_flow.py" in stuck


def test_a_cancel_after_the_end_changes_nothing():
    env = LocalEnvironment("test")
    env.from_collection([1]).collect("rows")
    job = env.submit()
    assert job.wait() is JobStatus.FINISHED
    assert job.cancel() is JobStatus.FINISHED
    assert job.result().collected["rows"] == [1]


# --- handles ----------------------------------------------------------------------------------------------


def test_a_handle_tells_how_far_its_job_is():
    gate = threading.Event()
    env = LocalEnvironment("handle")
    env.from_collection(range(10)).map(lambda n: gate.wait(60) and n, name="wait").collect("rows")
    job = env.submit()
    assert job.name == "handle"
    assert job.wait(0.01) in (JobStatus.CREATED, JobStatus.RUNNING)
    with pytest.raises(TimeoutError, match="'handle' is still running"):
        job.result(timeout=0.01)
    assert job.metrics()["operators"]["wait"].emitted == 0
    gate.set()
    assert job.wait() is job.status is JobStatus.FINISHED
    assert job.result().collected["rows"] == list(range(10))
    assert job.result().counts == {"collection-1": 10, "wait": 10, "collect-1": 10, "rows": 10}
    metrics = job.metrics()
    counts = {name: count.emitted for name, count in metrics["operators"].items()}
    assert counts | {"rows": 10} == job.result().counts
    assert set(metrics["queued"].values()) == {0}


def test_the_result_of_a_failed_job_is_its_error_each_time():
    env = LocalEnvironment("test")
    env.from_collection([0]).map(lambda n: 1 // n).collect()
    job = env.submit()
    assert job.wait() is JobStatus.FAILED
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            job.result()
    assert len([note for note in caught.value.__notes__ if note.startswith("operator")]) == 1


def test_a_with_block_around_a_job_that_is_over_changes_nothing():
    env = LocalEnvironment("test")
    env.from_collection([1]).collect("rows")
    with env.submit() as job:
        job.wait()
    assert job.status is JobStatus.FINISHED


def test_several_jobs_run_at_once():
    """Each waits for all the others."""
    barrier = threading.Barrier(4)
    jobs = []
    for number in range(4):
        env = LocalEnvironment(f"job {number}")
        env.from_collection([number]).map(lambda n: (barrier.wait(60), n)[1]).collect("rows")
        jobs.append(env.submit())
    assert [job.result(timeout=60).collected["rows"] for job in jobs] == [[0], [1], [2], [3]]


@pytest.mark.on_ray
def test_a_job_can_be_run_twice_from_one_environment(mode):
    env = mode.environment()
    stream = env.from_collection(range(100)).rebalance().map(lambda n: n)
    stream.key_by(lambda n: n % 3).count(emit="final").collect("rows")
    env.from_source(TestSource([1, PAUSE, 2])).collect("source")
    env.from_iterable(lambda: iter("ab")).collect("iterable")
    for _ in range(2):
        result = env.execute()
        assert sorted(result.collected["rows"]) == [(0, 34), (1, 33), (2, 33)]
        assert result.collected["source"] == [1, 2]
        assert result.collected["iterable"] == ["a", "b"]
        assert result.counts["map-1"] == 100


def test_a_generator_that_an_earlier_run_has_read_is_no_empty_source():
    env = LocalEnvironment("test")
    env.from_iterable((n for n in range(3)), name="numbers").collect("rows")
    assert env.execute().collected["rows"] == [0, 1, 2]
    with pytest.raises(PipelineError, match="a generator can be read only once") as caught:
        env.execute()
    assert "'numbers'" in caught.value.__notes__[0]


def test_two_jobs_of_one_environment_run_at_once():
    env = LocalEnvironment("test")
    env.from_source(TestSource(range(1000))).key_by(lambda n: 0).count(emit="final").collect("rows")
    jobs = [env.submit() for _ in range(3)]
    assert [job.result(timeout=60).collected["rows"] for job in jobs] == [[(0, 1000)]] * 3


FORGOTTEN = """
    import itertools, sys
    from sage_flow import LocalEnvironment, Sink

    class Tells(Sink):
        def write(self, value):
            pass
        def close(self):
            print("closed", flush=True)

    env = LocalEnvironment("forgotten")
    env.from_iterable(itertools.count).add_sink(Tells())
    if sys.argv[1] == "kept":
        job = env.submit()
        job.wait(0.2)
    elif sys.argv[1] == "dropped":
        env.submit().wait(0.2)
    else:
        with env.submit() as job:
            job.wait(0.2)
"""


@pytest.mark.parametrize("how", ["kept", "dropped", "with"])
def test_a_job_that_nobody_waits_for_is_cancelled_at_exit_with_a_warning(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(FORGOTTEN))
    done = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", str(script), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout == "closed\n"
    assert ("ResourceWarning: job 'forgotten'" in done.stderr) == (how != "with")


# --- idle sources -----------------------------------------------------------------------------------------


def test_a_source_that_is_idle_does_not_end_the_job(mode):
    env = mode.environment()
    env.from_source(TestSource([PAUSE, 1, PAUSE, PAUSE, 2, *[PAUSE] * 5])).rebalance().map(lambda n: n).collect("rows")
    assert sorted(env.execute().collected["rows"]) == [1, 2]


class NeverReady(Source):
    def next_batch(self):
        return IDLE


def test_an_idle_source_lets_the_others_flow_and_can_be_cancelled():
    arrived = threading.Event()
    env = LocalEnvironment("test")
    busy = env.from_collection(range(10))
    env.from_source(NeverReady()).union(busy).for_each(lambda n: n == 9 and arrived.set())
    with env.submit() as job:
        assert arrived.wait(60)
        assert job.status is JobStatus.RUNNING
    assert job.status is JobStatus.CANCELLED


def test_a_record_of_a_slow_generator_is_not_held_back():
    """The second record is given only when the first has arrived."""
    arrived = threading.Event()

    def slowly():
        yield 1
        assert arrived.wait(60)
        yield 2

    env = LocalEnvironment("test")
    stream = env.from_iterable(slowly).rebalance().map(lambda n: n, parallelism=2)
    stream.rebalance().map(lambda n: (arrived.set(), n)[1], parallelism=1).collect("rows")
    assert env.submit().result(timeout=60).collected["rows"] == [1, 2]
