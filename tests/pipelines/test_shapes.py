"""Every record arrives and the job ends, whatever the shape of the pipeline."""

from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_flow import JobStatus, LocalEnvironment, Source
from sage_flow.executors.simulation import SimulationExecutor
from sage_flow.functions import END
from sage_flow.testing import MODES, PAUSE, TestSource

one_process = pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "processes"], ids=str)
"""For what does not depend on processes, of which each job costs most of a second."""


class Numbered(Source):
    """Each of its subtasks gives (subtask, 0), (subtask, 1) ... in batches of 7."""

    parallel = True

    def __init__(self, count):
        self.count = count

    def open(self, ctx):
        self.index = ctx.subtask_index
        self.next = 0

    def next_batch(self):
        stop = min(self.next + 7, self.count)
        batch = [(self.index, n) for n in range(self.next, stop)]
        self.next = stop
        return batch or END


def finished(env):
    result = env.execute()
    assert result.status is JobStatus.FINISHED
    return result


def numbered(count, parallelism):
    return Counter((index, n) for index in range(parallelism) for n in range(count))


# --- end of input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (2, 4)])
@pytest.mark.parametrize("spread", ["rebalance", "key_by"])
def test_between_any_two_parallelisms_every_record_arrives_once(mode, before, after, spread):
    env = mode.environment()
    stream = env.from_source(Numbered(100), parallelism=before, name="source")
    spread_out = stream.rebalance() if spread == "rebalance" else stream.key_by(lambda pair: pair)
    spread_out.map(lambda pair: pair, parallelism=after, name="map").collect("rows")
    result = finished(env)
    assert Counter(result.collected["rows"]) == numbered(100, before)
    assert result.counts == {
        "source": 100 * before,
        "map": 100 * before,
        "collect-1": 100 * before,
        "rows": 100 * before,
    }


@pytest.mark.on_ray
def test_an_operator_may_change_an_array_that_it_gets(mode):
    numpy = pytest.importorskip("numpy")

    def doubled(array):
        array *= 2
        return int(array.sum())

    env = mode.environment()
    arrays = env.from_collection([1, 2, 3]).map(lambda n: numpy.full(1 << 20, n))
    arrays.rebalance().map(doubled, parallelism=2).collect("sums")
    assert sorted(finished(env).collected["sums"]) == [n << 21 for n in (1, 2, 3)]


def test_a_job_has_every_channel_number_once():
    env = LocalEnvironment("test", 3)
    stream = env.from_collection(range(3)).rebalance().map(str)
    stream.key_by(len).count().collect()
    stream.union(stream.rebalance()).collect()
    channels = env._graph.plan().channels
    assert [channel.id for channel in channels] == list(range(len(channels)))


@one_process
@pytest.mark.parametrize("sizes", [(0, 0), (0, 500), (3000, 1), (1, 3000)], ids=str)
def test_union_waits_for_all_its_inputs(mode, sizes):
    env = mode.environment()
    left, right = (env.from_collection([(side, n) for n in range(size)]) for side, size in enumerate(sizes))
    left.union(right.map(lambda pair: pair)).map(lambda pair: pair, name="both").collect("rows")
    result = finished(env)
    assert Counter(result.collected["rows"]) == Counter((side, n) for side in (0, 1) for n in range(sizes[side]))
    assert result.counts["both"] == sum(sizes)


@one_process
@pytest.mark.parametrize("sizes", [(0, 0), (0, 500), (3000, 1)], ids=str)
def test_connect_waits_for_both_its_inputs(mode, sizes):
    env = mode.environment()
    left, right = (env.from_collection(range(size)) for size in sizes)
    left.connect(right).map(lambda n: ("left", n), lambda n: ("right", n)).collect("rows")
    expected = [("left", n) for n in range(sizes[0])] + [("right", n) for n in range(sizes[1])]
    assert Counter(finished(env).collected["rows"]) == Counter(expected)


@one_process
@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_a_union_of_many_streams_and_of_a_stream_with_itself(mode):
    env = mode.environment()
    streams = [env.from_collection([n] * n) for n in range(6)]
    streams[0].union(*streams[1:]).collect("many")
    streams[5].union(streams[5]).map(str).collect("twice")
    result = finished(env)
    assert Counter(result.collected["many"]) == Counter({n: n for n in range(1, 6)})
    assert result.collected["twice"] == ["5"] * 10


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_diamond_of_two_branches_that_meet_again(mode, size):
    """More records than a channel holds: neither branch waits for the other."""
    env = mode.environment()
    source = env.from_collection(range(size)).rebalance().map(lambda n: n, parallelism=2)
    odd = source.filter(lambda n: n % 2).rebalance().map(lambda n: ("odd", n), parallelism=3)
    even = source.filter(lambda n: n % 2 == 0).key_by(lambda n: n).map(lambda n: ("even", n))
    odd.union(even).collect("union")
    odd.key_by(lambda pair: pair[1] % 5).connect(even.key_by(lambda pair: pair[1] % 5)).map(list, list).collect("join")
    expected = Counter(("odd" if n % 2 else "even", n) for n in range(size))
    result = finished(env)
    assert Counter(result.collected["union"]) == expected
    assert Counter(map(tuple, result.collected["join"])) == expected


@one_process
@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_a_diamond_within_a_diamond(mode):
    def fork(stream):
        return stream.map(lambda n: n + 1).union(stream.rebalance().map(lambda n: n + 10))

    env = mode.environment()
    fork(fork(fork(env.from_collection(range(200))))).collect("rows")
    expected = range(200)
    for _ in range(3):
        expected = [n + more for n in expected for more in (1, 10)]
    assert Counter(finished(env).collected["rows"]) == Counter(expected)


@pytest.mark.parametrize("items", [[], ["one"]], ids=["none", "one"])
def test_a_source_of_none_or_one_record_goes_through_everything(mode, items):
    env = mode.environment()
    source = env.from_collection(items)
    stream = source.map(lambda v: v).filter(lambda v: True).flat_map(lambda v: [v, v]).process(lambda v: [v])
    stream.map_batches(lambda batch: batch, batch_size=10).collect("batches")
    stream.rebalance().map(lambda v: v, parallelism=4).collect("spread")
    stream.key_by(lambda v: v).count(emit="final").collect("count")
    stream.key_by(lambda v: v).max().collect("max")
    source.connect(source).map(str, str).collect("connected")
    result = finished(env)
    doubled = items * 2
    assert result.collected["batches"] == result.collected["spread"] == doubled
    assert result.collected["count"] == [(item, 2) for item in items]
    assert result.collected["max"] == [(item, item) for item in doubled]
    assert result.collected["connected"] == doubled
    assert result.counts["spread"] == len(doubled)


@one_process
@pytest.mark.on_ray
def test_an_end_without_a_record_in_some_subtasks_only(mode):
    env = mode.environment()
    env.from_collection([1]).rebalance().map(lambda n: n, parallelism=5).rebalance().map(str, parallelism=3).collect(
        "x"
    )
    assert finished(env).collected["x"] == ["1"]


@pytest.mark.on_ray
def test_one_stream_into_several_sinks(mode, tmp_path):
    env = mode.environment()
    stream = env.from_collection(range(1000)).map(lambda n: n)
    for number in range(4):
        stream.collect(f"rows {number}")
    stream.rebalance().map(str).write_text(tmp_path / "rows.txt")
    result = finished(env)
    for number in range(4):
        assert Counter(result.collected[f"rows {number}"]) == Counter(range(1000))
    assert Counter(map(int, (tmp_path / "rows.txt").read_text().split())) == Counter(range(1000))


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_a_deep_pipeline_that_changes_its_parallelism_at_each_step(mode):
    env = mode.environment()
    stream = env.from_collection(range(300))
    for depth, parallelism in enumerate([1, 3, 2, 4, 1, 2, 3, 1, 4, 4, 2]):
        stream = stream.map(lambda n: n + 1, parallelism=parallelism, name=f"step {depth}")
    stream.collect("rows")
    result = finished(env)
    assert Counter(result.collected["rows"]) == Counter(range(11, 311))
    assert set(result.counts.values()) == {300}


@one_process
@pytest.mark.on_ray
def test_two_pipelines_that_do_not_meet_are_one_job(mode):
    env = mode.environment()
    env.from_collection(range(10)).collect("a")
    env.from_collection(["xyz"]).map(str.upper).collect("b")
    result = finished(env)
    assert Counter(result.collected["a"]) == Counter(range(10))
    assert result.collected["b"] == ["XYZ"]


@pytest.mark.on_ray
def test_side_outputs_and_main_outputs_may_meet_again(mode):
    def split(n, ctx):
        if n % 3 == 0:
            ctx.output("three", n)
        else:
            yield n

    env = mode.environment()
    stream = env.from_collection(range(3000)).rebalance().process(split)
    stream.union(stream.side_output("three")).collect("rows")
    assert Counter(finished(env).collected["rows"]) == Counter(range(3000))


# --- order ------------------------------------------------------------------------------------------------


def order_per_producer_and_key(rows):
    seen = defaultdict(list)
    for producer, key, seq in rows:
        seen[producer, key].append(seq)
    return seen


@pytest.mark.parametrize("downstream", [1, 2, 4])
def test_a_shuffle_keeps_the_order_per_producer_and_key(mode, downstream):
    env = mode.environment()
    source = env.from_source(Numbered(700), parallelism=3)
    stream = source.map(lambda pair: (pair[0], pair[1] % 11, pair[1]), parallelism=3)
    stream = stream.key_by(lambda row: row[1]).map(lambda row, ctx: (ctx.subtask_index, row), parallelism=downstream)
    stream.collect("rows")
    rows = finished(env).collected["rows"]
    place = {}
    for subtask, (_, key, _) in rows:
        assert place.setdefault(key, subtask) == subtask  # equal keys meet
    found = order_per_producer_and_key(row for _, row in rows)
    expected = order_per_producer_and_key((p, n % 11, n) for p in range(3) for n in range(700))
    assert found == expected


@one_process
@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_order_holds_through_two_shuffles_by_the_same_key(mode):
    env = mode.environment()
    stream = env.from_collection([(0, n % 7, n) for n in range(1500)])
    stream = stream.key_by(lambda row: row[1]).filter(lambda row: row[2] % 2, parallelism=3)
    stream.key_by(lambda row: row[1]).map(lambda row: row, parallelism=2).collect("rows")
    found = order_per_producer_and_key(finished(env).collected["rows"])
    assert found == order_per_producer_and_key((0, n % 7, n) for n in range(1, 1500, 2))


# --- any pipeline -----------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("map"), st.integers(1, 3)),
    st.tuples(st.just("filter"), st.integers(1, 3)),
    st.tuples(st.just("flat_map"), st.integers(1, 3)),
    st.tuples(st.just("count"), st.integers(1, 3)),
    st.tuples(st.just("final"), st.integers(1, 3)),
    st.tuples(st.just("batches"), st.integers(1, 3)),
    st.tuples(st.just("rebalance"), st.just(0)),
    st.tuples(st.just("union"), st.integers(1, 3)),
    st.tuples(st.just("self"), st.just(0)),
    st.tuples(st.just("side"), st.integers(1, 3)),
)


def three(n, ctx):
    if n % 3 == 0:
        ctx.output("three", n + 1)
    else:
        yield n


def write_step(stream, kind, parallelism):
    match kind:
        case "map":
            return stream.map(lambda n: n + 1, parallelism=parallelism)
        case "filter":
            return stream.filter(lambda n: n % 4, parallelism=parallelism)
        case "flat_map":
            return stream.flat_map(lambda n: range(n, n + n % 3), parallelism=parallelism)
        case "count":
            counts = stream.key_by(lambda n: n % 5).count(parallelism=parallelism)
            return counts.map(lambda pair: pair[0] * 1000 + pair[1])
        case "final":
            totals = stream.key_by(lambda n: n % 5).sum(emit="final", parallelism=parallelism)
            return totals.map(lambda pair: pair[0] * 1000 + pair[1])
        case "batches":
            return stream.map_batches(lambda batch: batch, batch_size=4, parallelism=parallelism)
        case "rebalance":
            return stream.rebalance()
        case "union":
            return stream.union(stream.map(lambda n: -n, parallelism=parallelism))
        case "self":
            return stream.union(stream)
        case _:
            split = stream.process(three, parallelism=parallelism)
            return split.union(split.side_output("three"))


def model_step(rows, kind):
    """The same in plain Python, as a multiset: none of the steps depends on the order between keys."""
    match kind:
        case "map":
            return [n + 1 for n in rows]
        case "filter":
            return [n for n in rows if n % 4]
        case "flat_map":
            return [m for n in rows for m in range(n, n + n % 3)]
        case "count":
            counts = Counter(n % 5 for n in rows)
            return [key * 1000 + count for key in counts for count in range(1, counts[key] + 1)]
        case "final":
            totals = defaultdict(int)
            for n in rows:
                totals[n % 5] += n
            return [key * 1000 + total for key, total in totals.items()]
        case "union":
            return rows + [-n for n in rows]
        case "self":
            return rows * 2
        case "side":
            return [n + 1 if n % 3 == 0 else n for n in rows]
        case _:
            return rows


def run_against_model(env, sizes, steps):
    stream, *others = [env.from_source(Numbered(size), parallelism=width) for size, width in sizes]
    stream = stream.union(*others).map(lambda pair: pair[1])
    rows = [n for size, width in sizes for _ in range(width) for n in range(size)]
    for kind, parallelism in steps:
        stream, rows = write_step(stream, kind, parallelism), model_step(rows, kind)
    stream.collect("rows")
    assert Counter(finished(env).collected["rows"]) == Counter(rows)


SIZES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=3)
RANDOM = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(RANDOM, max_examples=40)
@given(SIZES, st.lists(STEPS, max_size=5), st.integers(1, 3))
def test_any_pipeline_gives_what_plain_python_gives(sizes, steps, parallelism):
    run_against_model(LocalEnvironment("test", parallelism), sizes, steps)


@settings(RANDOM, max_examples=15)
@given(SIZES, st.lists(STEPS, max_size=4), st.integers(1, 2), st.integers(0, 10**6))
def test_any_pipeline_in_any_schedule_gives_what_plain_python_gives(sizes, steps, parallelism, seed):
    run_against_model(LocalEnvironment("test", parallelism, executor=SimulationExecutor(seed)), sizes, steps)


@one_process
@pytest.mark.on_ray
def test_pauses_of_a_source_change_nothing(mode):
    env = mode.environment()
    env.from_source(TestSource([1, PAUSE, PAUSE, 2, 3, PAUSE])).key_by(lambda n: n % 2).count().collect("rows")
    rows = finished(env).collected["rows"]
    assert Counter(rows) == Counter([(1, 1), (0, 1), (1, 2)])
    assert [row for row in rows if row[0] == 1] == [(1, 1), (1, 2)]
