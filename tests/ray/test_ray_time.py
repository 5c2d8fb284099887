"""Event time on Ray: windows over two subtasks in actors of their own, and rows while a job runs."""

from datetime import timedelta

import pytest

from sage_flow import RemoteEnvironment, SessionWindow, TumblingWindow

pytestmark = pytest.mark.usefixtures("ray_cluster")


def timed(env, count=2000):
    stream = env.from_collection(list(range(count)), name="numbers").rebalance().map(lambda n: n * 10, parallelism=2)
    return stream.assign_timestamps(lambda t: t, max_out_of_order=timedelta(seconds=20))


def test_windows_are_the_same_as_in_one_process():
    env = RemoteEnvironment("windows", parallelism=2)
    keyed = timed(env).key_by(lambda t: t // 10 % 3)
    counts = keyed.window(TumblingWindow(timedelta(seconds=5))).count()
    counts.collect("counts")
    counts.late_records().collect("late")
    keyed.window(SessionWindow(timedelta(seconds=1))).count().collect("sessions")
    result = env.execute(progress=False)
    assert result.collected["late"] == []
    found = sorted((row.start, row.key, row.value) for row in result.collected["counts"])
    expected = {}
    for n in range(2000):
        window = n * 10 // 5000 * 5000, n % 3
        expected[window] = expected.get(window, 0) + 1
    assert found == sorted((*window, count) for window, count in expected.items())
    assert sorted((row.key, row.value) for row in result.collected["sessions"]) == [(0, 667), (1, 667), (2, 666)]


def test_rows_of_a_job_on_ray_are_each_given_once():
    env = RemoteEnvironment("rows", parallelism=2)
    env.from_collection(list(range(5000))).rebalance().map(lambda n: n).collect("rows")
    with env.submit() as job:
        assert sorted(job.rows("rows", timeout=60)) == list(range(5000))
        assert job.result().collected == {"rows": []}
