"""Records that fail are skipped or kept as dead letters if that is asked for; wrong outputs and state are errors."""

from collections import Counter

import pytest
from failing_pipelines import Boom, error_of, notes_of, one_process

from sage_flow import DeadLetter, Function, LocalEnvironment
from sage_flow.errors import PipelineError

# --- on_error ---------------------------------------------------------------------------------------------


def checked(n):
    if n % 10 == 3:
        raise Boom(n)
    return n


GOOD = [n for n in range(100) if n % 10 != 3]
FAILED = [n for n in range(100) if n % 10 == 3]


def yielding(n):
    yield n
    yield checked(n)


def running(step, start=None):
    """What an aggregate over n % 2 emits for GOOD: plain Python."""
    state, rows = {}, []
    for n in GOOD:
        key = n % 2
        state[key] = step(state[key], n) if key in state else (n if start is None else step(start, n))
        rows.append((key, state[key]))
    return rows


def keyed(stream):
    return stream.key_by(lambda n: n % 2)


# kind: (build, what comes out, how many are counted as emitted)
POLICIES = {
    "map": (lambda s, **o: s.map(checked, **o), GOOD),
    "filter": (lambda s, **o: s.filter(lambda n: checked(n) % 2, **o), [n for n in GOOD if n % 2]),
    "flat_map": (
        lambda s, **o: s.flat_map(yielding, **o),
        [n for n in range(100) for _ in range(1 if n % 10 == 3 else 2)],
    ),
    "flat_map of a list": (lambda s, **o: s.flat_map(lambda n: [checked(n)] * 2, **o), [n for n in GOOD for _ in "ab"]),
    "process": (lambda s, **o: s.process(lambda n, ctx: [checked(n)], **o), GOOD),
    "process of None": (lambda s, **o: s.process(lambda n, ctx: (checked(n), None)[1], **o), []),
    "reduce": (lambda s, **o: keyed(s).reduce(lambda a, b: a + checked(b), **o), running(lambda a, b: a + b)),
    "fold": (lambda s, **o: keyed(s).fold(100, lambda a, b: a + checked(b), **o), running(lambda a, b: a + b, 100)),
    "fold of lists": (
        lambda s, **o: keyed(s).fold(list, lambda a, b: [*a, checked(b)], **o),
        running(lambda a, b: [*a, b], []),
    ),
    "sum": (lambda s, **o: keyed(s).sum(checked, **o), running(lambda a, b: a + b)),
    "min": (lambda s, **o: keyed(s).min(checked, **o), running(min)),
    "max": (lambda s, **o: keyed(s).max(checked, **o), running(max)),
    "final sum": (
        lambda s, **o: keyed(s).sum(checked, emit="final", **o),
        [(key, sum(n for n in GOOD if n % 2 == key)) for key in (0, 1)],
    ),
    "keyed map": (lambda s, **o: keyed(s).map(lambda n, ctx: (ctx.key, checked(n)), **o), [(n % 2, n) for n in GOOD]),
    "connect_map": (lambda s, **o: s.connect(s.filter(lambda n: False)).map(checked, str, **o), GOOD),
    "connect_process": (
        lambda s, **o: s.connect(s.filter(lambda n: False)).process(lambda n: [checked(n)], lambda n: [n], **o),
        GOOD,
    ),
}


def tally(rows):
    return Counter(map(repr, rows))


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("policy", ["fail", "skip", "dead_letter"])
@pytest.mark.parametrize(("build", "expected"), POLICIES.values(), ids=POLICIES)
def test_on_error_does_what_it_says_with_exact_counts(build, expected, policy, parallelism):
    env = LocalEnvironment("test", parallelism)
    stream = build(env.from_collection(range(100)), on_error=policy, name="step")
    stream.collect("rows")
    if policy == "fail":
        error = error_of(env, Boom)
        assert "operator  'step'" in notes_of(error)
        assert 'on_error="skip"' in notes_of(error)
        return
    if policy == "dead_letter":
        stream.dead_letters().collect("letters")
    result = env.execute()
    assert tally(result.collected["rows"]) == tally(expected)
    assert result.counts["step"] == len(expected)
    assert result.skipped == ({"step": 10} if policy == "skip" else {})
    assert result.dead_letters == ({"step": 10} if policy == "dead_letter" else {})
    if policy == "dead_letter":
        letters = sorted(result.collected["letters"], key=lambda letter: letter.record)
        assert letters == [DeadLetter(n, f"Boom: {n}", "step") for n in FAILED]


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_every_policy_of_every_operator_in_one_job(mode):
    env = mode.environment()
    source = env.from_collection(range(100))
    for kind, (build, _) in POLICIES.items():
        build(source, on_error="skip", name=f"{kind} skip").collect(f"{kind} rows")
        dead = build(source, on_error="dead_letter", name=f"{kind} dead")
        dead.for_each(id)
        dead.dead_letters().map(lambda letter: letter.record).collect(f"{kind} letters")
    result = env.execute()
    for kind, (_, expected) in POLICIES.items():
        assert tally(result.collected[f"{kind} rows"]) == tally(expected)
        assert result.skipped[f"{kind} skip"] == 10
        assert result.dead_letters[f"{kind} dead"] == 10
        assert result.counts[f"{kind} dead"] == len(expected)
        assert sorted(result.collected[f"{kind} letters"]) == FAILED


def test_a_for_each_that_fails_can_be_skipped():
    taken = []
    env = LocalEnvironment("test")
    env.from_collection(range(100)).for_each(lambda n: taken.append(checked(n)), on_error="skip", name="sink")
    result = env.execute()
    assert taken == GOOD
    assert result.skipped == {"sink": 10}
    assert result.counts["sink"] == 90


@one_process
def test_more_dead_letters_than_a_frame_holds_all_arrive(mode):
    env = mode.environment()
    stream = env.from_collection(range(5000)).map(lambda n: 1 // (n % 2), on_error="dead_letter")
    stream.collect("rows")
    stream.dead_letters().map(lambda letter: letter.record).collect("letters")
    result = env.execute()
    assert sorted(result.collected["letters"]) == list(range(0, 5000, 2))
    assert result.collected["rows"] == [1] * 2500


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
def test_no_policy_swallows_what_is_no_exception(policy):
    def leave(n):
        raise SystemExit(4)

    env = LocalEnvironment("test")
    stream = env.from_collection([1]).map(leave, on_error=policy)
    stream.collect()
    if policy == "dead_letter":
        stream.dead_letters().collect()
    error_of(env, SystemExit)


# --- side outputs and state -------------------------------------------------------------------------------


def test_a_side_output_that_nobody_reads_is_an_error_that_names_it():
    env = LocalEnvironment("test")
    env.from_collection([1]).map(lambda n, ctx: ctx.output("odd", n), name="split").collect()
    error = error_of(env, PipelineError)
    assert "'odd'" in str(error)
    assert "'split'" in str(error)
    assert ".side_output('odd')" in str(error)


def test_state_without_a_key_names_the_operator_and_the_cure():
    env = LocalEnvironment("test")
    env.from_collection([1]).map(lambda n, ctx: ctx.state.value("total"), name="total").collect()
    error = error_of(env, PipelineError)
    assert "'total'" in str(error)
    assert ".key_by(" in str(error)


class StateIn(Function):
    def __init__(self, where):
        self.where = where

    def open(self, ctx):
        self.total = ctx.state.value("total", 0)
        if self.where == "open":
            self.total.get()

    def __call__(self, value):
        self.total.set(value)
        return value

    def close(self):
        if self.where == "close":
            self.total.get()


@pytest.mark.parametrize("where", ["open", "close"])
def test_state_has_no_key_outside_of_a_record(where):
    env = LocalEnvironment("test")
    env.from_collection([1]).key_by(str).map(StateIn(where), name="total").collect()
    error = error_of(env, PipelineError)
    assert "no key" in str(error)
    assert "'total'" in notes_of(error)


def test_a_state_of_two_kinds_is_an_error():
    def both(n, ctx):
        ctx.state.value("total")
        ctx.state.list("total")

    env = LocalEnvironment("test")
    env.from_collection([1]).key_by(str).map(both).collect()
    assert "'total'" in str(error_of(env, PipelineError))
