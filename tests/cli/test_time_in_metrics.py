"""How far event time is, and what came too late, in the progress of a job and at its end."""

from datetime import timedelta

import pytest

from sage_flow import LocalEnvironment, TumblingWindow
from sage_flow.cli.inspection import job_text
from sage_flow.cli.metrics import Row, Snapshot, event_time, line_of
from sage_flow.runtime.report import OperatorCounts
from sage_flow.testing import PAUSE, TestSource

TEN_O_CLOCK = 1_714_557_600_000


def job(env, items):
    stream = env.from_source(TestSource(items)).assign_timestamps(
        lambda t: t, max_out_of_order=timedelta(0), every_record=True
    )
    return stream.key_by(lambda t: 0).window(TumblingWindow(timedelta(seconds=1))).count(name="seconds")


def test_the_line_of_a_job_tells_late_records_and_the_event_time():
    counts = OperatorCounts(4, late=2)
    row = Row("seconds", counts, rate=0.0, queued=0, event_time=event_time(TEN_O_CLOCK, TEN_O_CLOCK / 1000 + 61))
    assert line_of(Snapshot("rides", "RUNNING", 2.0, (row,))) == (
        "rides RUNNING 2.0 s: seconds 4 (2 late, at 2024-05-01 10:00:00 (1 min 1 s behind))"
    )


@pytest.mark.parametrize(
    ("watermark", "shown"),
    [(-(2**70), "no time yet"), (2**70, "the end"), (0, "1970-01-01 00:00:00"), (10**17, str(10**17))],
)
def test_a_time_that_nobody_can_compare_with_the_clock_is_shown_as_it_is(watermark, shown):
    assert event_time(watermark, 1_700_000_000.0) == shown


def test_metrics_tell_the_watermark_of_the_slowest_subtask(mode):
    if mode.name.startswith("simulation"):
        pytest.skip("the simulation is over before anybody can ask")
    env = mode.environment()
    job(env, [1000, 2500, PAUSE]).collect()
    handle = env.submit()
    handle.wait()
    assert handle.metrics()["watermarks"]["seconds"] > 10**15  # the end of time
    assert "collect-1" not in handle.metrics()["watermarks"]


def test_the_result_says_by_how_much_records_were_late(mode):
    env = mode.environment()
    job(env, [1000, 5000, 1500, 3000]).collect()
    result = env.execute(progress=False)
    assert result.late_records == {"seconds": 2}
    assert result.late_by_ms == {"seconds": 3500}


def test_a_run_from_the_command_line_says_which_bound_would_have_lost_nothing(tmp_path, capsys, monkeypatch):
    from sage_flow.cli import main

    path = tmp_path / "late.py"
    path.write_text(
        "from datetime import timedelta\n"
        "from sage_flow import TumblingWindow\n"
        "def build(env):\n"
        "    stream = env.from_collection([1000, 5000, 1500]).assign_timestamps(\n"
        "        lambda t: t, max_out_of_order=timedelta(0), every_record=True)\n"
        "    window = TumblingWindow(timedelta(seconds=1))\n"
        "    stream.key_by(lambda t: 0).window(window).count(name='seconds').for_each(lambda row: None)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["run", "late.py"]) == 0
    told = capsys.readouterr().out
    assert "late records of seconds: 1, up to 3 s 500 ms behind the watermark" in told
    assert "max_out_of_order that is longer by that" in told


def test_a_job_without_time_has_no_watermarks():
    env = LocalEnvironment("test")
    env.from_collection([1]).collect()
    handle = env.submit()
    handle.wait()
    assert handle.metrics()["watermarks"] == {}


def test_the_status_of_a_job_tells_late_records_and_event_time_where_time_is_used():
    counts = OperatorCounts(10, late=2)._asdict()
    job = {"id": "j-1", "name": "j", "status": "RUNNING", "attempt": 1, "submitted": 0.0, "ended": 0.0}
    job |= {"submission_id": "", "message": "", "subtasks": [], "operators": {"seconds": counts}}
    timed = job_text(job | {"watermarks": {"seconds": TEN_O_CLOCK}}).splitlines()[-2:]
    assert timed[0].split() == ["operator", "records", "skipped", "dead", "letters", "late", "event", "time", "(UTC)"]
    assert timed[1].split() == ["seconds", "10", "0", "0", "2", "2024-05-01", "10:00:00"]
    untimed = job_text(job | {"watermarks": {}}).splitlines()[-2:]
    assert untimed[1].split() == ["seconds", "10", "0", "0"]
