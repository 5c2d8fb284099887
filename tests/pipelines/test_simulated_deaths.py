"""Simulated processes die, in every order of those that tell of it: the job ends, and names the process."""

import re
from collections import Counter

import pytest

from sage_flow import FixedDelay, JobStatus, LocalEnvironment, Service
from sage_flow.errors import WorkerDied
from sage_flow.executors.simulation import ProcessDeath, SimulationExecutor
from sage_flow.runtime.membership import Membership
from sage_flow.runtime.messages import Closing, Failed, Finished, Progress

SEEDS = range(8)
GONE = {"worker": (2,), "node": (2, 3)}
MOMENTS = {"start": None, "run": Progress, "end": Closing, "commit": Finished}
LIMIT_S = 60.0 + 2.0 + 5.0  # for a process that never connects, to be killed, and for the others to end


class Echo(Service):
    def process(self, value):
        return value


def job_of(seed, *deaths, **options):
    executor = SimulationExecutor(seed, processes=3, deaths=deaths)
    env = LocalEnvironment("dying", 2, executor=executor, **options)
    env.register_service("echo", Echo)
    numbers = env.from_collection(range(60)).rebalance().map(lambda n, ctx: ctx.call_service("echo", n))
    numbers.key_by(lambda n: n % 5).count().collect("rows")
    return env.submit(), executor


@pytest.fixture
def declared(monkeypatch):
    """The processes that were declared dead."""
    found, declare = [], Membership._declare

    def noting(membership, process, how):
        found.append(process)
        return declare(membership, process, how)

    monkeypatch.setattr(Membership, "_declare", noting)
    return found


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("told_first", ["connection", "process", "nobody"])
@pytest.mark.parametrize("what", GONE)
def test_whatever_dies_whenever_and_whoever_tells_first_the_job_ends_and_names_it(what, told_first, moment, declared):
    gone = GONE[what]
    for seed in SEEDS:
        declared.clear()
        job, executor = job_of(seed, ProcessDeath(gone, MOMENTS[moment], told_first, gap_s=0.5 + 5 * seed))
        assert job.wait(60).is_final, f"seed {seed}: the job hangs"
        assert executor.clock.now() < LIMIT_S, f"seed {seed}"
        assert set(declared) <= set(gone), f"seed {seed}"
        if job.status is JobStatus.FINISHED and moment in ("end", "commit"):  # its part was done before
            assert Counter(job.result().collected["rows"]).total() == 60
            continue
        with pytest.raises(
            WorkerDied, match=r"^process [23] \(.*\) was (crashed by the simulation|killed: )"
        ) as caught:
            job.result()
        assert int(str(caught.value).split()[1]) in declared, f"seed {seed}"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("told_first", ["connection", "process", "nobody"])
@pytest.mark.parametrize("what", GONE)
def test_with_a_strategy_the_job_restarts_and_finishes_whatever_died(what, told_first, moment, declared, caplog):
    gone = GONE[what]
    for seed in SEEDS:
        declared.clear()
        caplog.clear()
        death = ProcessDeath(gone, MOMENTS[moment], told_first, gap_s=0.5 + 5 * seed)
        job, _ = job_of(seed, death, restart=FixedDelay(1, 0.1))
        assert job.wait(60) is JobStatus.FINISHED, f"seed {seed}"
        assert sorted(job.result().collected["rows"]) == [(key, n) for key in range(5) for n in range(1, 13)]
        assert set(declared) <= set(gone)
        told = [record.getMessage() for record in caplog.records if record.name == "sage_flow"]
        again = [
            line for line in told if re.search(r"(restarts|publishes its output again) in .*WorkerDied: process", line)
        ]
        assert len(again) == bool(declared), f"seed {seed}: {told}"


def test_without_a_death_nobody_is_declared_dead(declared):
    for seed in SEEDS:
        job, _ = job_of(seed)
        assert Counter(job.result().collected["rows"]).total() == 60
    assert declared == []


def test_a_death_of_which_nobody_tells_is_found_by_the_lease_and_says_so():
    job, executor = job_of(1, ProcessDeath((2,), Progress, "nobody"))
    with pytest.raises(WorkerDied, match=r"process 2 .* was killed: the driver .*\(it was silent for 10 s"):
        job.result()
    assert 12.0 <= executor.clock.now() < 20.0


def test_a_process_that_dies_unseen_before_it_connects_is_found_when_its_time_to_start_is_over():
    job, executor = job_of(1, ProcessDeath((2,), None, "nobody"))
    with pytest.raises(WorkerDied, match=r"process 2 .* was killed: the driver .*\(it did not connect within 60 s"):
        job.result()
    assert executor.clock.now() >= 62.0


def test_an_error_that_was_sent_before_the_process_died_is_the_error_of_the_job():
    for seed in SEEDS:
        executor = SimulationExecutor(seed, processes=2, deaths=[ProcessDeath((1, 2), Failed, "connection")])
        env = LocalEnvironment("dying", executor=executor)
        env.from_collection([1, 0]).map(lambda n: 1 // n).rebalance().map(abs, parallelism=2).collect("rows")
        with pytest.raises(ZeroDivisionError):
            env.execute(progress=False)


def test_a_job_that_is_cancelled_while_a_process_dies_ends():
    for seed in SEEDS:
        job, _ = job_of(seed, ProcessDeath((2,), Progress, "nobody"))
        assert job.cancel() in (JobStatus.CANCELLED, JobStatus.FAILED)
