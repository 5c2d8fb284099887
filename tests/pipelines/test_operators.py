"""What each operator gives, against plain Python."""

import functools
import itertools
import operator
from collections import Counter, defaultdict

import pytest

from sage_flow import Function, LocalEnvironment, ProcessFunction
from sage_flow.testing import MODES, collect, stream_of

one_process = pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "processes"], ids=str)
"""For what does not depend on processes, of which each job costs most of a second."""


class SameRepr:
    """Wraps a record, to compare NaN, exceptions and copies by their repr."""

    def __init__(self, value):
        self.text = f"{type(value).__name__} {value!r}"

    def __eq__(self, other):
        return self.text == other.text

    def __hash__(self):
        return hash(self.text)

    def __repr__(self):
        return self.text


def alike(rows):
    return Counter(map(SameRepr, rows))


def rows_of(mode, write, items, **options):
    """What the pipeline `write(stream)` gives for `items`, in this mode."""
    env = mode.environment(**options)
    write(env.from_collection(items)).collect("rows")
    return env.execute().collected["rows"]


NUMBERS = list(range(200))


# --- one record at a time ---------------------------------------------------------------------------------

STATELESS = {
    "map": (lambda s: s.map(lambda n: n * n), [n * n for n in NUMBERS]),
    "map of a builtin": (lambda s: s.map(str), [str(n) for n in NUMBERS]),
    "filter": (lambda s: s.filter(lambda n: n % 3), [n for n in NUMBERS if n % 3]),
    "filter by any truth": (lambda s: s.filter(lambda n: [0] * (n % 2)), [n for n in NUMBERS if n % 2]),
    "flat_map": (lambda s: s.flat_map(lambda n: [n] * (n % 3)), [n for n in NUMBERS for _ in range(n % 3)]),
    "flat_map of a generator": (
        lambda s: s.flat_map(lambda n: (m for m in (n, -n))),
        [m for n in NUMBERS for m in (n, -n)],
    ),
    "flat_map of characters": (lambda s: s.flat_map(lambda n: list(str(n))), [c for n in NUMBERS for c in str(n)]),
    "process of generators": (lambda s: s.process(lambda n, ctx: iter([n])), NUMBERS),
    "process of None": (lambda s: s.process(lambda n: None), []),
    "process of lists": (lambda s: s.process(lambda n: [n, n]), [m for n in NUMBERS for m in (n, n)]),
    "map_batches": (lambda s: s.map_batches(lambda b: [n + 1 for n in b], batch_size=7), [n + 1 for n in NUMBERS]),
    "rebalance": (lambda s: s.rebalance().map(lambda n: n), NUMBERS),
    "forward": (lambda s: s.map(lambda n: n).forward().map(lambda n: -n), [-n for n in NUMBERS]),
    "a chain": (
        lambda s: s.map(lambda n: n + 1).filter(lambda n: n % 2).flat_map(range).map(lambda n: -n),
        [-m for n in NUMBERS if n % 2 == 0 for m in range(n + 1)],
    ),
}


@pytest.mark.parametrize(("write", "expected"), STATELESS.values(), ids=STATELESS)
def test_a_stateless_operator_gives_what_a_comprehension_gives(write, expected):
    for parallelism in (1, 3):
        env = LocalEnvironment("test", parallelism)
        write(env.from_collection(NUMBERS)).collect("rows")
        rows = env.execute().collected["rows"]
        assert rows == expected if parallelism == 1 else Counter(rows) == Counter(expected)


@pytest.mark.on_ray
def test_every_stateless_operator_in_one_job_of_every_mode(mode):
    env = mode.environment()
    source = env.from_collection(NUMBERS)
    for name, (write, _) in STATELESS.items():
        write(source.rebalance()).collect(name)
    collected = env.execute().collected
    for name, (_, expected) in STATELESS.items():
        assert Counter(collected[name]) == Counter(expected), name


ODD_VALUES = [
    None,
    0,
    "",
    b"",
    [],
    {},
    (),
    False,
    float("nan"),
    ValueError("a value"),
    StopIteration(),
    NotImplemented,
    ...,
]


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_every_value_is_a_record_through_every_operator(mode):
    env = mode.environment()
    source = env.from_collection(ODD_VALUES).rebalance()
    source.map(lambda v: v).collect("map")
    source.filter(lambda v: True).collect("filter")
    source.flat_map(lambda v: [v]).collect("flat_map")
    source.process(lambda v: [v]).collect("process")
    source.process(lambda v, ctx: ctx.output("side", v), name="side").side_output("side").collect("side_output")
    source.map_batches(lambda batch: batch, batch_size=2).collect("batches")
    source.union(source).collect("union")
    source.connect(source).map(lambda v: v, lambda v: v).collect("connect")
    source.key_by(repr).map(lambda v: v).collect("keyed")
    source.key_by(repr).reduce(lambda a, b: b).map(lambda pair: pair[1]).collect("reduce")
    source.key_by(repr).max().map(lambda pair: pair[1]).collect("max")
    source.key_by(repr).fold(None, lambda a, b: b, emit="final").map(lambda pair: pair[1]).collect("fold")
    collected = env.execute().collected
    for name, rows in collected.items():
        assert alike(rows) == alike(ODD_VALUES * (2 if name in ("union", "connect") else 1)), name


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_map_batches_gives_lists_of_exactly_the_size_and_a_rest(size):
    batches = collect(stream_of(*NUMBERS).map_batches(lambda batch: [list(batch)], batch_size=size))
    assert batches == [NUMBERS[start : start + size] for start in range(0, len(NUMBERS), size)]


def test_map_batches_fills_its_batches_over_the_batches_of_the_source():
    lengths = collect(
        LocalEnvironment("test").from_collection(range(2500)).map_batches(lambda b: [len(b)], batch_size=1000)
    )
    assert lengths == [1000, 1000, 500]


# --- keyed ------------------------------------------------------------------------------------------------


def key(n):
    return n % 7


def updates(step, start=None):
    state, rows = {}, []
    for n in NUMBERS:
        if key(n) in state:
            state[key(n)] = step(state[key(n)], n)
        else:
            state[key(n)] = n if start is None else step(start, n)
        rows.append((key(n), state[key(n)]))
    return rows


AGGREGATES = {
    "reduce": (lambda k, **o: k.reduce(lambda a, b: a * 3 + b, **o), updates(lambda a, b: a * 3 + b)),
    "fold from a value": (lambda k, **o: k.fold((), lambda a, n: (*a, n), **o), updates(lambda a, n: (*a, n), ())),
    "fold from a factory": (lambda k, **o: k.fold(list, lambda a, n: [*a, n], **o), updates(lambda a, n: [*a, n], [])),
    "fold from None": (lambda k, **o: k.fold(None, lambda a, n: n, **o), updates(lambda a, n: n)),
    "count": (lambda k, **o: k.count(**o), updates(lambda a, n: a + 1, 0)),
    "sum": (lambda k, **o: k.sum(**o), updates(operator.add, 0)),
    "sum of": (lambda k, **o: k.sum(lambda n: n / 2, **o), updates(lambda a, n: a + n / 2, 0)),
    "min": (lambda k, **o: k.min(lambda n: (n * 31) % 50, **o), updates(lambda a, n: min(a, (n * 31) % 50), 50)),
    "max": (lambda k, **o: k.max(**o), updates(max)),
}


@pytest.mark.parametrize("emit", ["updates", "final"])
def test_aggregates_give_what_a_dict_gives_in_order_per_key(mode, emit):
    env = mode.environment()
    source = env.from_collection(NUMBERS)
    for name, (write, _) in AGGREGATES.items():
        write(source.key_by(key), emit=emit).collect(name)
    collected = env.execute().collected
    for name, (_, expected) in AGGREGATES.items():
        if emit == "final":
            assert sorted(collected[name]) == sorted(dict(expected).items()), name
            continue
        assert per_key(collected[name]) == per_key(expected), name


def per_key(pairs):
    found = defaultdict(list)
    for key_of, value in pairs:
        found[key_of].append(value)
    return found


def test_a_mutable_initial_value_is_each_keys_own():
    def add(so_far, n):
        so_far.append(n)
        return so_far

    rows = collect(stream_of(*NUMBERS).key_by(key).fold([], add, emit="final"))
    assert dict(rows) == {k: [n for n in NUMBERS if key(n) == k] for k in range(7)}


@one_process
@pytest.mark.on_ray
def test_equal_keys_of_different_types_are_one_key(mode):
    items = [1, True, 1.0, 2, 2.0, "1"]
    rows = rows_of(mode, lambda s: s.key_by(lambda v: v).count(emit="final"), items)
    assert Counter(count for _, count in rows) == Counter([3, 2, 1])


@one_process
def test_a_key_by_of_a_key_by_counts_by_the_second_one(mode):
    rows = rows_of(
        mode, lambda s: s.key_by(key).map(lambda n: n + 1).key_by(lambda n: n % 2).count(emit="final"), NUMBERS
    )
    assert sorted(rows) == [(0, 100), (1, 100)]


class KeyFunction(Function):
    """A key function with a life cycle."""

    def open(self, ctx):
        self.modulus = 7

    def __call__(self, n):
        return n % self.modulus


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("function", [KeyFunction, KeyFunction()], ids=["class", "instance"])
def test_a_key_function_may_have_a_life_cycle(parallelism, function):
    env = LocalEnvironment("test", parallelism)
    env.from_collection(NUMBERS).key_by(function).count(emit="final").collect("rows")
    assert Counter(dict(env.execute().collected["rows"])) == Counter(map(key, NUMBERS))


# --- state ------------------------------------------------------------------------------------------------


class Remember(Function):
    """Uses every kind of state; gives (key, last, seen, by parity, greatest)."""

    def open(self, ctx):
        self.last = ctx.state.value("last", "none")
        self.seen = ctx.state.list("seen")
        self.parity = ctx.state.map("parity")
        self.greatest = ctx.state.reducing("greatest", max)

    def __call__(self, n, ctx):
        before = self.last.get()
        self.last.set(n)
        self.seen.append(n)
        self.parity[n % 2] = self.parity.get(n % 2, 0) + 1
        self.greatest.add(-n)
        assert ctx.state.value("last").get() == n
        return (ctx.key, before, tuple(self.seen), dict(self.parity), self.greatest.get())


def remembered(items):
    by_key, rows = defaultdict(list), []
    for n in items:
        seen = by_key[key(n)]
        before = seen[-1] if seen else "none"
        seen.append(n)
        parity = dict(Counter(m % 2 for m in seen))
        rows.append((key(n), before, tuple(seen), parity, max(-m for m in seen)))
    return rows


@pytest.mark.on_ray
def test_state_of_every_kind_is_each_keys_own(mode):
    rows = rows_of(mode, lambda s: s.key_by(key).map(Remember), NUMBERS[:70])
    assert alike(rows) == alike(remembered(NUMBERS[:70]))


def test_a_value_that_was_read_and_changed_must_be_set():
    def forget(n, ctx):
        seen = ctx.state.value("seen", list)
        seen.get().append(n)
        return len(seen.get())

    assert collect(stream_of(1, 2, 3).key_by(lambda n: 0).map(forget)) == [0, 0, 0]


def test_cleared_state_is_forgotten():
    def every_third(n, ctx):
        seen = ctx.state.list("seen")
        seen.append(n)
        found = list(seen)
        if len(found) == 3:
            seen.clear()
        return found

    found = collect(stream_of(*range(5)).key_by(lambda n: 0).map(every_third))
    assert found == [[0], [0, 1], [0, 1, 2], [3], [3, 4]]


# --- two inputs -------------------------------------------------------------------------------------------


def test_connect_unkeyed_calls_the_function_of_the_side(mode):
    env = mode.environment()
    left, right = env.from_collection(range(50)), env.from_collection(list("abcde"))
    left.connect(right).map(lambda n: n + 1, str.upper).collect("map")
    left.connect(right).process(lambda n: [n] * (n % 2), lambda s, ctx: (c for c in s * 2)).collect("process")
    collected = env.execute().collected
    assert Counter(collected["map"]) == Counter([*range(1, 51), *"ABCDE"])
    assert Counter(collected["process"]) == Counter([*range(1, 50, 2), *"abcde" * 2])


def on_rate(pair, ctx):
    ctx.state.value("rate").set(pair[1])
    for amount in ctx.state.list("waiting"):
        yield (ctx.key, amount * pair[1])
    ctx.state.list("waiting").clear()


def on_amount(pair, ctx):
    rate = ctx.state.value("rate").get()
    if rate is None:
        ctx.state.list("waiting").append(pair[1])
    else:
        yield (ctx.key, pair[1] * rate)


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_connect_keyed_shares_state_of_equal_keys(mode):
    """A join: whichever side comes first, every amount meets the rate of its key."""
    env = mode.environment()
    rates = env.from_collection([(k, k + 10) for k in range(8)]).key_by(lambda pair: pair[0])
    amounts = (
        env.from_collection([(n % 8, n) for n in range(400)]).rebalance().map(lambda p: p).key_by(lambda pair: pair[0])
    )
    rates.connect(amounts).process(on_rate, on_amount).collect("rows")
    expected = Counter((n % 8, n * (n % 8 + 10)) for n in range(400))
    assert Counter(env.execute().collected["rows"]) == expected


@one_process
def test_connect_keyed_map_has_the_key(mode):
    env = mode.environment()
    left, right = (
        env.from_collection(range(20)).key_by(key),
        env.from_collection(range(20)).key_by(lambda n: key(n) + 1),
    )
    left.connect(right).map(lambda n, ctx: ("l", ctx.key), lambda n, ctx: ("r", ctx.key)).collect("rows")
    expected = [("l", key(n)) for n in range(20)] + [("r", key(n) + 1) for n in range(20)]
    assert Counter(env.execute().collected["rows"]) == Counter(expected)


# --- where records go -------------------------------------------------------------------------------------


@one_process
@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_broadcast_gives_every_record_to_every_subtask(mode):
    rows = rows_of(mode, lambda s: s.broadcast().map(lambda n, ctx: (ctx.subtask_index, n), parallelism=3), NUMBERS)
    assert Counter(rows) == Counter((index, n) for index in range(3) for n in NUMBERS)
    assert [n for index, n in rows if index == 0] == NUMBERS


@one_process
@pytest.mark.on_ray
def test_rebalance_gives_every_subtask_its_turn(mode):
    rows = rows_of(mode, lambda s: s.rebalance().map(lambda n, ctx: (ctx.subtask_index, n), parallelism=4), NUMBERS)
    assert Counter(index for index, _ in rows) == dict.fromkeys(range(4), 50)
    assert sorted(n for _, n in rows) == NUMBERS


@one_process
@pytest.mark.on_ray
def test_forward_keeps_records_in_their_subtask(mode):
    def place(n, ctx):
        return (ctx.subtask_index, n)

    def same(pair, ctx):
        return (ctx.subtask_index, *pair)

    def write(stream):
        return stream.rebalance().map(place, parallelism=3).forward().map(same, parallelism=3)

    assert all(here == before for here, before, _ in rows_of(mode, write, NUMBERS))


def test_side_outputs_take_what_is_put_on_them(mode):
    def split(n, ctx):
        ctx.output("even" if n % 2 == 0 else "odd", n)
        if n % 5 == 0:
            yield n

    env = mode.environment()
    stream = env.from_collection(NUMBERS).rebalance().process(split)
    stream.collect("main")
    for tag in ("even", "odd"):
        stream.side_output(tag).collect(tag)
    stream.side_output("odd").key_by(key).count(emit="final").collect("by key")
    collected = env.execute().collected
    assert Counter(collected["main"]) == Counter(NUMBERS[::5])
    assert Counter(collected["even"]) == Counter(NUMBERS[::2])
    assert Counter(collected["odd"]) == Counter(NUMBERS[1::2])
    assert dict(collected["by key"]) == Counter(map(key, NUMBERS[1::2]))


# --- functions --------------------------------------------------------------------------------------------


def test_the_context_says_where_a_function_runs(mode):
    def where(n, ctx):
        return (ctx.job_name, ctx.operator_name, ctx.subtask_index, ctx.parallelism)

    rows = rows_of(mode, lambda s: s.rebalance().map(where, name="where", parallelism=3), NUMBERS, name="flights")
    assert Counter(rows) == {("flights", "where", index, 3): n for index, n in ((0, 67), (1, 67), (2, 66))}


class Counting(Function):
    """Counts in an attribute; notes its life in a file."""

    def __init__(self, path, start=0):
        self.path = path
        self.total = start

    def note(self, what):
        with open(self.path, "a") as file:
            file.write(f"{what} {self.index}\n")

    def open(self, ctx):
        self.index = ctx.subtask_index
        self.note("open")

    def __call__(self, value):
        self.total += 1
        return (self.index, self.total)

    def close(self):
        self.note("close")


@pytest.mark.on_ray
def test_every_subtask_has_its_own_copy_opened_and_closed_once(mode, tmp_path):
    function = Counting(str(tmp_path / "life"), start=1000)
    rows = rows_of(mode, lambda s: s.rebalance().map(function, parallelism=3), NUMBERS[:30])
    assert Counter(rows) == Counter((index, 1000 + n) for index in range(3) for n in range(1, 11))
    life = (tmp_path / "life").read_text().splitlines()
    assert Counter(life) == Counter(f"{what} {index}" for what in ("open", "close") for index in range(3))
    assert function.total == 1000  # the user's own object is untouched


@pytest.mark.on_ray
def test_running_a_job_leaves_the_classes_of_the_program_as_they_were(mode):
    class Row:
        def __init__(self, n):
            self.n = n

        def double(self):
            return 2 * self.n

    class Rows(Function):
        def __call__(self, n):
            return Row(n)

    before = Row.__init__, Row.double, Rows.__call__
    rows = rows_of(mode, lambda s: s.map(Rows()), [1])
    assert type(rows[0]) is Row
    assert rows[0].double() == 2
    assert (Row.__init__, Row.double, Rows.__call__) == before


class Doubled(Function):
    def __call__(self, value):
        return value * 2


class WithContext(Function):
    def __call__(self, value, ctx):
        return (ctx.operator_name, value)


class Halves(ProcessFunction):
    def process(self, value, ctx):
        if value % 2 == 0:
            yield value // 2


class Added(Function):
    def __call__(self, so_far, value):
        return so_far + value


class PlainCallable:
    def __call__(self, value, ctx):
        return (ctx.subtask_index, value)


def test_functions_are_classes_instances_or_callables():
    assert collect(stream_of(1, 2).map(Doubled)) == [2, 4]
    assert collect(stream_of(1, 2).map(Doubled())) == [2, 4]
    assert collect(stream_of(1, 2).map(WithContext, name="m")) == [("m", 1), ("m", 2)]
    assert collect(stream_of(1, 2, 4).process(Halves)) == [1, 2]
    assert collect(stream_of(1, 2, 4).process(Halves())) == [1, 2]
    assert collect(stream_of(1, 2).key_by(lambda n: 0).reduce(Added)) == [(0, 1), (0, 3)]
    assert collect(stream_of(1, 0).filter(Doubled)) == [1]
    assert collect(stream_of(1, 2).map(PlainCallable())) == [(0, 1), (0, 2)]
    assert collect(stream_of(2, 3).map(functools.partial(pow, 2))) == [4, 8]
    assert collect(stream_of(" a ").map(str.strip)) == ["a"]
    assert collect(stream_of(1).map([0, 5].__getitem__)) == [5]


def takes_anything(*values):
    return len(values)


def last_is_optional(value, other=None):
    return other is not None


def named_ctx(ctx):
    return ctx


def test_with_ctx_overrides_what_the_parameters_say():
    assert collect(stream_of(1).map(takes_anything)) == [1]
    assert collect(stream_of(1).map(takes_anything, with_ctx=True)) == [2]
    assert collect(stream_of(1).map(last_is_optional)) == [False]
    assert collect(stream_of(1).map(last_is_optional, with_ctx=True)) == [True]
    assert collect(stream_of(1).map(named_ctx, with_ctx=False)) == [1]
    assert collect(stream_of(3).map(functools.partial(takes_anything, 0), with_ctx=True)) == [3]
    assert collect(stream_of([3, 4]).map(max)) == [4]


def test_for_each_calls_its_function_with_every_record():
    seen = []
    env = LocalEnvironment("test")
    env.from_collection([None, 0, 1]).for_each(seen.append, name="append")
    assert env.execute().counts["append"] == 3
    assert seen == [None, 0, 1]


def test_automatic_names_count_by_kind_in_order_of_definition():
    env = LocalEnvironment("test")
    stream = env.from_collection([1]).map(str).map(len).filter(bool).map(str, name="mine").map(str)
    stream.collect()
    assert list(env.execute().counts) == ["collection-1", "map-1", "map-2", "filter-1", "mine", "map-3", "collect-1"]


def test_counts_are_what_each_operator_gave():
    env = LocalEnvironment("test")
    stream = env.from_collection(NUMBERS).map(str, name="a").filter(lambda s: len(s) == 2, name="b")
    stream = stream.flat_map(list, name="c").map_batches(lambda b: [len(b)], batch_size=50, name="d")
    stream.for_each(id, name="e")
    counts = env.execute().counts
    assert counts == {"collection-1": 200, "a": 200, "b": 90, "c": 180, "d": 4, "e": 4}


def test_a_flat_map_of_many_records_counts_them_all():
    env = LocalEnvironment("test")
    stream = (
        env.from_collection([5000, 0, 3]).filter(bool).flat_map(range, name="many").filter(lambda n: n % 2, name="odd")
    )
    stream.map(lambda n: n, name="last").collect("rows")
    result = env.execute()
    assert len(result.collected["rows"]) == 2501
    assert (result.counts["many"], result.counts["odd"], result.counts["last"]) == (5003, 2501, 2501)


def test_records_of_several_sources_and_iterables(mode):
    env = mode.environment()
    env.from_iterable(lambda: itertools.islice(itertools.count(), 3000)).rebalance().map(lambda n: n).collect("rows")
    assert Counter(env.execute().collected["rows"]) == Counter(range(3000))
