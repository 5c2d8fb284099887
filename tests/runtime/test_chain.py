"""The generated loop does what a naive interpreter of the operators does: outputs, counts, culprits."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fake_port import EndOfInput, bench
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.errors import JobCancelled, PipelineError
from sage_flow.runtime.failure import shorten

# --- operators as data, so that both the engine and the interpreter can run them --------------------------


class Boom(Exception):
    pass


def number(value):
    """Any record as a number: aggregates give (key, value) pairs."""
    return value if isinstance(value, int) else sum(map(number, value))


@dataclass(frozen=True)
class Fn:
    """value * times + plus; raises where the value is `bad` modulo 5 (5: nowhere)."""

    times: int
    plus: int
    bad: int = 5

    def __call__(self, value):
        if number(value) % 5 == self.bad:
            raise Boom(value)
        return number(value) * self.times + self.plus


@dataclass(frozen=True)
class Step:
    kind: str
    fn: Fn
    on_error: str = "fail"
    key: Any = None  # what precedes the step as a key_by
    emit: str = "updates"
    size: int = 2
    lazy: bool = True

    def flat(self, value):
        if not self.lazy:
            self.fn(value)
        return self._generate(value)

    def _generate(self, value):
        for n in range(number(value) % 4):
            yield self.fn(number(value) + n)

    def batch(self, values):
        return [self.fn(value) for value in values]


KEYED_ONLY = ("count", "sum", "min", "max", "reduce", "fold", "state")
fns = st.builds(Fn, st.integers(1, 3), st.integers(0, 5), st.sampled_from([0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]))
keys = st.builds(Fn, st.just(1), st.integers(0, 2), st.sampled_from([0, 5, 5, 5, 5, 5, 5, 5]))


@st.composite
def steps(draw):
    kind = draw(st.sampled_from(["map", "filter", "flat_map", "process", "map_batches", *KEYED_ONLY]))
    can_skip = kind != "count"
    return Step(
        kind,
        draw(fns),
        draw(st.sampled_from(["fail", "skip", "dead_letter"])) if can_skip else "fail",
        draw(keys) if kind in KEYED_ONLY or draw(st.integers(0, 5)) == 0 else None,
        draw(st.sampled_from(["updates", "final"])),
        draw(st.integers(1, 4)),
        draw(st.booleans()),
    )


def write(stream, step, name):
    """Write one step on a stream, as a user would."""
    if step.key is not None:
        stream = stream.key_by(step.key, name=f"key of {name}")
    options = {"name": name, "on_error": step.on_error}
    match step.kind:
        case "map" | "filter":
            result = getattr(stream, step.kind)(step.fn, **options)
        case "flat_map":
            result = stream.flat_map(step.flat, **options)
        case "process":
            result = stream.process(lambda v: None if number(v) % 3 == 0 else step.flat(v), **options)
        case "map_batches":
            result = stream.map_batches(step.batch, batch_size=step.size, **options)
        case "state":

            def remember(value, ctx):
                seen = ctx.state.value("seen", 0)
                seen.set(seen.get() + 1)
                return step.fn(value) + seen.get()

            result = stream.map(remember, **options)
        case "count":
            result = stream.count(emit=step.emit, name=name)
        case "sum" | "min" | "max":
            result = getattr(stream, step.kind)(step.fn, emit=step.emit, **options)
        case "reduce":
            result = stream.reduce(lambda a, b: number(a) + step.fn(b), emit=step.emit, **options)
        case "fold":
            result = stream.fold(0, lambda a, b: a * 2 + step.fn(b), emit=step.emit, **options)
    if step.on_error == "dead_letter":
        result.dead_letters().for_each(print, name=f"dead letters of {name}")
    return result


class Failed(Exception):
    """The culprit's name and record."""


@dataclass
class Naive:
    """One record at a time, one operator at a time."""

    steps: list[Step]
    out: list[Any] = field(default_factory=list)

    def __post_init__(self):
        n = len(self.steps)
        self.emitted, self.skipped, self.dead = [0] * n, [0] * n, [[] for _ in range(n)]
        self.tables = [{} for _ in range(n)]
        self.pending = [[] for _ in range(n)]
        self.batches = [[] for _ in range(n)]  # that were run last

    def push(self, i, value):
        if i == len(self.steps):
            self.out.append(value)
            return
        step = self.steps[i]
        key = self._try(f"key of {i}", value, step.key) if step.key is not None else None
        try:
            for output in self.apply(i, step, key, value):
                self.emitted[i] += 1
                self.push(i + 1, output)
        except Boom as error:
            self.failed(i, step, self.batches[i] if step.kind == "map_batches" else value, error)

    def failed(self, i, step, what, error):
        """`what`: a record, of map_batches the batch."""
        if step.on_error == "fail":
            raise Failed(str(i), what) from error
        records = what if step.kind == "map_batches" else [what]
        if step.on_error == "skip":
            self.skipped[i] += len(records)
        else:
            self.dead[i] += records

    def _try(self, name, value, function):
        try:
            return function(value)
        except Boom as error:
            raise Failed(name, value) from error

    def apply(self, i, step, key, value):
        table = self.tables[i]
        match step.kind:
            case "map":
                yield step.fn(value)
            case "filter":
                if step.fn(value):
                    yield value
            case "flat_map":
                yield from step.flat(value)
            case "process":
                if number(value) % 3:
                    yield from step.flat(value)
            case "map_batches":
                self.pending[i].append(value)
                if len(self.pending[i]) == step.size:
                    self.batches[i], self.pending[i] = self.pending[i], []
                    yield from step.batch(self.batches[i])
            case "state":
                seen = table.get(key, 0) + 1
                table[key] = seen
                yield step.fn(value) + seen
            case _:
                table[key] = self.aggregated(step, table, key, value)
                if step.emit == "updates":
                    yield key, table[key]

    def aggregated(self, step, table, key, value):
        match step.kind:
            case "count":
                return table.get(key, 0) + 1
            case "sum":
                return table.get(key, 0) + step.fn(value)
            case "min" | "max":
                mapped = step.fn(value)
                return {"min": min, "max": max}[step.kind](table[key], mapped) if key in table else mapped
            case "reduce":
                return number(table[key]) + step.fn(value) if key in table else value
            case "fold":
                return table.get(key, 0) * 2 + step.fn(value)

    def end(self):
        for i, step in enumerate(self.steps):
            held_back = []
            if step.kind == "map_batches" and self.pending[i]:
                try:
                    held_back = step.batch(self.pending[i])
                except Boom as error:
                    self.failed(i, step, self.pending[i], error)
            elif step.kind in KEYED_ONLY and step.kind != "state" and step.emit == "final":
                held_back = list(self.tables[i].items())
            for output in held_back:
                self.emitted[i] += 1
                self.push(i + 1, output)


def on_a_bench(pipeline, with_keyed_output):
    def build(env):
        stream = env.from_collection([]).union(env.from_collection([]))
        for i, step in enumerate(pipeline):
            stream = write(stream, step, str(i))
        stream.for_each(print, name="plain")
        if with_keyed_output:
            stream.key_by(lambda v: number(v) % 3, name="key").for_each(print, name="keyed")

    return bench(build, "0")


def channels_to(made, name):
    """The channels from the subtask on the bench to the chain of an operator."""
    plan = made.plan
    return [
        c.id
        for c in plan.channels
        if c.id in made.outs and name in [o.name for o in plan.chains[c.edge.target].operators]
    ]


def culprit_in(error):
    notes = error.__notes__
    name = notes[0].split("'")[1]
    found = (re.match(r"record    (.*)|batch     \d+ records: (.*)", note) for note in notes)
    record = next((match[1] or match[2] for match in found if match), None)
    return name, record


@settings(max_examples=200, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=5), st.lists(st.lists(st.integers(0, 40), max_size=40), max_size=4))
def test_the_generated_loop_does_what_a_naive_interpreter_does(pipeline, frames):
    if pipeline[0].key is not None:  # which the sender computes, not this subtask
        pipeline[0] = replace(pipeline[0], key=replace(pipeline[0].key, bad=5))
    naive, expected = Naive(pipeline), None
    failed_at_end = False
    try:
        for frame in frames:
            for value in frame:
                naive.push(0, value)
        failed_at_end = True
        naive.end()
    except Failed as failed:
        expected = failed.args

    # With two readers the last operator is not fused with a sink: its outputs leave on channels.
    made = on_a_bench(pipeline, with_keyed_output=True)
    keyed = pipeline[0].key is not None
    raised = None
    try:
        for frame in frames:
            # The key of a keyed edge is computed by its sender.
            made.give(made.ins[0], *[(pipeline[0].key(v), v) if keyed else v for v in frame])
        for channel in made.ins:
            made.give(channel, EndOfInput())
    except Boom as error:
        raised = culprit_in(error)

    sent = made.port.records(channels_to(made, "plain")[0])
    if expected is None:
        assert raised is None
        assert sent == naive.out
        assert made.port.records(channels_to(made, "keyed")[0]) == [(number(v) % 3, v) for v in naive.out]
    else:
        name, record = expected
        assert raised == (name, shorten(record))
        assert sent == naive.out[: len(sent)]
    if expected is None or not failed_at_end:
        assert made.counts() == {str(i): count for i, count in enumerate(naive.emitted)}
    report = made.subtask.report().operators
    assert [counts.skipped for counts in report.values()] == naive.skipped
    assert [counts.dead_letters for counts in report.values()] == [len(dead) for dead in naive.dead]
    for i, dead in enumerate(naive.dead):
        if pipeline[i].on_error == "dead_letter" and expected is None:
            letters = made.port.records(channels_to(made, f"dead letters of {i}")[0])
            assert [letter.record for letter in letters] == dead
            assert {letter.operator for letter in letters} <= {str(i)}


# --- by example -------------------------------------------------------------------------------------------


def union_of_two(env):
    return env.from_collection([]).union(env.from_collection([]))


def test_a_full_buffer_is_sent_in_the_middle_of_a_flat_map():
    given, seen = [], []

    def many(n):
        for i in range(n):
            given.append(i)
            yield i

    made = bench(
        lambda env: union_of_two(env).flat_map(many, name="many").rebalance().for_each(print, parallelism=2), "many"
    )
    made.port.before_emit = lambda frame: seen.append((len(given), len(frame.records)))
    made.give(made.ins[0], 3000)
    assert seen == [(1024, 512), (1024, 512), (2048, 512), (2048, 512), (3000, 476), (3000, 476)]
    assert made.counts()["many"] == 3000


def test_what_a_full_buffer_counted_is_not_counted_again_when_sending_it_is_interrupted():
    made = bench(
        lambda env: (
            union_of_two(env)
            .filter(bool, name="kept")
            .flat_map(range, name="many")
            .rebalance()
            .for_each(print, parallelism=2)
        ),
        "many",
    )

    def cancelled(frame):
        raise JobCancelled("enough")

    made.port.before_emit = cancelled
    with pytest.raises(JobCancelled):
        made.give(made.ins[0], 0, 3000)
    assert made.counts() == {"kept": 1, "many": 1024}


def failing_at(bad):
    def check(n):
        if n == bad:
            raise Boom(n)
        return n

    return check


@pytest.mark.parametrize("verb", ["map", "filter", "for_each"])
def test_what_came_before_the_record_that_raised_is_counted_and_no_more(verb):
    def build(env):
        stream = union_of_two(env).map(abs, name="before")
        stream = getattr(stream, verb)(failing_at(3), name="bad")
        if verb != "for_each":
            stream.map(abs, name="after").for_each(print)

    made = bench(build, "before")
    with pytest.raises(Boom) as caught:
        made.give(made.ins[0], 1, 2, 3, 4, 5)
    assert culprit_in(caught.value) == ("bad", "3")
    assert made.counts()["before"] == 3
    assert made.counts()["bad"] == 2
    assert made.counts().get("after", 2) == 2


def test_a_connected_process_that_raises_counts_what_it_gave():
    def twice(n):
        yield n
        yield failing_at(3)(n)

    made = bench(
        lambda env: (
            env.from_collection([]).connect(env.from_collection([])).process(twice, twice, name="both").for_each(print)
        ),
        "both",
    )
    with pytest.raises(Boom):
        made.give(made.ins[1], 1, 3)
    assert made.counts()["both"] == 3


def test_each_side_of_connected_streams_has_its_function_and_both_share_the_state():
    def put(value, ctx):
        ctx.state.value("last").set(value)
        return ("put", ctx.key, value)

    def get(value, ctx):
        return ("got", ctx.key, ctx.state.value("last").get())

    made = bench(
        lambda env: (
            env.from_collection([])
            .key_by(len)
            .connect(env.from_collection([]).key_by(len))
            .map(put, get, name="both")
            .rebalance()
            .for_each(print, parallelism=2)
        ),
        "both",
    )
    left, right = made.ins
    made.give(left, (2, "ab"))
    made.give(right, (2, "xy"), (1, "z"))
    assert sorted(made.port.records(), key=str) == [("got", 1, None), ("got", 2, "ab"), ("put", 2, "ab")]


class NoTruth:
    def __bool__(self):
        raise Boom("no truth value")


def test_a_filter_whose_answer_has_no_truth_value_fails_as_itself():
    made = bench(lambda env: union_of_two(env).filter(lambda _: NoTruth(), name="bad").map(str).for_each(print), "bad")
    with pytest.raises(Boom) as caught:
        made.give(made.ins[0], 7)
    assert culprit_in(caught.value) == ("bad", "7")


def test_a_filter_whose_answer_has_no_truth_value_is_skipped_where_it_should_be():
    made = bench(
        lambda env: union_of_two(env).filter(lambda _: NoTruth(), name="bad", on_error="skip").map(str).for_each(print),
        "bad",
    )
    made.give(made.ins[0], 7)
    assert made.subtask.report().operators["bad"].skipped == 1


def test_the_key_of_an_output_that_raises_is_blamed_on_its_key_by():
    def build(env):
        stream = union_of_two(env).map(abs, name="first")
        stream.key_by(failing_at(2), name="key").count().for_each(print)
        stream.for_each(print)

    made = bench(build, "first")
    with pytest.raises(Boom) as caught:
        made.give(made.ins[0], 1, 2)
    assert culprit_in(caught.value) == ("key", "2")
    assert made.counts() == {"first": 2}


def test_an_unhashable_key_at_parallelism_one_says_what_to_use_instead():
    from sage_flow.errors import InvalidKeyError

    made = bench(lambda env: union_of_two(env).map(abs, name="m").key_by(lambda n: [n]).count().for_each(print), "m")
    with pytest.raises(InvalidKeyError, match="use a tuple") as caught:
        made.give(made.ins[0], 1)
    assert caught.value.__notes__[1] == "record    1"


def test_a_function_that_gives_no_iterable_is_the_culprit():
    made = bench(lambda env: union_of_two(env).flat_map(lambda n: n, name="flat").for_each(print), "flat")
    with pytest.raises(TypeError) as caught:
        made.give(made.ins[0], 5)
    assert culprit_in(caught.value) == ("flat", "5")


def test_the_last_batch_names_its_operator_too_when_it_is_a_generator():
    def lazily(batch):
        for n in batch:
            yield failing_at(2)(n)

    made = bench(lambda env: union_of_two(env).map_batches(lazily, name="batches").for_each(print), "batches")
    made.give(made.ins[0], 1, 2)
    made.give(made.ins[0], EndOfInput())
    with pytest.raises(Boom) as caught:
        made.give(made.ins[1], EndOfInput())
    assert culprit_in(caught.value)[0] == "batches"


def test_a_side_output_that_nobody_reads_is_an_error_that_says_how_to_read_it():
    made = bench(
        lambda env: union_of_two(env).process(lambda v, ctx: ctx.output("odd", v), name="p").for_each(print), "p"
    )
    with pytest.raises(PipelineError, match=r"\.side_output\('odd'\)"):
        made.give(made.ins[0], 1)


def test_a_generated_loop_is_known_to_tracebacks_by_its_lines():
    import traceback

    made = bench(lambda env: union_of_two(env).map(failing_at(1), name="bad").for_each(print), "bad")
    with pytest.raises(Boom) as caught:
        made.give(made.ins[0], 1)
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__) if "<sage_flow" in frame.filename]
    assert lines == ["v0 = f0(v)"]
