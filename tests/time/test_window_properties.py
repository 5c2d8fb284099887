"""Windows against the reference, and order within the bound against sorted order."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from window_reference import Reference

from sage_flow import LocalEnvironment, SessionWindow, SlidingWindow, TumblingWindow

RECORDS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(-60, 60)), max_size=40)


def ms(number):
    return timedelta(milliseconds=number)


def run(records, window, *, bound, lateness=0, every_record=True, merges=True):
    env = LocalEnvironment("windows", parallelism=1)
    timed = env.from_collection(records).assign_timestamps(
        lambda record: record[2], max_out_of_order=ms(bound), every_record=every_record
    )
    results = timed.key_by(lambda record: record[0]).window(window, allowed_lateness=ms(lateness))
    merge = (lambda a, b: a + b) if merges else None
    lists = results.fold((), lambda so_far, record: (*so_far, record[1]), merge=merge)
    lists.collect("given")
    lists.late_records().collect("late")
    found = env.execute(progress=False).collected
    return [(r.key, r.start, r.end, tuple(sorted(r.value))) for r in found["given"]], found["late"]


def grouped(given):
    """What fires at one time is in any order."""
    return sorted(given, key=repr)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 20), st.integers(0, 15), st.integers(0, 30), st.integers(-7, 7))
def test_tumbling_windows_are_those_of_the_reference(records, size, bound, lateness, offset):
    window = TumblingWindow(ms(size), offset=ms(offset))
    expected = Reference(bound=bound, lateness=lateness, size=size, offset=offset).run(records)
    given, late = run(records, window, bound=bound, lateness=lateness)
    assert (grouped(given), late) == (grouped(expected[0]), expected[1])


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 20), st.integers(1, 20), st.integers(0, 15), st.integers(0, 30), st.booleans())
def test_sliding_windows_are_those_of_the_reference(records, size, slide, bound, lateness, merges):
    window = SlidingWindow(ms(size), ms(slide), allow_gaps=True)
    expected = Reference(bound=bound, lateness=lateness, size=size, slide=slide).run(records)
    given, late = run(records, window, bound=bound, lateness=lateness, merges=merges)
    assert (grouped(given), late) == (grouped(expected[0]), expected[1])


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 20), st.integers(0, 15), st.integers(0, 30), st.booleans())
def test_sessions_are_those_of_the_reference(records, gap, bound, lateness, merges):
    window = SessionWindow(ms(gap), touching="merge" if merges else "split")
    expected = Reference(bound=bound, lateness=lateness, gap=gap, merges_touching=merges).run(records)
    given, late = run(records, window, bound=bound, lateness=lateness)
    assert (grouped(given), late) == (grouped(expected[0]), expected[1])


WINDOWS = st.sampled_from(
    [TumblingWindow(ms(10)), SlidingWindow(ms(12), ms(4)), SlidingWindow(ms(10), ms(3)), SessionWindow(ms(5))]
)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(0, 30), WINDOWS, st.booleans(), st.randoms())
def test_any_order_within_the_bound_gives_what_the_sorted_order_gives(records, bound, window, every_record, random):
    """A record that is delayed by at most the bound is never late, whenever the watermark moves."""
    in_order = sorted(records, key=lambda record: record[2])
    delayed = sorted(in_order, key=lambda record: record[2] + random.uniform(0, bound))
    expected, _ = run(in_order, window, bound=0)
    given, late = run(delayed, window, bound=bound, every_record=every_record)
    assert (grouped(given), late) == (grouped(expected), [])
