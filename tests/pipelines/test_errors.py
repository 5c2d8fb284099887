"""What goes wrong has one clear error, ends the job, closes what was opened and publishes nothing."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import pytest

from sage_flow import DeadLetter, Function, JobStatus, LocalEnvironment, ProcessFunction, Sink, Source
from sage_flow.errors import (
    CodecError,
    CollectLimitError,
    InvalidKeyError,
    PipelineError,
    RemoteError,
    WorkerDied,
)
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.runtime.failure import describe
from sage_flow.testing import ABORT, MODES, SourceAborted, TestSource, collect

HERE = os.path.basename(__file__)

one_process = pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "processes"], ids=str)
"""For what does not depend on processes, of which each job costs most of a second."""


class Boom(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class Diary:
    """Lines that functions write, in whatever process they run, and the test reads."""

    def __init__(self, path):
        self.path = str(path)

    def note(self, *words):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def lines(self, first=""):
        try:
            text = pathlib.Path(self.path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.startswith(first)]

    def who(self, what):
        return Counter(line.split(" ", 1)[1] for line in self.lines(what + " "))


@pytest.fixture
def diary(tmp_path):
    return Diary(tmp_path / "diary")


class _LifeCycle:
    """Notes open and close; raises Boom in the methods named in `fails`, at the value 17 where there is one."""

    def __init__(self, diary, name, fails=()):
        self.diary = diary
        self.name = name
        self.fails = fails

    def open(self, ctx):
        self.place = f"{self.name} {ctx.subtask_index}"
        self.fail_in("open")
        self.diary.note("open", self.place)

    def close(self):
        self.diary.note("close", self.place)
        self.fail_in("close")

    def fail_in(self, method, value=17):
        if method in self.fails and value == 17:
            raise Boom(method)


class WatchedMap(_LifeCycle, Function):
    def __call__(self, value):
        self.diary.note("call", value)
        self.fail_in("map", value)
        return value


class WatchedFlatMap(_LifeCycle, Function):
    def __call__(self, value):
        yield value
        self.fail_in("flat_map", value)


class WatchedProcess(_LifeCycle, ProcessFunction):
    def process(self, value, ctx):
        yield value
        self.fail_in("process", value)


class WatchedBatches(_LifeCycle, Function):
    def __call__(self, values):
        for value in values:
            self.fail_in("map_batches", value)
            yield value


class WatchedSink(_LifeCycle, Sink):
    def write(self, value):
        self.fail_in("write", value)

    def commit(self):
        self.fail_in("commit")
        self.diary.note("commit", self.place)

    def abort(self):
        self.diary.note("abort", self.name)


class WatchedSource(_LifeCycle, TestSource):
    def __init__(self, diary, name, fails=()):
        TestSource.__init__(self, range(40))
        _LifeCycle.__init__(self, diary, name, fails)

    def next_batch(self):
        batch = TestSource.next_batch(self)
        self.fail_in("next_batch")
        return batch


def watched_pipeline(env, diary, fails):
    """One of everything, with shuffles between; the operator that fails is named `<name>`."""
    stream = env.from_source(WatchedSource(diary, "source", fails), name="source")
    stream = stream.rebalance().map(WatchedMap(diary, "map", fails), name="map")
    stream = stream.rebalance().flat_map(WatchedFlatMap(diary, "flat_map", fails), name="flat_map")
    stream = stream.key_by(lambda n: n % 5).process(WatchedProcess(diary, "process", fails), name="process")
    stream = stream.map_batches(WatchedBatches(diary, "map_batches", fails), batch_size=3, name="map_batches")
    stream.rebalance().add_sink(WatchedSink(diary, "sink", fails), name="sink")


def notes_of(error):
    return "\n".join(getattr(error, "__notes__", ()))


def error_of(env, kind):
    """The error that ends the job; a job that does not end is a TimeoutError."""
    job = env.submit()
    with pytest.raises(kind) as caught:
        job.result(timeout=60)
    assert job.status is JobStatus.FAILED
    return caught.value


def run_script(tmp_path, text, *arguments, timeout=60):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


# --- a pipeline that cannot run, known when it is written or submitted -------------------------------------


def numbers(env, name="numbers"):
    return env.from_collection([1, 2, 3], name=name)


def two_operators_of_one_name(env):
    numbers(env).map(str, name="twin").map(len, name="twin").collect()


def other(env):
    return LocalEnvironment("other").from_collection([1])


NOT_A_PIPELINE = {
    "map needs a function": (lambda env: numbers(env).map(3), ["'map-1'", HERE, "function", "3"]),
    "filter needs a function": (lambda env: numbers(env).filter(None), ["'filter-1'", HERE, "function"]),
    "process needs a function": (lambda env: numbers(env).process("x"), ["'process-1'", HERE, "function"]),
    "key_by needs a function": (lambda env: numbers(env).key_by("n"), ["'key_by-1'", HERE, "function"]),
    "a function of two values": (lambda env: numbers(env).map(lambda a, b: a), ["'map-1'", HERE, "1 value", "'b'"]),
    "a function of no value": (lambda env: numbers(env).map(lambda: 1), ["'map-1'", HERE, "1 value"]),
    "a reduce of one value": (
        lambda env: numbers(env).key_by(str).reduce(lambda a: a),
        ["'reduce-1'", HERE, "2 values"],
    ),
    "with_ctx without room": (
        lambda env: numbers(env).map(lambda n: n, with_ctx=True),
        ["'map-1'", HERE, "the context"],
    ),
    "an unknown on_error": (lambda env: numbers(env).map(str, on_error="ignore"), ["'map-1'", HERE, "skip", "ignore"]),
    "parallelism 0": (lambda env: numbers(env).map(str, parallelism=0), ["'map-1'", "at least 1", "0"]),
    "parallelism -1": (lambda env: numbers(env).map(str, parallelism=-1), ["'map-1'", "at least 1", "-1"]),
    "parallelism True": (lambda env: numbers(env).map(str, parallelism=True), ["'map-1'", "number", "True"]),
    "parallelism '2'": (lambda env: numbers(env).map(str, parallelism="2"), ["'map-1'", "number", "'2'"]),
    "parallelism 1.0": (lambda env: numbers(env).map(str, parallelism=1.0), ["'map-1'", "number", "1.0"]),
    "default parallelism 0": (lambda env: LocalEnvironment("job", 0), ["'job'", "at least 1"]),
    "batch_size 0": (lambda env: numbers(env).map_batches(list, batch_size=0), ["batch_size", "at least 1"]),
    "two operators of one name": (two_operators_of_one_name, ["'twin'", HERE, "name="]),
    "an empty name": (lambda env: numbers(env).map(str, name=""), ["non-empty", "''"]),
    "union with another environment": (lambda env: numbers(env).union(other(env)), ["two environments", "'other'"]),
    "connect with another environment": (
        lambda env: numbers(env).connect(other(env)),
        ["two environments", "'other'"],
    ),
    "union with a list": (lambda env: numbers(env).union([1]), ["DataStream", "[1]"]),
    "connect of keyed and unkeyed": (
        lambda env: numbers(env).key_by(str).connect(numbers(env, "more")),
        ["KeyedStream"],
    ),
    "a sinkless branch": (
        lambda env: (numbers(env).collect(), numbers(env, "more").map(str, name="lost")),
        ["'lost'", HERE, "collect"],
    ),
    "a pipeline without a sink": (lambda env: numbers(env).map(str), ["no sink", "collect"]),
    "an empty pipeline": (lambda env: None, ["no sink", "collect"]),
    "dead letters that nobody reads": (
        lambda env: numbers(env).map(str, on_error="dead_letter").collect(),
        ["'map-1'", HERE, ".dead_letters()"],
    ),
    "forward between unequal parallelism": (
        lambda env: numbers(env).forward().map(str, parallelism=2, name="two").collect(),
        ["'two'", HERE, "forward()", "1 and 2"],
    ),
    "a parallel collection": (
        lambda env: env.from_source(TestSource([1]), parallelism=2, name="one").collect(),
        ["'one'", HERE, "at most 1", "2"],
    ),
    "a source that is none": (lambda env: env.from_source([1]), ["Source", "from_iterable"]),
    "a sink that is none": (lambda env: numbers(env).add_sink(print), ["Sink", "for_each"]),
    "an unknown emit": (lambda env: numbers(env).key_by(str).count(emit="all"), ["emit", "final", "'all'"]),
    "a nameless environment": (lambda env: LocalEnvironment(""), ["name", "non-empty"]),
    **{
        f"{aggregate} without key_by": (
            lambda env, aggregate=aggregate: getattr(numbers(env), aggregate),
            [f".{aggregate}()", ".key_by("],
        )
        for aggregate in ("reduce", "fold", "count", "sum", "min", "max")
    },
}


@pytest.mark.parametrize(("write", "fragments"), NOT_A_PIPELINE.values(), ids=NOT_A_PIPELINE)
def test_a_pipeline_that_cannot_run_is_refused_with_name_place_and_cure(write, fragments):
    env = LocalEnvironment("test")
    with pytest.raises(PipelineError) as caught:  # noqa: PT012 - when it is written, or when it is started
        write(env)
        env.execute()
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda env: numbers(env).map(str, paralelism=2),
        lambda env: numbers(env).key_by(str, parallelism=2),
        lambda env: numbers(env).key_by(str).count(on_error="skip"),
        lambda env: numbers(env).map_batches(list, on_error="skip"),
        lambda env: env.from_collection([1], parallelism=2),
        lambda env: env.execute(verbose=True),
        lambda env: LocalEnvironment("job", retries=2),
    ],
)
def test_an_unknown_keyword_fails_at_the_call(call):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        call(LocalEnvironment("test"))


def test_a_parallelism_that_is_refused_says_where_it_was_written():
    with pytest.raises(PipelineError) as caught:
        numbers(LocalEnvironment("test")).map(str, parallelism=0)
    assert any(frame.path.name == HERE for frame in caught.traceback)


# --- keys -------------------------------------------------------------------------------------------------


class Unlisted:
    pass


BAD_KEYS = {
    "list": (lambda n: [n], "list"),
    "list in a tuple": (lambda n: (n, [n]), "list"),
    "NaN": (lambda n: float("nan"), "NaN"),
    "NaN in a tuple": (lambda n: ("x", float("nan")), "NaN"),
    "dict": (lambda n: {n: n}, "dict"),
    "unlisted type": (lambda n: Unlisted(), "stable_hash.register"),
    "complex": (lambda n: 1j, "stable_hash.register"),
}
KEYED_STEPS = {
    "count": lambda keyed: keyed.count(name="step"),
    "reduce": lambda keyed: keyed.reduce(max, name="step"),
    "final": lambda keyed: keyed.sum(emit="final", name="step"),
    "state": lambda keyed: keyed.map(lambda n, ctx: ctx.state.value("v", 0).get(), name="step"),
    "list state": lambda keyed: keyed.map(lambda n, ctx: ctx.state.list("v").append(n), name="step"),
}


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("step", KEYED_STEPS.values(), ids=KEYED_STEPS)
@pytest.mark.parametrize(("key", "cure"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_key_without_a_stable_hash_is_an_error_at_every_parallelism(key, cure, step, parallelism):
    env = LocalEnvironment("test", parallelism)
    step(env.from_collection([4711]).key_by(key)).collect()
    error = error_of(env, InvalidKeyError)
    assert cure in str(error)
    assert "operator  '" in notes_of(error)
    assert HERE in notes_of(error)
    assert "4711" in notes_of(error)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_key_function_that_raises_is_blamed_with_its_record(parallelism):
    env = LocalEnvironment("test", parallelism)
    env.from_collection([4, 2, 0, 7]).key_by(lambda n: 1 // n, name="inverse").count().collect()
    error = error_of(env, ZeroDivisionError)
    assert "operator  'inverse' (key_by)" in notes_of(error)
    assert "record    0" in notes_of(error)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_users_own_type_error_is_not_taken_for_a_bad_key(parallelism):
    env = LocalEnvironment("test", parallelism)
    env.from_collection([1]).key_by(str).map(lambda n: {[]: n}).collect()
    assert "unhashable type: 'list'" in str(error_of(env, TypeError))


# --- a failing job ends, closes, publishes nothing ---------------------------------------------------------

FAILURES = {  # method that raises -> operator that is blamed
    "next_batch": "source",
    "map": "map",
    "flat_map": "flat_map",
    "process": "process",
    "map_batches": "map_batches",
    "write": "sink",
    "open": None,
    "close": None,
    "commit": "sink",
}


@pytest.mark.parametrize("method", FAILURES)
def test_whatever_fails_ends_the_job_with_its_own_error_and_closes_what_was_opened(mode, diary, method):
    env = mode.environment("watched")
    watched_pipeline(env, diary, [method])
    error = error_of(env, Boom)
    assert str(error) == method
    assert f"operator  '{FAILURES[method] or ''}" in notes_of(error)
    assert "subtask " in notes_of(error)
    assert "job 'watched'" in notes_of(error)
    if method in ("map", "flat_map", "process", "write"):
        assert "record    17" in notes_of(error)
    assert diary.who("open") == diary.who("close")
    assert set(diary.who("open").values()) <= {1}
    assert not diary.lines("commit")
    assert max(diary.who("call").values(), default=1) == 1  # no record is run again to find the culprit


@pytest.mark.parametrize("name", ["source", "map", "flat_map", "process", "map_batches", "sink"])
@pytest.mark.parametrize("method", ["open", "close"])
def test_a_life_cycle_that_fails_names_its_operator(diary, name, method):
    classes = {
        "source": WatchedSource,
        "map": WatchedMap,
        "flat_map": WatchedFlatMap,
        "process": WatchedProcess,
        "map_batches": WatchedBatches,
        "sink": WatchedSink,
    }
    env = LocalEnvironment("test")
    fails = {name: [method]}
    stream = env.from_source(WatchedSource(diary, "source", fails.get("source", ())), name="source")
    for step in ("map", "flat_map", "process", "map_batches"):
        stream = getattr(stream, step)(classes[step](diary, step, fails.get(step, ())), name=step)
    stream.add_sink(WatchedSink(diary, "sink", fails.get("sink", ())), name="sink")
    error = error_of(env, Boom)
    assert f"operator  {name!r}" in notes_of(error)
    assert HERE in notes_of(error)
    assert diary.who("open") == diary.who("close")
    assert not diary.lines("commit")


def test_when_closing_fails_too_the_first_error_is_told_and_sinks_are_still_aborted(diary):
    env = LocalEnvironment("test")
    stream = env.from_collection(range(40)).map(WatchedMap(diary, "map", ["map", "close"]))
    stream.add_sink(WatchedSink(diary, "sink"))
    assert str(error_of(env, Boom)) == "map"
    assert diary.who("open") == diary.who("close") == {"map 0": 1, "sink 0": 1}
    assert diary.lines("abort") == ["abort sink"]


def test_a_sink_that_fails_to_close_is_aborted(diary):
    env = LocalEnvironment("test")
    env.from_collection([1]).add_sink(WatchedSink(diary, "sink", ["close"]))
    error_of(env, Boom)
    assert diary.lines("abort") == ["abort sink"]
    assert not diary.lines("commit")


def test_a_sink_is_not_committed_when_another_branch_fails(diary):
    env = LocalEnvironment("test")
    source = env.from_collection(range(3000))
    source.add_sink(WatchedSink(diary, "good"))
    source.rebalance().map(lambda n: 1 // (2999 - n), parallelism=2).for_each(str)
    error_of(env, ZeroDivisionError)
    assert diary.lines("abort") == ["abort good"]
    assert not diary.lines("commit")


def test_file_sinks_publish_nothing_when_the_job_fails(mode, tmp_path):
    env = mode.environment()
    source = env.from_collection(range(100))
    source.map(str).write_text(tmp_path / "all.txt")
    source.map(lambda n: {"n": n}).write_jsonl(tmp_path / "all.jsonl", parallelism=2)
    source.map(lambda n: 1 // (99 - n)).for_each(str)
    error_of(env, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


# --- sources ----------------------------------------------------------------------------------------------


def test_a_source_that_raises_midway_names_itself(mode):
    env = mode.environment()
    env.from_source(TestSource([1, 2, 3, ABORT]), name="broken").collect()
    error = error_of(env, SourceAborted)
    assert "after 3 items" in str(error)
    assert "operator  'broken' (source)" in notes_of(error)
    assert "on_error" not in notes_of(error)  # no policy skips a source's error


class WrongBatch(Source):
    def __init__(self, batch, blocking=False):
        self.batch = batch
        self.blocking = blocking

    def next_batch(self):
        return self.batch


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("batch", [(1, 2), None, 5, "text"], ids=repr)
def test_next_batch_must_return_a_list(batch, blocking):
    env = LocalEnvironment("test", cancel_grace_s=0.5)
    env.from_source(WrongBatch(batch, blocking), name="wrong").collect()
    with env.submit() as job, pytest.raises(PipelineError) as caught:
        job.result(timeout=3)
    for fragment in ("'wrong'", HERE, "list, IDLE or END", type(batch).__name__):
        assert fragment in str(caught.value)


def test_a_generator_that_raises_midway_names_its_source():
    def broken():
        yield from range(10)
        raise Boom("generator")

    env = LocalEnvironment("test")
    env.from_iterable(broken, name="broken").collect()
    error = error_of(env, Boom)
    assert "operator  'broken' (source)" in notes_of(error)


# --- operators --------------------------------------------------------------------------------------------


def test_a_map_that_raises_in_the_middle_of_a_batch_ran_every_earlier_record_once(diary):
    env = LocalEnvironment("test")
    env.from_collection(range(1000)).map(lambda n: n).map(WatchedMap(diary, "map", ["map"])).collect("rows")
    error_of(env, Boom)
    assert diary.who("call") == Counter({str(n): 1 for n in range(18)})


def test_counts_are_right_up_to_the_record_that_failed():
    env = LocalEnvironment("test")
    stream = env.from_collection(range(1000)).map(lambda n: n, name="first").filter(lambda n: n % 2, name="odd")
    stream.map(lambda n: 1 // (501 - n), name="last").for_each(str, name="sink")
    with env.submit() as job:
        with pytest.raises(ZeroDivisionError):
            job.result()
        counts = {name: count.emitted for name, count in job.metrics()["operators"].items()}
    assert counts["odd"] == 251
    assert counts["last"] == counts["sink"] == 250


@pytest.mark.parametrize("size", [4, 5], ids=["in a full batch", "in the last batch"])
@pytest.mark.parametrize("lazy", [False, True], ids=["function", "generator"])
def test_map_batches_that_raises_names_itself_also_in_its_last_batch(size, lazy):
    def eager(values):
        if 7 in values:
            raise Boom("batch")
        return values

    def lazily(values):
        yield from eager(values)

    env = LocalEnvironment("test")
    env.from_collection(range(8)).map_batches(lazily if lazy else eager, batch_size=size, name="b").collect()
    assert "operator  'b' (map_batches)" in notes_of(error_of(env, Boom))


@pytest.mark.parametrize("size", [4, 5], ids=["in a full batch", "in the last batch"])
def test_map_batches_that_returns_no_iterable_is_an_error_also_in_its_last_batch(size):
    env = LocalEnvironment("test")
    env.from_collection(range(8)).map_batches(lambda values: None, batch_size=size, name="b").collect()
    assert "operator  'b' (map_batches)" in notes_of(error_of(env, TypeError))


def test_what_a_flat_map_gave_before_it_raised_was_given(diary):
    def three(n):
        yield n
        if n == 2:
            raise Boom("after one")
        yield -n

    env = LocalEnvironment("test")
    env.from_collection([1, 2, 3]).flat_map(three, name="three").for_each(WatchedMap(diary, "sink"))
    error = error_of(env, Boom)
    assert "operator  'three' (flat_map)" in notes_of(error)
    assert "record    2" in notes_of(error)
    assert diary.lines("call") == ["call 1", "call -1", "call 2"]


@pytest.mark.parametrize("operator", ["flat_map", "process"])
@pytest.mark.parametrize("output", [5, 0, False, 0.0])
def test_what_is_no_iterable_is_blamed_on_the_operator_that_returned_it(operator, output):
    env = LocalEnvironment("test")
    getattr(env.from_collection([8]), operator)(lambda n: output, name="one").collect()
    error = error_of(env, TypeError)
    assert f"operator  'one' ({operator})" in notes_of(error)
    assert "record    8" in notes_of(error)


def test_an_error_behind_a_flat_map_is_blamed_on_the_operator_that_raised():
    env = LocalEnvironment("test")
    env.from_collection([3]).flat_map(range).map(lambda n: 1 // (n - 1), name="inverse").collect()
    error = error_of(env, ZeroDivisionError)
    assert "operator  'inverse' (map)" in notes_of(error)
    assert "record    1" in notes_of(error)


def test_the_record_in_an_error_is_shortened_and_may_have_a_broken_repr():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    for record in ({str(n): n for n in range(1000)}, "x" * 100_000, Broken()):
        env = LocalEnvironment("test")
        env.from_collection([record]).map(lambda r: 1 // 0).collect()
        error = error_of(env, ZeroDivisionError)
        assert "record    " in notes_of(error)
        assert len(notes_of(error)) < 1500


def test_an_error_tells_the_users_line_first_and_is_short(mode):
    def inverse(n):
        return 1 // n  # the line

    env = mode.environment("flights")
    env.from_collection([1, 0]).map(inverse, name="inverse").collect()
    with pytest.raises(ZeroDivisionError) as caught:
        env.execute()
    lines = describe(caught.value)
    assert len(lines) < 15
    assert lines[0].startswith("ZeroDivisionError: ")
    theirs = next(index for index, line in enumerate(lines) if "# the line" in line)
    operator = next(index for index, line in enumerate(lines) if line.startswith("operator  "))
    assert HERE in lines[theirs]
    assert "in inverse" in lines[theirs]
    assert theirs < operator
    assert "'inverse'" in lines[operator]
    assert "'flights'" in lines[operator]
    assert not [line for line in lines if "sage_flow/" in line]


def test_a_deep_recursion_is_told_in_fifteen_lines_too():
    def deeper(n):
        return deeper(n + 1)

    env = LocalEnvironment("test")
    env.from_collection([0]).map(deeper).collect()
    lines = describe(error_of(env, RecursionError))
    assert len(lines) < 15
    assert "in deeper" in "\n".join(lines)


def test_execute_raises_without_the_engines_frames():
    env = LocalEnvironment("test")
    env.from_collection([0]).map(lambda n: 1 // n).collect()
    with pytest.raises(ZeroDivisionError) as caught:
        env.execute()
    names = [entry.path.name for entry in caught.traceback]
    assert names[-1] == HERE
    assert "chain.py" not in names
    assert "subtask.py" not in names


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


# --- exceptions on their way ------------------------------------------------------------------------------


def raising(error):
    def step(n):
        raise error

    return step


def test_an_exception_with_two_arguments_arrives_whole(mode):
    def step(n):
        raise TwoArguments(n, "too small")

    env = mode.environment()
    env.from_collection([7]).map(step).collect()
    error = error_of(env, TwoArguments)
    assert str(error) == "7: too small"
    assert (error.code, error.reason) == (7, "too small")


@pytest.mark.parametrize(
    ("step", "kind", "attributes"),
    [
        (lambda n: os.stat("no/such/file.txt"), FileNotFoundError, ["errno", "strerror", "filename"]),
        (lambda n: "é".encode("ascii"), UnicodeEncodeError, ["object", "start", "end", "reason"]),
        (lambda n: b"\xff".decode(), UnicodeDecodeError, ["object", "start", "end", "reason"]),
        (lambda n: json.loads("{"), json.JSONDecodeError, ["pos", "doc"]),
        (lambda n: __import__("no_such_module"), ModuleNotFoundError, ["name"]),
        (lambda n: {}["key"], KeyError, ["args"]),
        (lambda n: sys.exit(3), SystemExit, ["code"]),
    ],
)
def test_exceptions_of_the_standard_library_arrive_whole_from_a_process(step, kind, attributes):
    with pytest.raises(kind) as original:
        step(0)
    env = LocalEnvironment("test", executor=ProcessExecutor())
    env.from_collection([0]).map(step).collect()
    error = error_of(env, kind)
    assert str(error) == str(original.value)
    for name in attributes:
        assert getattr(error, name) == getattr(original.value, name)


def test_an_exception_that_cannot_be_pickled_is_told_all_the_same():
    env = LocalEnvironment("test", executor=ProcessExecutor())

    def step(n):
        raise Unpicklable("it has a lock")

    env.from_collection([1]).map(step, name="step").collect()
    error = error_of(env, RemoteError)
    assert "Unpicklable" in str(error)
    assert "it has a lock" in str(error)
    assert error.type_name.endswith("Unpicklable")
    assert "in step" in error.traceback_text
    assert "operator  'step'" in notes_of(error)


def test_an_exception_that_cannot_be_pickled_stays_itself_in_one_process():
    env = LocalEnvironment("test")
    env.from_collection([1]).map(raising(Unpicklable("it has a lock"))).collect()
    assert error_of(env, Unpicklable).lock is not None


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_ends_the_job_too(mode, diary, kind):
    env = mode.environment()
    source = env.from_source(WatchedSource(diary, "source"))

    def leave(n):
        if n == 17:
            raise kind(3)
        return n

    source.rebalance().map(leave, name="leave").rebalance().add_sink(WatchedSink(diary, "sink"))
    error = error_of(env, kind)
    assert error.args == (3,)
    assert "job 'test'" in notes_of(error)
    assert diary.who("open") == diary.who("close")
    assert not diary.lines("commit")


@pytest.mark.parametrize("method", ["open", "close", "commit", "abort", "close after a failure"])
@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_a_life_cycle_that_wants_to_leave_does_not_hang_the_job(tmp_path, method, kind):
    script = """
        import sys, threading
        from sage_flow import LocalEnvironment, Sink
        threading.excepthook = lambda args: None
        method, kind = sys.argv[1], getattr(__builtins__, sys.argv[2])

        class Leaving(Sink):
            def write(self, value):
                if method in ("abort", "close after a failure"):
                    raise ValueError("first")

        def leave(self, *args):
            raise kind("leaving")

        setattr(Leaving, method.split()[0], leave)
        env = LocalEnvironment("test", cancel_grace_s=60)
        env.from_collection([1]).add_sink(Leaving())
        try:
            env.execute()
        except BaseException as error:
            print("ended with", type(error).__name__)
    """
    try:
        done = run_script(tmp_path, script, method, kind, timeout=6)
    except subprocess.TimeoutExpired:
        pytest.fail("the job does not end")
    first = "ValueError" if method in ("abort", "close after a failure") else kind
    assert done.stdout == f"ended with {first}\n", done.stderr


# --- what cannot leave its process ------------------------------------------------------------------------


def test_a_closure_that_cannot_be_pickled_is_refused_at_submit_and_names_its_operator():
    lock = threading.Lock()
    env = LocalEnvironment("test", executor=ProcessExecutor())
    env.from_collection([1]).map(lambda n: (n, lock), name="guarded").collect()
    with pytest.raises(PipelineError) as caught:
        env.submit()
    for fragment in ("'guarded'", HERE, "'lock'", "open()"):
        assert fragment in str(caught.value)


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_record_that_cannot_be_pickled_is_an_error_that_names_its_operator(parallelism):
    env = LocalEnvironment("test", parallelism, executor=ProcessExecutor())
    stream = env.from_collection(range(8)).map(lambda n: {"lock": threading.Lock()}, name="locks")
    stream.rebalance().map(id).collect("ids")
    # with one subtask each, everything is one chain in one process, and its records need not be pickled
    if parallelism == 1:
        assert len(env.execute().collected["ids"]) == 8
        return
    error = error_of(env, CodecError)
    assert "lock" in str(error)
    assert "operator  'locks'" in notes_of(error)


def test_a_function_that_cannot_be_copied_names_its_operator():
    function = WatchedMap(None, "map")
    function.lock = threading.Lock()
    env = LocalEnvironment("test")
    env.from_collection([1]).map(function, name="locked").collect()
    error = error_of(env, PipelineError)
    for fragment in ("'locked'", HERE, "WatchedMap", "open()"):
        assert fragment in str(error)


def test_a_function_class_that_needs_arguments_names_its_operator():
    env = LocalEnvironment("test")
    with pytest.raises((PipelineError, TypeError)) as caught:  # noqa: PT012 - when it is written or started
        env.from_collection([1]).map(WatchedMap, name="class").collect()
        env.execute()
    assert "'class'" in str(caught.value) + notes_of(caught.value)


# --- limits -----------------------------------------------------------------------------------------------


@one_process
@pytest.mark.parametrize(("option", "limit"), [("collect_rows", 1000), ("collect_bytes", 10_000)])
def test_collect_has_a_limit_that_names_the_cure(mode, option, limit):
    env = mode.environment()
    env._options = dataclasses.replace(env._options, **{option: limit})
    env.from_collection(range(100_000)).rebalance().map(str).collect("rows")
    error = error_of(env, CollectLimitError)
    for fragment in ("'rows'", f"{limit:,}", "write_csv"):
        assert fragment in str(error)


def test_collect_takes_as_many_rows_as_its_limit():
    env = LocalEnvironment("test")
    env._options = dataclasses.replace(env._options, collect_rows=1000)
    env.from_collection(range(1000)).collect("rows")
    assert len(env.execute().collected["rows"]) == 1000


def test_a_worker_that_dies_is_no_success():
    env = LocalEnvironment("test", executor=ProcessExecutor())
    env.from_collection([1]).map(lambda n: os._exit(9), name="leaving").collect()
    error = error_of(env, WorkerDied)
    assert "exited with code 9" in str(error)
    assert "leaving" in str(error)


def test_collect_of_a_failing_pipeline_raises_as_execute_does():
    with pytest.raises(ZeroDivisionError):
        collect(LocalEnvironment("test").from_collection([0]).map(lambda n: 1 // n))
