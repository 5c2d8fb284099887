"""`early_every=`: results of windows before their end, by the wall clock, in every mode."""

from datetime import timedelta

import pytest
from waiting_source import Wait, WaitingSource, note

from sage_flow import LocalEnvironment, SessionWindow, SlidingWindow, TumblingWindow
from sage_flow.errors import PipelineError

SECOND = timedelta(seconds=1)
EARLY = timedelta(milliseconds=20)
STEPS = [("a", 100), ("a", 200), ("b", 300), Wait(2), ("a", 400), Wait(3), ("c", 5_000), Wait(6)]
WINDOWS = [TumblingWindow(SECOND), SessionWindow(timedelta(milliseconds=600))]


def keyed(env, folder, steps=STEPS):
    timed = env.from_source(WaitingSource(folder, steps)).assign_timestamps(
        lambda record: record[1], max_out_of_order=timedelta(0)
    )
    return timed.key_by(lambda record: record[0])


def rows_of(env, folder, results):
    folder = str(folder)
    results.for_each(lambda r: note(folder, (r.key, r.start, r.value, r.firing)))
    results.collect("out")
    return [(r.key, r.start, r.value, r.firing) for r in env.execute(progress=False).collected["out"]]


@pytest.mark.parametrize("window", WINDOWS, ids=repr)
def test_keys_that_have_changed_give_the_value_so_far(mode, tmp_path, window):
    env = mode.environment()
    rows = rows_of(env, tmp_path, keyed(env, tmp_path).window(window, early_every=EARLY).count())
    last_of = {key: [row[2:] for row in rows if row[0] == key] for key in "abc"}
    # The first frame of a channel has one record, so an early result may come between the first two.
    *early, last = last_of["a"]
    values = [value for value, firing in early if firing == "early"]
    assert last == (3, "on_time")
    assert len(values) == len(early) >= 2
    assert values == sorted(set(values))
    assert values[-1] >= 2
    assert last_of["b"] == [(1, "early"), (1, "on_time")]
    assert last_of["c"] == [(1, "early"), (1, "on_time")]


def sums(windows):
    return windows.sum(lambda record: 1)


def folds(windows):
    return windows.fold(0, lambda n, record: n + 1)


@pytest.mark.parametrize("counts", [sums, folds])
def test_sliding_windows_give_early_results_of_each_window(mode, tmp_path, counts):
    env = mode.environment()
    windows = keyed(env, tmp_path, [("a", 100), Wait(2), ("a", 200), Wait(4)]).window(
        SlidingWindow(2 * SECOND, SECOND), early_every=EARLY
    )
    rows = rows_of(env, tmp_path, counts(windows))
    assert sorted(rows) == [
        *[("a", -1000, n, firing) for n, firing in ((1, "early"), (2, "early"), (2, "on_time"))],
        *[("a", 0, n, firing) for n, firing in ((1, "early"), (2, "early"), (2, "on_time"))],
    ]


def test_no_early_result_follows_the_one_on_time(mode, tmp_path):
    env = mode.environment()
    windows = keyed(env, tmp_path, [("a", 100), ("b", 3_000), Wait(2)]).window(
        TumblingWindow(SECOND), allowed_lateness=SECOND, early_every=EARLY
    )
    rows = [row[3] for row in rows_of(env, tmp_path, windows.count()) if row[0] == "a"]
    assert rows in (["on_time"], ["early", "on_time"])


def test_what_early_results_cannot_do_is_refused():
    env = LocalEnvironment("job", 1)
    with pytest.raises(PipelineError, match="early_every must be a timedelta, not 5"):
        keyed(env, ".").window(TumblingWindow(SECOND), early_every=5)
    with pytest.raises(PipelineError, match="early_every must be longer than 0"):
        keyed(env, ".").window(TumblingWindow(SECOND), early_every=timedelta(0))
    with pytest.raises(PipelineError, match="cannot give early results"):
        keyed(env, ".").window(TumblingWindow(SECOND), early_every=SECOND).process(lambda records, ctx: records)
