"""Restart strategies: when a job that failed starts again, and when it does not."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import ExponentialDelay, FailureRate, FixedDelay, NoRestart
from sage_flow.errors import PipelineError
from sage_flow.restart import FailureClock, GiveUp, RestartAfter

STRATEGIES = [
    NoRestart(),
    FixedDelay(3),
    ExponentialDelay(attempts=4),
    ExponentialDelay(initial_s=0.0, max_s=0.0),
    FailureRate(2, interval_s=60.0),
]


def decisions(strategy, *times):
    history = strategy.history()
    return [history.on_failure(now) for now in times]


def delays(strategy, *times):
    return [decision.delay_s for decision in decisions(strategy, *times)]


def test_without_a_strategy_the_first_failure_is_the_end():
    assert decisions(NoRestart(), 0.0) == [GiveUp("")]


def test_a_fixed_delay_allows_so_many_restarts():
    assert decisions(FixedDelay(2, delay_s=5.0), 0, 1000, 2000) == [
        RestartAfter(5.0),
        RestartAfter(5.0),
        GiveUp("it was restarted 2 times, and no more is allowed"),
    ]


def test_an_exponential_delay_grows_to_its_limit_and_stays_there():
    assert delays(ExponentialDelay(1.0, 10.0, 3.0), 0, 2, 6, 16, 27) == [1, 3, 9, 10, 10]


def test_an_exponential_delay_begins_anew_after_a_good_time_which_the_delay_is_no_part_of():
    strategy = ExponentialDelay(1.0, 60.0, reset_after_s=100.0)
    assert delays(strategy, 0, 100.9) == [1, 2]
    assert delays(strategy, 0, 101.0) == [1, 1]
    assert delays(strategy, 0, 50, 151.9) == [1, 2, 4]
    assert delays(strategy, 0, 50, 152.0) == [1, 2, 1]


def test_an_exponential_delay_counts_the_restarts_in_a_row():
    strategy = ExponentialDelay(1.0, attempts=2, reset_after_s=100.0)
    assert decisions(strategy, 0, 10, 20)[-1] == GiveUp("it was restarted 2 times in a row without running for 100 s")
    assert delays(strategy, 0, 10, 200, 210) == [1, 2, 1, 2]


def test_a_failure_rate_counts_the_failures_of_the_last_interval():
    strategy = FailureRate(2, interval_s=10.0, delay_s=0.5)
    assert delays(strategy, 0, 9, 10, 19, 20) == [0.5] * 5
    assert decisions(strategy, 0, 9, 9.9)[-1] == GiveUp("it failed 3 times within 10 s")


def test_a_clock_that_was_set_back_ends_nothing():
    assert delays(ExponentialDelay(1.0), 1000, 0) == [1, 2]
    assert delays(FailureRate(2, interval_s=1.0), 1000, 0) == [1, 1]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@given(gaps=st.lists(st.floats(0, 5000), max_size=8), cut=st.integers(0, 8))
def test_a_history_goes_on_where_it_was_pickled(strategy, gaps, cut):
    times = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    history, expected = strategy.history(), decisions(strategy, *times)
    told = []
    for number, now in enumerate(times):
        if number == cut:
            history = pickle.loads(pickle.dumps(history))
        told.append(history.on_failure(now))
    assert told == expected


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_strategies_are_values(strategy):
    copy = pickle.loads(pickle.dumps(strategy))
    assert copy == strategy
    assert hash(copy) == hash(strategy)
    assert strategy.history() is not strategy.history()


def test_strategies_have_names():
    assert [str(strategy) for strategy in (*STRATEGIES[:3], ExponentialDelay(0.5), FailureRate(1, 60))] == [
        "no restart",
        "fixed delay (3 times, 1 s after each failure)",
        "exponential delay (4 times in a row, 1 s to 60 s, times 2)",
        "exponential delay (0.5 s to 60 s, times 2)",
        "failure rate (at most 1 in 60 s, restart 1 s after each failure)",
    ]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FixedDelay(0), "attempts of FixedDelay must be a whole number of at least 1, not 0"),
        (lambda: FixedDelay(True), "not True"),
        (lambda: FixedDelay(1.5), "not 1.5"),
        (lambda: FixedDelay(1, delay_s=-1), "delay_s of FixedDelay must be a number of seconds, 0 or more, not -1"),
        (lambda: FixedDelay(1, delay_s="1"), "not '1'"),
        (lambda: FixedDelay(1, delay_s=float("nan")), "not nan"),
        (lambda: ExponentialDelay(initial_s=None), "initial_s of ExponentialDelay"),
        (lambda: ExponentialDelay(initial_s=2, max_s=1), "max_s of ExponentialDelay is 1, less than initial_s 2"),
        (lambda: ExponentialDelay(factor=0.5), "factor of ExponentialDelay must be a number of at least 1, not 0.5"),
        (lambda: ExponentialDelay(attempts=0), "attempts of ExponentialDelay"),
        (lambda: ExponentialDelay(reset_after_s=float("inf")), "reset_after_s of ExponentialDelay"),
        (lambda: FailureRate(0, 1), "failures of FailureRate"),
        (lambda: FailureRate(1, 0), "interval_s of FailureRate must be above 0"),
        (lambda: FailureRate(1, 1, delay_s=-0.1), "delay_s of FailureRate"),
    ],
)
def test_wrong_arguments_are_refused(make, match):
    with pytest.raises(PipelineError, match=match):
        make()


# --- the clock of a history ---------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_or_forward_changes_no_decision():
    strategy = FailureRate(2, interval_s=60.0)
    for wall_steps in ([0, -86_400, 0], [0, 86_400, 172_800]):
        clock, history, found = FailureClock(), strategy.history(), []
        clock.start(500.0, 1_000_000.0)
        for second, step in enumerate(wall_steps):
            found.append(history.on_failure(clock.now(500.0 + second)))
            clock.stop(500.0 + second, 1_000_000.0 + step)
        assert found == [RestartAfter(1.0), RestartAfter(1.0), GiveUp("it failed 3 times within 60 s")]


@pytest.mark.parametrize(("wall", "expected"), [(1_030.0, 40.0), (0.0, 10.0)], ids=["later", "set back"])
def test_the_clock_of_a_history_goes_on_in_the_next_process(wall, expected):
    clock = FailureClock()
    clock.start(500.0, 990.0)
    clock.stop(510.0, 1_000.0)
    clock = pickle.loads(pickle.dumps(clock))
    clock.start(7.0, wall)  # another machine's monotonic clock
    assert clock.now(7.0) == expected
    assert clock.now(8.0) == expected + 1
