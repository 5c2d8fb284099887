"""How windows keep the rows of a join, and how many results they make at once."""

import gc
from datetime import timedelta
from itertools import product

import pytest
from join_reference import Row, join_windows, pair, stream

from sage_flow import Aggregate, LocalEnvironment, RuntimeContext, SessionWindow, SlidingWindow, TumblingWindow
from sage_flow.runtime.chain import compile_chain
from sage_flow.runtime.firing import FIRED_RECORDS
from sage_flow.runtime.joins.windows import MOST_IN_TUPLE
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.report import Counters


def ms(number):
    return timedelta(milliseconds=number)


MANY = 3 * MOST_IN_TUPLE
WINDOWS = {
    "tumbling": (TumblingWindow(ms(100)), lambda row: [(row.time // 100 * 100, row.time // 100 * 100 + 100)]),
    "sliding": (
        SlidingWindow(ms(100), ms(50)),
        lambda row: [(s, s + 100) for s in range(-50, 200, 50) if s <= row.time < s + 100],
    ),
    "session": (SessionWindow(ms(50)), lambda row: [(0, MANY - 1 + 50)]),
}


@pytest.mark.parametrize(("kind", "how"), list(product(WINDOWS, ["inner", "left"])))
def test_a_window_join_gives_each_pair_of_a_key_with_many_rows_in_their_order(kind, how):
    lefts = [Row("a", ("left", n), n) for n in range(MANY)] + [Row("lone", n, n) for n in range(MANY)]
    rights = [Row("a", ("right", n), n) for n in range(MANY)]
    window, spans = WINDOWS[kind]
    env = LocalEnvironment("test")
    left, right = (stream(env, rows, 0, name) for name, rows in (("left", lefts), ("right", rights)))
    left.join_window(right, window, pair, how=how).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    given = [(row.start, row.end, *row.value) for row in rows]
    assert sorted(map(repr, given)) == sorted(map(repr, join_windows(lefts, rights, how, spans)))
    of_key = [both for both in given if both[2].key == "a"]
    assert of_key == sorted(of_key, key=lambda both: (both[0], both[2].time, both[3].time))


def kept_rows(records):
    """What a window keeps of records of both sides, pairs of a side and a row."""
    env = LocalEnvironment("job")
    left, right = (stream(env, [], 0, name) for name in ("left", "right"))
    left.join_window(right, TumblingWindow(ms(100)), pair, name="both").for_each(print)
    chain = next(c for c in env._graph.plan().chains if c.operators[0].name == "both")
    counters = Counters(chain.operators)
    bound = [
        BoundOperator(operator, index, RuntimeContext("job", operator.name, 0, 1, keyed=operator.keyed), counters)
        for index, operator in enumerate(chain.operators)
    ]
    sides = [
        compile_chain("both", bound, [], lambda: None, counters, side=side, keyed_input=True, timed_input=True)
        for side in (0, 1)
    ]
    for side, row in records:
        sides[side].run([("key", row, 5)])
    table, _, _ = bound[0].held.pane(5)
    return table["key"]


def test_the_garbage_collector_does_not_track_the_few_rows_of_a_key_in_a_window():
    rows = [(n % 2, (n, "text", 0.5)) for n in range(MOST_IN_TUPLE // 2)]
    gc.collect()  # it does so for the rows themselves
    kept = kept_rows(rows)
    gc.collect()
    assert list(kept) == [part for side, row in rows for part in (row, side)]
    assert not gc.is_tracked(kept)


def test_a_row_of_a_key_with_many_rows_does_not_make_their_sequence_anew():
    rows = [(0, (n,)) for n in range(MANY)]
    assert type(kept_rows(rows)) is list
    assert list(kept_rows(rows)) == [part for side, row in rows for part in (row, side)]


class Watched(Aggregate):
    """A count that notes how many results were made and not taken yet."""

    def __init__(self):
        self.ahead = self.most = 0

    def create(self):
        return 0

    def add(self, state, value):
        return state + 1

    def merge(self, left, right):
        return left + right

    def result(self, state):
        self.ahead += 1
        self.most = max(self.most, self.ahead)
        return state

    def take(self, result):
        self.ahead -= 1


@pytest.mark.parametrize("kind", ["tumbling", "sliding"])
def test_a_window_makes_few_results_before_they_go_on(kind):
    watched = Watched()
    env = LocalEnvironment("test")
    keyed = stream(env, [Row(n, n, 0) for n in range(2_000)], 0, "rows")
    keyed.window(WINDOWS[kind][0]).aggregate(watched).for_each(watched.take)
    env.execute(progress=False)
    assert watched.ahead == 0
    assert 1 < watched.most <= FIRED_RECORDS
