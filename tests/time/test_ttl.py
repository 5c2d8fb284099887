"""What is kept for so long: `deduplicate(ttl=)` in event time and by the wall clock, `join(ttl=)` by the wall clock."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from join_reference import Row, disordered, pair, stream
from waiting_source import Wait, WaitingSource, note

from sage_flow import LocalEnvironment, RuntimeContext
from sage_flow.errors import PipelineError
from sage_flow.runtime.expiries import Expiries
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.report import Counters
from sage_flow.testing import SimulationExecutor, stream_of

ROWS = st.lists(st.builds(Row, st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 60)), max_size=12)
DRAWS = st.lists(st.integers(0, 1000), min_size=12, max_size=12)


def ms(number):
    return timedelta(milliseconds=number)


def first_in(rows, ttl):
    """The rows that pass, by the plainest loop."""
    last, kept = {}, []
    for row in rows:
        if row.key not in last or row.time > last[row.key] + ttl:
            last[row.key] = row.time
            kept.append(row)
    return kept


@given(ROWS, DRAWS, st.integers(1, 20), st.sampled_from([1, 3]), st.integers(0, 99))
def test_a_record_passes_if_none_of_its_key_has_passed_within_ttl(rows, draws, ttl, parallelism, seed):
    rows = disordered(rows, 5, draws)
    env = LocalEnvironment("test", parallelism, executor=SimulationExecutor(seed))
    keyed = stream(env, rows, 5, "rows", every_record=seed % 2 == 0)
    keyed.deduplicate(ttl=ms(ttl)).collect("kept")
    kept = env.execute(progress=False).collected["kept"]
    assert sorted(kept) == sorted(first_in(rows, ttl))


def test_each_mode_deduplicates_for_a_while(mode):
    rows = [Row(n % 5, n, n) for n in range(100)]
    env = mode.environment()
    stream(env, rows, 0, "rows").deduplicate(ttl=ms(30)).collect("kept")
    assert sorted(env.execute(progress=False).collected["kept"]) == sorted(first_in(rows, 30))


def test_each_mode_deduplicates_by_the_wall_clock(mode):
    env = mode.environment()
    numbers = env.from_collection([1, 2, 1, 2, 3]).key_by(lambda n: n)
    numbers.deduplicate(ttl=timedelta(hours=1)).collect("kept")
    assert sorted(env.execute(progress=False).collected["kept"]) == [1, 2, 3]


class Clock:
    """A wall clock that a test sets."""

    def __init__(self):
        self.ms = 1_000

    def bind(self, operator):
        context = RuntimeContext("job", operator.name, 0, 1, keyed=True)
        counters = Counters([operator])
        return BoundOperator(operator, 0, context, counters, lambda: self.ms / 1000, lambda: self.ms)


def operator_of(joined, kind):
    joined.collect("rows")
    plan = joined._graph.plan()
    return next(o for chain in plan.chains for o in chain.operators if o.kind.name == kind)


def test_keys_are_forgotten_when_their_ttl_has_passed_by_the_clock():
    clock = Clock()
    held = clock.bind(operator_of(stream_of(1).key_by(abs).deduplicate(ttl=ms(100)), "deduplicate")).held
    assert [held.passes(n % 3) for n in range(6)] == [True] * 3 + [False] * 3
    clock.ms += 100
    assert not held.passes(0)
    clock.ms += 1
    assert held.passes(0)
    clock.ms += 50
    assert held.is_urgent
    assert not list(held.due(-math.inf))
    assert list(held.table) == [0]
    assert not held.is_urgent


def test_of_an_endless_stream_only_the_keys_of_the_last_ttl_are_kept():
    bound = Clock().bind(operator_of(stream(LocalEnvironment("t"), [], 0, "s").deduplicate(ttl=ms(100)), "deduplicate"))
    for n in range(5000):
        assert bound.held.passes(n, n)
        bound.now = n
        assert not list(bound.held.due(n))
        assert len(bound.held.table) < 130


def arrival_join(how):
    numbers = stream_of(1).key_by(lambda n: n)
    clock = Clock()
    return clock, clock.bind(operator_of(numbers.join(numbers, pair, how=how, ttl=ms(100)), "join")).held


def test_rows_without_timestamps_meet_if_they_come_at_most_ttl_apart():
    clock, join = arrival_join("inner")
    assert list(join.left("a", 1)) == []
    clock.ms += 100
    assert list(join.right("a", 2)) == [(1, 2)]
    clock.ms += 1
    assert list(join.right("a", 3)) == []
    clock.ms += 200
    assert join.is_urgent
    assert list(join.due(-math.inf)) == []
    assert not join.table


def test_a_row_without_timestamp_and_partner_goes_out_when_its_ttl_has_passed():
    clock, join = arrival_join("outer")
    assert list(join.left("a", 1)) == []
    assert join.look_at == pytest.approx(1.101)
    clock.ms += 100
    assert not join.is_urgent
    clock.ms += 1
    assert join.is_urgent
    assert list(join.due(-math.inf)) == [[(1, None)]]
    assert list(join.right("a", 2)) == []
    assert list(join.due(math.inf)) == [[(None, 2)]]


def test_a_row_without_partner_goes_out_while_the_sources_are_idle(mode, tmp_path):
    folder = str(tmp_path)

    def noted(both):
        note(folder, both[0])
        return both

    env = mode.environment()
    left = env.from_source(WaitingSource(tmp_path, ["x", Wait(1), "y"])).key_by(lambda text: text)
    right = env.from_collection(["z"]).key_by(lambda text: text)
    left.join(right, pair, how="left", ttl=ms(20)).map(noted).collect("rows")
    assert sorted(env.execute(progress=False).collected["rows"]) == [("x", None), ("y", None)]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5))), st.integers(1, 50), st.integers(0, 120))
def test_expiries_give_no_key_before_its_time_and_each_within_a_bucket_after_it(added, span, now):
    expiries = Expiries(span)
    for at, key in added:
        expiries.add(at, key)
    given = set(expiries.pop(now))
    assert given <= {key for at, key in added if at < now}
    assert given >= {key for at, key in added if at < now - max(1, span // 8)}
    assert expiries.next >= now


def test_a_ttl_that_is_no_duration_is_refused():
    keyed = stream_of(1).key_by(lambda n: n)
    with pytest.raises(PipelineError, match=r"ttl must be a timedelta, not 5"):
        keyed.deduplicate(ttl=5)
    with pytest.raises(PipelineError, match="ttl must be longer than 0"):
        keyed.deduplicate(ttl=timedelta(0))
