"""A table that every subtask has: `connect(table.broadcast())`, on keyed streams and on others."""

from collections import Counter
from datetime import timedelta

import pytest

from sage_flow import CoProcessFunction, LocalEnvironment, TumblingWindow
from sage_flow.errors import PipelineError
from sage_flow.testing import TestSource, collect, stream_of

RATES = [(f"c{n}", n * 10) for n in range(7)]
PRICES = [(f"c{n % 7}", n) for n in range(60)]


class Converts(CoProcessFunction):
    """Converts prices; those whose rate has not come yet wait for it."""

    def open(self, ctx):
        self.rates, self.waiting = {}, []

    def process_left(self, price, ctx):
        currency, amount = price
        if currency in self.rates:
            yield currency, amount * self.rates[currency]
        else:
            self.waiting.append(price)

    def process_right(self, rate, ctx):
        currency, factor = rate
        self.rates[currency] = factor
        for price in [price for price in self.waiting if price[0] == currency]:
            self.waiting.remove(price)
            yield currency, price[1] * factor


class Numbers(Converts):
    """The same, and each record of a key gets a number: keyed state beside a table."""

    def process_left(self, price, ctx):
        count = ctx.state.value("count", 0)
        count.set(count.get() + 1)
        yield from super().process_left(price, ctx)
        ctx.output("numbers", (ctx.key, count.get()))


EXPECTED = Counter((currency, amount * dict(RATES)[currency]) for currency, amount in PRICES)


def test_each_subtask_of_a_stream_without_keys_has_the_table(mode):
    env = mode.environment()
    prices, rates = env.from_collection(PRICES).rebalance(), env.from_collection(RATES)
    prices.connect(rates.broadcast()).process(Converts).collect("rows")
    assert Counter(env.execute(progress=False).collected["rows"]) == EXPECTED


def test_each_subtask_of_a_keyed_stream_has_the_table_and_its_keys_have_their_state(mode):
    env = mode.environment()
    prices, rates = env.from_collection(PRICES), env.from_collection(RATES)
    converted = prices.key_by(lambda price: price[0]).connect(rates.broadcast()).process(Numbers)
    converted.collect("rows")
    converted.side_output("numbers").collect("numbers")
    collected = env.execute(progress=False).collected
    assert Counter(collected["rows"]) == EXPECTED
    counts = Counter(currency for currency, _ in PRICES)
    assert Counter(collected["numbers"]) == Counter((key, n + 1) for key in counts for n in range(counts[key]))


@pytest.mark.parametrize("table_has_time", [False, True])
def test_a_table_beside_a_stream_with_timestamps_keeps_their_time(table_has_time):
    env = LocalEnvironment("test", 3)
    prices = env.from_source(TestSource(PRICES)).assign_timestamps(lambda p: p[1], max_out_of_order=timedelta(0))
    rates = env.from_collection(RATES)
    if table_has_time:
        rates = rates.assign_timestamps(lambda rate: 0, max_out_of_order=timedelta(0))

    class Passes(CoProcessFunction):
        def process_left(self, price, ctx):
            yield price

        def process_right(self, rate, ctx):
            return None

    passed = prices.key_by(lambda price: price[0]).connect(rates.broadcast()).process(Passes)
    counts = passed.key_by(lambda price: "all").window(TumblingWindow(timedelta(milliseconds=10))).count()
    counts.collect("counts")
    counts.late_records().collect("late")
    collected = env.execute(progress=False).collected
    assert collected["late"] == []
    assert {row.start: row.value for row in collected["counts"]} == dict.fromkeys(range(0, 60, 10), 10)


def test_a_record_of_the_table_has_no_key():
    class Asks(CoProcessFunction):
        def process_left(self, number, ctx):
            return [ctx.key]

        def process_right(self, number, ctx):
            return [ctx.key]

    numbers = stream_of(1)
    with pytest.raises(PipelineError, match=r"has no key here: .* nor have the records of a broadcast stream one"):
        collect(numbers.key_by(lambda n: n).connect(numbers.broadcast()).process(Asks))


def test_functions_of_both_sides_see_the_key_of_the_keyed_one_only():
    env = LocalEnvironment("test", 2)
    keyed, table = env.from_collection([1, 2]).key_by(lambda n: n % 2), env.from_collection(["x"]).broadcast()
    keyed.connect(table).map(lambda n, ctx: (ctx.key, n), lambda text, ctx: (text, ctx.subtask_index)).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    assert sorted(rows, key=repr) == [("x", 0), ("x", 1), (0, 2), (1, 1)]


def test_a_keyed_stream_is_not_connected_with_a_stream_that_is_spread_in_another_way():
    numbers = stream_of(1)
    with pytest.raises(PipelineError, match=r"connect\(\) .* or with a table that goes to every subtask, table\.broad"):
        numbers.key_by(lambda n: n).connect(numbers)
    with pytest.raises(PipelineError, match="streams of two environments cannot be joined"):
        numbers.key_by(lambda n: n).connect(stream_of(1).broadcast())
    with pytest.raises(PipelineError, match="a KeyedStream can only be joined with another one, not with 5"):
        numbers.key_by(lambda n: n).connect(5)
