"""`job.rows(name)`: the rows of a sink while the job runs, each once."""

import itertools
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from sage_flow import FixedDelay, LocalEnvironment
from sage_flow.errors import PipelineError
from sage_flow.testing import PAUSE, TestSource


def test_rows_come_in_order_and_are_forgotten(mode):
    env = mode.environment(parallelism=1)
    env.from_collection(range(30_000)).map(lambda n: n * 2).collect("doubled")
    with env.submit() as job:
        assert list(job.rows("doubled")) == list(range(0, 60_000, 2))
        assert job.collected() == {"doubled": []}
        assert job.result().collected == {"doubled": []}


def test_rows_come_while_the_job_runs():
    goes_on = threading.Event()

    def wait(n):
        if n == 2:
            goes_on.wait(30)
        return n

    env = LocalEnvironment("test", parallelism=1)
    env.from_source(TestSource([1, PAUSE, 2])).map(wait).collect("rows")
    with env.submit() as job:
        rows = job.rows("rows")
        assert next(rows) == 1
        assert not job.is_over
        goes_on.set()
        assert list(rows) == [2]


def test_rows_that_are_read_do_not_count_for_the_limit():
    env = LocalEnvironment("test", parallelism=1)
    env._options = replace(env._options, collect_rows=3000)
    read = threading.Semaphore(0)

    def paced(n):
        if n % 1000 == 0:
            read.acquire(timeout=30)
        return n

    script = itertools.chain.from_iterable([*range(start, start + 1000), PAUSE] for start in range(0, 20_000, 1000))
    env.from_source(TestSource(list(script))).map(paced).collect("rows")
    found = []
    read.release()
    with env.submit() as job:
        for row in job.rows("rows"):
            found.append(row)
            if row % 1000 == 999:
                read.release()
    assert found == list(range(20_000))


def test_what_was_not_read_is_in_the_result():
    env = LocalEnvironment("test", parallelism=1)
    env.from_collection([1, 2, 3]).collect("rows")
    with env.submit() as job:
        job.wait()
        assert next(job.rows("rows")) == 1
        assert job.result().collected == {"rows": [1, 2, 3]}  # nobody has asked for what is behind the first row


def test_a_job_that_fails_raises_its_error_behind_its_last_row(mode):
    env = mode.environment(parallelism=1)
    env.from_source(TestSource([4, 2, PAUSE, 0])).map(lambda n: 4 // n).collect("rows")
    found = []
    with env.submit() as job, pytest.raises(ZeroDivisionError):
        found.extend(job.rows("rows"))
    assert found in ([1, 2], [])  # what a failed job had sent may not have arrived


def test_rows_come_again_when_the_job_starts_again(tmp_path):
    fails_once = tmp_path / "failed"

    def fail_once(n):
        if n == 3 and not fails_once.exists():
            fails_once.touch()
            raise ValueError(n)
        return n

    env = LocalEnvironment("test", parallelism=1, restart=FixedDelay(1, delay_s=0.0))
    env.from_source(TestSource([1, 2, PAUSE, 3])).map(fail_once).collect("rows")
    with env.submit() as job:
        assert list(job.rows("rows"))[-3:] == [1, 2, 3]


def test_a_name_that_no_sink_has_is_refused_with_those_there_are():
    env = LocalEnvironment("test")
    env.from_collection([1]).collect("rows")
    with env.submit() as job, pytest.raises(PipelineError, match=r"no collect sink has the name 'other'.*'rows'"):
        next(job.rows("other"))


def test_no_row_in_time_is_a_timeout():
    never = threading.Event()
    env = LocalEnvironment("test")
    env.from_collection([1]).map(lambda n: never.wait(30)).collect("rows")
    with env.submit() as job:
        with pytest.raises(TimeoutError, match=r"no row of 'rows' has come for 0\.1 s"):
            next(job.rows("rows", timeout=0.1))
        never.set()


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan"), timedelta(seconds=-1)], ids=repr)
def test_a_timeout_that_is_no_time_to_wait_is_refused(timeout):
    env = LocalEnvironment("test")
    env.from_collection([1]).collect("rows")
    with env.submit() as job, pytest.raises(PipelineError, match="must be seconds or a timedelta, at least 0"):
        next(job.rows("rows", timeout=timeout))
