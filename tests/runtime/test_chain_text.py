"""The generated text of chains is what the files in `golden/` say.

Who changes the text on purpose writes the files anew (`python tests/runtime/test_chain_text.py`), reads the difference,
and measures the `chain` and `keyed-count` benchmarks.
"""

from datetime import timedelta
from pathlib import Path

import pytest

from sage_flow import (
    LocalEnvironment,
    PipelineService,
    RuntimeContext,
    SessionWindow,
    Sink,
    SlidingWindow,
    TumblingWindow,
)
from sage_flow.aggregates import Mean
from sage_flow.runtime.chain import compile_chain
from sage_flow.runtime.operators import BoundOperator
from sage_flow.runtime.outputs import Output
from sage_flow.runtime.report import Counters

GOLDEN = Path(__file__).parent / "golden"
CASES = {}


def case(operator, *, start=0, side=0, keyed_input=False, timed_input=False):
    """The text of the chain that runs `operator`, from its operator `start` on."""

    def register(write):
        CASES[write.__name__] = (write, operator, start, side, keyed_input, timed_input)
        return write

    return register


class Keep(Sink):
    def write(self, value):
        pass


async def waits(value):
    return value


def with_context(value, ctx):
    return value


def gives_two(value, ctx):
    return [value, value]


@case("source-1")
def one_record_at_a_time(env):
    records = env.from_collection([], name="source-1")
    records.map(str).filter(len).map(with_context).add_sink(Keep())


@case("source-1")
def failing_records_are_skipped(env):
    records = env.from_collection([], name="source-1")
    records.map(str, on_error="skip").filter(len, on_error="skip").for_each(print, on_error="skip")


@case("source-1")
def failing_records_are_dead_letters(env):
    parsed = env.from_collection([], name="source-1").map(int, on_error="dead_letter")
    kept = parsed.filter(bool, on_error="dead_letter")
    kept.collect()
    parsed.dead_letters().for_each(print)
    kept.dead_letters().for_each(print)


@case("source-1")
def any_number_of_outputs(env):
    words = env.from_collection([], name="source-1").flat_map(str.split)
    words.process(gives_two, on_error="skip").map(str).for_each(print)


@case("source-1")
def outputs_for_two_readers(env):
    words = env.from_collection([], name="source-1").flat_map(str.split).map(str)
    words.key_by(len).map(with_context, parallelism=2).collect()
    words.for_each(print, name="other", parallelism=2)


@case("source-1")
def batches(env):
    batches = env.from_collection([], name="source-1").map_batches(lambda batch: batch, batch_size=3, on_error="skip")
    batches.map(str).collect()


@case("source-1")
def coroutines(env):
    env.from_collection([], name="source-1").map(str).map_async(waits).filter(len).collect()


@case("source-1", start=3)
def behind_coroutines(env):
    env.from_collection([], name="source-1").map(str).map_async(waits).filter(len).collect()


@case("source-1")
def keyed_functions(env):
    env.from_collection([], name="source-1").key_by(len).map(with_context, on_error="skip").collect()


@case("keyed", keyed_input=True)
def keys_that_came_with_the_records(env):
    records = env.from_collection([], name="source-1").rebalance().map(str, parallelism=2)
    records.key_by(len).process(gives_two, name="keyed", parallelism=2).for_each(print)


def _aggregate(name):
    def write(env):
        keyed = env.from_collection([], name="source-1").key_by(len)
        aggregates = {
            "count": lambda: keyed.count(),
            "sum": lambda: keyed.sum(),
            "sum_of": lambda: keyed.sum(len, on_error="skip"),
            "min": lambda: keyed.min(),
            "max_of": lambda: keyed.max(len),
            "reduce": lambda: keyed.reduce(max, on_error="skip"),
            "fold": lambda: keyed.fold(0, lambda so_far, value: so_far),
            "count_final": lambda: keyed.count(emit="final"),
            "object": lambda: keyed.aggregate(Mean(), on_error="skip"),
            "object_final": lambda: keyed.aggregate(Mean(), emit="final"),
            "fold_final": lambda: keyed.fold(list, lambda so_far, value: so_far, emit="final", on_error="skip"),
        }
        aggregates[name]().map(str).collect()

    write.__name__ = f"aggregate_{name}"
    return write


for _name in (
    "count",
    "sum",
    "sum_of",
    "min",
    "max_of",
    "reduce",
    "fold",
    "count_final",
    "fold_final",
    "object",
    "object_final",
):
    case("source-1")(_aggregate(_name))


@case("source-1")
def deduplicated_records(env):
    env.from_collection([], name="source-1").key_by(len).deduplicate().map(str).collect()


@case("source-1")
def deduplicated_records_with_ttl(env):
    timed(env).key_by(len).deduplicate(ttl=timedelta(minutes=1)).map(str).collect()


@case("source-1")
def windows_of_counts(env):
    env.from_collection([], name="source-1").key_by(len).count_window(3).sum(len, on_error="skip").map(str).collect()


@case("both", side=1)
def the_right_side_of_two(env):
    left, right = (env.from_collection([], name=name) for name in ("left", "right"))
    left.connect(right).map(str, with_context, name="both").map(str).collect()


@case("both", side=0, keyed_input=True)
def the_left_side_of_two_with_keys(env):
    left, right = (env.from_collection([], name=name).key_by(len) for name in ("left", "right"))
    left.connect(right).process(gives_two, gives_two, name="both", parallelism=2, on_error="skip").for_each(print)


@case("both", side=1, keyed_input=True)
def the_right_side_of_a_join(env):
    left, right = (env.from_collection([], name=name).key_by(len) for name in ("left", "right"))
    left.join(right, max, name="both").map(str).collect()


@case("answer/map-1")
def the_pipeline_of_a_service(env):
    env.register_service("answer", PipelineService(lambda requests: requests.map(str).filter(len)))
    env.from_collection([]).map(lambda value, ctx: ctx.call_service("answer", value)).collect()


@case("source-1")
def side_outputs_only(env):
    records = env.from_collection([], name="source-1")
    records.side_output("late").for_each(print)


def timed(env, **options):
    records = env.from_collection([], name="source-1")
    return records.assign_timestamps(int, max_out_of_order=timedelta(seconds=1), **options)


@case("source-1")
def arrival_times(env):
    arrived = env.from_collection([], name="source-1").assign_arrival_times()
    arrived.map(with_context).key_by(len).window(TumblingWindow(timedelta(seconds=1))).count().collect()


@case("source-1")
def a_session_window_with_early_results(env):
    windows = timed(env).key_by(len).window(SessionWindow(timedelta(seconds=1)), early_every=timedelta(seconds=1))
    windows.count().collect()


@case("source-1")
def timestamps_that_nobody_uses(env):
    timed(env).map(str).collect()


@case("source-1")
def timestamps_for_another_subtask(env):
    timed(env, on_error="skip").key_by(len).process(gives_two, parallelism=2).for_each(print)


@case("timed", keyed_input=True, timed_input=True)
def keys_and_timestamps_that_came_with_the_records(env):
    timed(env).key_by(len).process(
        gives_two, name="timed", parallelism=2, on_error="dead_letter"
    ).dead_letters().collect()


@case("source-1")
def coroutines_with_timestamps(env):
    timed(env).map_async(waits).map(with_context).collect()


@case("source-1")
def coroutines_with_timestamps_for_each_of_several(env):
    several = timed(env).flat_map(list).map_async(waits).flat_map(list, on_error="skip").map_async(waits)
    several.map(with_context).collect()


@case("both", side=1)
def coroutines_behind_records_of_one_time(env):
    both = timed(env).connect(env.from_collection(["a"])).map(str, str, name="both")
    both.map_async(waits).map(with_context).collect()


@case("source-1")
def a_tumbling_window(env):
    timed(env).key_by(len).window(TumblingWindow(timedelta(minutes=1))).count().collect()


@case("source-1")
def a_session_window(env):
    timed(env).key_by(len).window(SessionWindow(timedelta(minutes=1))).max(len, on_error="skip").collect()


@case("source-1")
def a_sliding_window_that_cannot_merge(env):
    sliding = timed(env).key_by(len).window(SlidingWindow(timedelta(minutes=2), timedelta(minutes=1)))
    sliding.fold(0, lambda so_far, value: so_far).collect()


@case("both", side=1, keyed_input=True, timed_input=True)
def the_right_side_of_a_tumbling_join(env):
    keyed = timed(env).key_by(len)
    keyed.join_window(keyed, TumblingWindow(timedelta(minutes=1)), max, name="both").collect()


@case("both", side=0, keyed_input=True, timed_input=True)
def the_left_side_of_a_session_join(env):
    keyed = timed(env).key_by(len)
    keyed.join_window(keyed, SessionWindow(timedelta(minutes=1)), max, name="both").collect()


@case("both", side=0, keyed_input=True, timed_input=True)
def the_left_side_of_an_asof_join(env):
    keyed = timed(env).key_by(len)
    joined = keyed.join_asof(keyed, max, name="both", on_error="dead_letter")
    joined.collect()
    joined.dead_letters().for_each(print)


def text_of(name):
    write, operator, start, side, keyed_input, timed_input = CASES[name]
    env = LocalEnvironment("job")
    write(env)
    plan = env._graph.plan()
    chain = next(chain for chain in plan.chains if operator in [o.name for o in chain.operators])
    counters = Counters(chain.operators)
    contexts = [RuntimeContext("job", o.name, 0, 1, keyed=o.keyed) for o in chain.operators]
    bound = [BoundOperator(o, n, contexts[n], counters) for n, o in enumerate(chain.operators)]
    outputs = [Output(e, e.key and e.key.functions[0]) for e in plan.edges if e.source == chain.id]
    compiled = compile_chain(
        chain.name,
        bound,
        outputs,
        lambda: None,
        counters,
        start=start,
        side=side,
        keyed_input=keyed_input,
        timed_input=timed_input,
    )
    return f"# {chain.name}\n{compiled.source}"


@pytest.mark.parametrize("name", CASES)
def test_the_generated_text_of_a_chain_is_the_golden_one(name):
    assert text_of(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_text_is_of_a_case():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(CASES)


if __name__ == "__main__":
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for case_name in CASES:
        (GOLDEN / f"{case_name}.txt").write_text(text_of(case_name), encoding="utf-8")
