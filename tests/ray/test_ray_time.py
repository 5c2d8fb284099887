"""Event time on Ray: windows over two subtasks in actors of their own, and rows while a job runs."""

from datetime import timedelta
from pathlib import Path

import pytest

from sage_flow import END, IDLE, ProcessFunction, RemoteEnvironment, SessionWindow, Source, TumblingWindow

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


class UntilNoted(Source):
    """Gives one record, and is idle until there is a file in the folder."""

    bounded = True

    def __init__(self, folder):
        self.folder = str(folder)
        self.is_given = False

    def next_batch(self):
        if not self.is_given:
            self.is_given = True
            return ["a"]
        return END if list(Path(self.folder).iterdir()) else IDLE


def test_early_results_come_on_ray_while_no_records_do(tmp_path):
    folder = str(tmp_path)

    def noted(result):
        if result.firing == "early":
            Path(folder, "early").touch()
        return result.value, result.firing

    env = RemoteEnvironment("early", parallelism=2)
    timed = env.from_source(UntilNoted(folder)).assign_timestamps(lambda _: 0, max_out_of_order=timedelta(0))
    window = timed.key_by(str).window(TumblingWindow(timedelta(days=1)), early_every=timedelta(milliseconds=20))
    window.count().map(noted).collect("counts")
    assert env.execute(progress=False).collected["counts"] == [(1, "early"), (1, "on_time")]


class Alarm(ProcessFunction):
    def __init__(self, folder):
        self.folder = folder

    def process(self, value, ctx):
        ctx.timers.set("alarm", after=timedelta(milliseconds=20))

    def on_timer(self, timer, ctx):
        Path(self.folder, "alarm").touch()
        yield ctx.key, timer.name, timer.at_end


def test_timers_of_the_wall_clock_fire_on_ray_while_no_records_come(tmp_path):
    env = RemoteEnvironment("alarms", parallelism=2)
    env.from_source(UntilNoted(tmp_path)).key_by(str).process(Alarm(str(tmp_path))).collect("alarms")
    assert env.execute(progress=False).collected["alarms"] == [("a", "alarm", False)]
