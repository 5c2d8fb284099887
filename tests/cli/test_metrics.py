"""Progress on stderr: rates, lines for a pipe, and that nothing is left behind."""

import io
import sys
import threading

import pytest
from fake_job import PATIENCE_S, FakeJob, open_pipe, open_terminal, watching_threads
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.cli import metrics
from sage_flow.cli.metrics import Row, Snapshot, Speedometer, line_of, watching
from sage_flow.runtime.report import OperatorCounts

# --- rates ------------------------------------------------------------------------------------------------


def test_a_rate_is_that_of_the_last_window():
    speed = Speedometer(start_s=100.0, window_s=1.0)
    assert speed.rates(100.5, {"map": 50}) == {"map": 100.0}  # not a whole window yet
    assert speed.rates(101.0, {"map": 100}) == {"map": 100.0}
    assert speed.rates(102.0, {"map": 100}) == {"map": 0.0}  # nothing for a second
    assert speed.rates(104.0, {"map": 300}) == {"map": 100.0}  # a longer pause: the rate since the last look


def test_a_look_at_the_very_start_has_no_rate():
    assert Speedometer(start_s=5.0).rates(5.0, {"map": 10}) == {"map": 0.0}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_a_steady_stream_has_its_rate_at_every_look(pauses, window_s):
    speed, now_s, count = Speedometer(start_s=0.0, window_s=window_s), 0.0, 0
    for pause in pauses:
        now_s, count = now_s + (pause + 1) / 8, count + (pause + 1) * 4
        assert speed.rates(now_s, {"map": count}) == {"map": 32.0}


def test_what_is_remembered_does_not_grow_with_the_job():
    speed = Speedometer(start_s=0.0, window_s=1.0)
    for tick in range(10_000):
        speed.rates(tick / 4, {"map": tick})
    assert len(speed._seen) <= 6


# --- lines ------------------------------------------------------------------------------------------------


def test_a_line_leaves_out_what_has_not_begun():
    rows = (
        Row("read", OperatorCounts(10), 0.0, 0),
        Row("parse", OperatorCounts(0, skipped=3, dead_letters=1), 0.0, 0),
        Row("count", OperatorCounts(), 0.0, 7),
        Row("write", OperatorCounts(), 0.0, 0),
    )
    line = line_of(Snapshot("job", "RUNNING", 1.0, rows))
    assert line == "job RUNNING 1.0 s: read 10, parse 0 (3 skipped, 1 dead letters), count 0 (7 waiting)"


def test_a_line_of_a_job_without_records_says_so():
    assert line_of(Snapshot("job", "RUNNING", 0.04, ())) == "job RUNNING 0.0 s: no records yet"


@pytest.mark.parametrize("progress", [False, None])
def test_a_pipe_gets_nothing_unless_asked(monkeypatch, progress):
    pipe = open_pipe(monkeypatch)
    with watching(FakeJob(), progress):
        assert watching_threads() == []
    assert pipe.getvalue() == ""


def test_a_pipe_gets_a_last_line_with_the_end(monkeypatch):
    pipe = open_pipe(monkeypatch)
    job = FakeJob()
    with watching(job, True):
        job.status, job.operators = "FINISHED", {"parse": OperatorCounts(5000)}
    assert pipe.getvalue().startswith("fake FINISHED ")
    assert "parse 5,000 (" in pipe.getvalue()
    assert pipe.getvalue().count("\n") == 1


def test_a_pipe_gets_a_line_now_and_then(monkeypatch):
    pipe = open_pipe(monkeypatch)
    monkeypatch.setattr(metrics._LineScreen, "first_s", 0.0)
    monkeypatch.setattr(metrics._LineScreen, "interval_s", 0.0)
    looks = threading.Semaphore(0)

    class Watched(FakeJob):
        def metrics(self):
            looks.release()
            return super().metrics()

    with watching(Watched(), True):
        assert all(looks.acquire(timeout=PATIENCE_S) for _ in range(3))
    assert pipe.getvalue().count("fake RUNNING") >= 3


def test_what_waits_for_a_chain_is_shown_at_its_first_operator(monkeypatch):
    pipe = open_pipe(monkeypatch)
    job = FakeJob(**{"a": OperatorCounts(1), "a -> b": OperatorCounts(2), "c": OperatorCounts(3)})
    job.queued = {"a": 0, "a -> b -> c": 64}
    with watching(job, True):
        pass
    assert "64 waiting" in pipe.getvalue().split("a -> b 2")[1].split("c 3")[0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("progress", [True, None])
def test_an_error_goes_through_and_the_thread_has_ended(monkeypatch, error, progress):
    open_terminal(monkeypatch)
    with pytest.raises(error), watching(FakeJob(), progress):
        raise error if len(watching_threads()) == 1 else AssertionError("it is not watched")
    assert watching_threads() == []


def test_a_closed_stderr_does_not_disturb_the_job(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with watching(FakeJob(), True):
        pass
    assert watching_threads() == []


@pytest.mark.parametrize("progress", [True, None])
def test_without_a_stderr_nothing_is_shown(monkeypatch, progress):
    closed = io.StringIO()
    closed.close()
    for stderr in (None, closed):
        monkeypatch.setattr(sys, "stderr", stderr)
        with watching(FakeJob(), progress):
            assert watching_threads() == []
