"""What goes wrong has one clear error, which arrives whole and names what the user wrote."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections import Counter

import pytest
from failing_pipelines import (
    Boom,
    TwoArguments,
    WatchedMap,
    WatchedSink,
    WatchedSource,
    error_of,
    fresh_diary,  # noqa: F401 - a fixture
    notes_of,
    one_process,
    run_script,
)

from sage_flow import LocalEnvironment
from sage_flow.errors import CodecError, CollectLimitError, PipelineError, RemoteError, WorkerDied
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.runtime.failure import describe
from sage_flow.testing import collect

HERE = os.path.basename(__file__)


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


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


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
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


# --- exceptions on their way ------------------------------------------------------------------------------


def raising(error):
    def step(n):
        raise error

    return step


@pytest.mark.on_ray
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
        done = run_script(tmp_path, script, method, kind, timeout=50)  # less than the grace
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
