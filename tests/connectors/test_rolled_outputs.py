"""File sinks that publish parts while the job runs: when a part ends, what it is called, what survives a restore."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest

from sage_flow import LocalEnvironment
from sage_flow.connectors import CsvSink, CsvSource, JsonlSink, JsonlSource, TextSink, file_sinks
from sage_flow.errors import InputError, PipelineError
from sage_flow.functions import END, RuntimeContext
from sage_flow.plan import kinds

ALWAYS = timedelta(0)


@pytest.fixture
def clock(monkeypatch):
    """Both clocks, in seconds; the test moves them."""

    class Clock:
        monotonic_s = 1000.0
        wall_ms = 1_764_331_200_000

        def advance(self, seconds):
            self.monotonic_s += seconds
            self.wall_ms += int(seconds * 1000)

    made = Clock()
    monkeypatch.setattr(file_sinks.time, "monotonic", lambda: made.monotonic_s)
    monkeypatch.setattr(file_sinks, "_wall_ms", lambda: made.wall_ms)
    return made


def opened(path, index=0, parallelism=1, attempt=1, *, job_id="test-1", kind=JsonlSink, roll=ALWAYS):
    sink = kind(path, roll=roll)
    sink.open(RuntimeContext("test", "sink", index, parallelism, job_id=job_id, attempt=attempt))
    return sink


def written(sink, *records):
    for record in records:
        sink.write(record)
    return sink


def cut(sink, checkpoint):
    """A checkpoint: the handle, if a part has ended, and what is kept."""
    return pickle.loads(pickle.dumps((sink.prepare(checkpoint), sink.snapshot())))


def restored(path, snapshots, *args, handles=(), **kwargs):
    sink = opened(path, *args, **kwargs)
    sink.restore(snapshots)
    sink.recover(handles)
    for handle in handles:
        sink.commit(handle)
    return sink


def finish(sink):
    handle = sink.prepare(0)
    sink.close()
    if handle is not None:
        sink.commit(handle)
    return handle


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def texts(folder):
    """The published parts in the order of their names."""
    return [path.read_text() for path in sorted(folder.glob("[!.]*"))]


def read(pattern, kind=JsonlSource):
    source = kind(pattern)
    source.open(RuntimeContext("test", "source", 0, 1))
    found = []
    while (batch := source.next_batch()) is not END:
        found += batch if isinstance(batch, list) else []
    return found


# --- when a part ends -------------------------------------------------------------------------------------


def test_a_part_ends_at_the_first_checkpoint_at_which_it_has_been_open_for_the_time(tmp_path, clock):
    sink = opened(tmp_path / "out.jsonl", roll=timedelta(minutes=1))
    found = []
    for checkpoint in range(1, 15):
        clock.advance(10)
        written(sink, checkpoint)
        handle, _ = cut(sink, checkpoint)
        if handle is not None:
            sink.commit(handle)
            found.append(checkpoint)
    assert found == [6, 12]
    assert texts(tmp_path) == ["1\n2\n3\n4\n5\n6\n", "7\n8\n9\n10\n11\n12\n"]
    finish(sink)
    assert texts(tmp_path)[2:] == ["13\n14\n"]
    assert len(names(tmp_path)) == 3


def test_zero_ends_a_part_at_every_checkpoint_and_there_are_no_empty_parts(tmp_path, clock):
    sink = opened(tmp_path / "out.jsonl")
    handles = [cut(written(sink, *records), number)[0] for number, records in enumerate([[1], [], [2, 3], []], 1)]
    assert [handle is None for handle in handles] == [False, True, False, True]
    for handle in (handles[0], handles[2]):
        sink.commit(handle)
    assert texts(tmp_path) == ["1\n", "2\n3\n"]
    assert finish(sink) is None
    assert len(names(tmp_path)) == 2


def test_a_part_appears_when_it_is_committed_and_not_before(tmp_path):
    sink = opened(tmp_path / "out.jsonl")
    first, _ = cut(written(sink, 1), 1)
    second, _ = cut(written(sink, 2), 2)
    assert texts(tmp_path) == []
    for handle in (first, second, first):  # the first checkpoint failed, its handle came with the second
        sink.commit(handle)
    assert texts(tmp_path) == ["1\n", "2\n"]


def test_an_abort_leaves_pending_parts(tmp_path):
    sink = opened(tmp_path / "out.jsonl")
    handle, _ = cut(written(sink, 1), 1)
    written(sink, 2).close()
    sink.abort()
    assert names(tmp_path) == [os.path.basename(handle.staging)]
    sink.commit(handle)
    assert texts(tmp_path) == ["1\n"]


# --- names ------------------------------------------------------------------------------------------------


def test_the_name_of_a_part_says_subtask_parallelism_and_time(tmp_path, clock):
    sink = opened(tmp_path / "out.jsonl.gz", 1, 3)
    finish(written(sink, 1))
    assert names(tmp_path) == ["out-00001-of-00003-1764331200000.jsonl.gz"]


def test_names_are_in_the_order_of_writing_also_if_the_clock_stands_or_goes_back(tmp_path, clock):
    sink = opened(tmp_path / "out.jsonl")
    snapshot = None
    for number in range(1, 7):
        handle, snapshot = cut(written(sink, number), number)
        sink.commit(handle)
        clock.wall_ms -= 1000 * (number % 2)
        if number == 3:
            sink = restored(tmp_path / "out.jsonl", [snapshot], attempt=2)
        if number == 4:  # another run; nobody knows the old one
            sink = opened(tmp_path / "out.jsonl", job_id="test-2")
    assert texts(tmp_path) == [f"{number}\n" for number in range(1, 7)]


def test_parts_that_were_moved_away_do_not_give_their_names_to_later_ones(tmp_path, clock):
    sink = opened(tmp_path / "out.jsonl")
    handle, snapshot = cut(written(sink, 1), 1)
    sink.commit(handle)
    [first] = names(tmp_path)[1:]
    (tmp_path / first).unlink()
    clock.wall_ms -= 5000
    finish(written(restored(tmp_path / "out.jsonl", [snapshot], attempt=2), 2))
    assert names(tmp_path)[0] > first


def test_a_later_run_and_another_parallelism_add_to_the_parts(tmp_path):
    for job in ("test-1", "test-2"):
        for index in range(2):
            finish(written(opened(tmp_path / "out.jsonl", index, 2, job_id=job), index))
    finish(written(opened(tmp_path / "out.jsonl", job_id="test-3"), 2))
    assert texts(tmp_path) == ["2\n", "0\n", "0\n", "1\n", "1\n"]
    assert sorted(read(tmp_path / "out-*.jsonl")) == [0, 0, 1, 1, 2]


def test_a_file_at_the_name_of_a_part_is_not_replaced(tmp_path):
    sink = opened(tmp_path / "out.jsonl")
    handle, _ = cut(written(sink, 1), 1)
    foreign = tmp_path / os.path.basename(handle.target)
    foreign.write_text("mine")
    with pytest.raises(InputError, match=r"is to be a new part, and another file is there, which stays"):
        sink.commit(handle)
    assert foreign.read_text() == "mine"
    foreign.unlink()
    sink.commit(handle)
    sink.commit(handle)
    assert texts(tmp_path) == ["1\n"]


def test_outputs_that_roll_and_outputs_that_do_not_are_not_mixed(tmp_path):
    finish(written(opened(tmp_path / "out.jsonl"), 1))
    with pytest.raises(InputError, match=r"does not roll, and out-00000-of-00001-\d+\.jsonl exists, from a run with"):
        opened(tmp_path / "out.jsonl", roll=None, job_id="test-2")
    for parallelism in (1, 2):
        finish(written(opened(tmp_path / "other.jsonl", 0, parallelism, roll=None), 1))
        with pytest.raises(InputError, match=r"this output rolls, and other.*\.jsonl exists, from a run without roll="):
            opened(tmp_path / "other.jsonl", job_id="test-2")
        for path in tmp_path.glob("other*"):
            path.unlink()


# --- a later attempt --------------------------------------------------------------------------------------


def test_what_a_checkpoint_kept_comes_first_in_the_next_part(tmp_path, clock):
    minute = timedelta(minutes=1)
    sink = opened(tmp_path / "out.jsonl", roll=minute)
    clock.advance(40)
    handle, snapshot = cut(written(sink, 1), 1)
    assert handle is None
    written(sink, "lost")
    clock.monotonic_s = 5.0  # another machine
    sink = restored(tmp_path / "out.jsonl", [snapshot], attempt=2, roll=minute)
    clock.advance(19)
    assert cut(written(sink, 2), 2)[0] is None
    clock.advance(1)
    handle, snapshot = cut(written(sink, 3), 3)
    sink.commit(handle)
    assert texts(tmp_path) == ["1\n2\n3\n"]
    assert snapshot.segments == ()
    assert len(names(tmp_path)) == 2  # the part, and the file that is written


def test_pending_parts_are_published_by_the_next_attempt_and_those_of_no_checkpoint_are_removed(tmp_path):
    sink = opened(tmp_path / "out.jsonl")
    pending, snapshot = cut(written(sink, 1), 1)
    cut(written(sink, "lost"), 2)
    sink = restored(tmp_path / "out.jsonl", [snapshot], attempt=2, handles=[pending])
    finish(written(sink, 2))
    assert texts(tmp_path) == ["1\n", "2\n"]
    assert len(names(tmp_path)) == 2


def test_a_part_that_was_ended_after_the_checkpoint_is_written_again(tmp_path, clock):
    minute = timedelta(minutes=1)
    sink = opened(tmp_path / "out.jsonl", roll=minute)
    _, snapshot = cut(written(sink, 1), 1)
    clock.advance(60)
    handle, _ = cut(written(sink, "lost"), 2)  # this checkpoint was never complete
    assert handle is not None
    sink = restored(tmp_path / "out.jsonl", [snapshot], attempt=2, roll=minute)
    finish(written(sink, 2))
    assert texts(tmp_path) == ["1\n2\n"]
    assert len(names(tmp_path)) == 1


def test_parts_of_two_subtasks_become_one_part_of_one(tmp_path):
    hour = timedelta(hours=1)
    snapshots = [cut(written(opened(tmp_path / "out.jsonl", i, 2, roll=hour), i), 1)[1] for i in range(2)]
    finish(written(restored(tmp_path / "out.jsonl", snapshots, attempt=2, roll=hour), 2))
    assert texts(tmp_path) == ["0\n1\n2\n"]


KILLED = """
    import os, pickle, signal, sys
    from datetime import timedelta
    from sage_flow.connectors import JsonlSink
    from sage_flow.functions import RuntimeContext
    sink = JsonlSink(sys.argv[1], roll=timedelta(0))
    sink.open(RuntimeContext("test", "sink", 0, 1, job_id="killed-1"))
    told = []
    for checkpoint in range(1, 4):
        for _ in range(1000):
            sink.write(checkpoint)
        told.append((sink.prepare(checkpoint), sink.snapshot()))
        if checkpoint == 1:
            sink.commit(told[0][0])
    sys.stdout.buffer.write(pickle.dumps(told))
    sys.stdout.flush()
    for _ in range(100_000):
        sink.write("lost")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_killed_process_loses_and_doubles_nothing(ending, tmp_path):
    out = tmp_path / f"out.jsonl{ending}"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(out)]
    told = subprocess.run(command, capture_output=True, check=False)
    assert told.returncode == -signal.SIGKILL
    (first, _), (second, snapshot), _ = pickle.loads(told.stdout)
    finish(written(opened(tmp_path / f"other.jsonl{ending}", job_id="other-1"), 0))
    sink = restored(out, [snapshot], attempt=2, job_id="killed-1", handles=[first, second])
    finish(written(sink, *[3] * 1000))
    assert read(tmp_path / f"out-*.jsonl{ending}") == [1] * 1000 + [2] * 1000 + [3] * 1000
    assert len(names(tmp_path)) == 4


# --- CSV --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fieldnames", [None, ["a", "b"]])
def test_each_part_of_csv_has_the_header(fieldnames, tmp_path):
    sink = CsvSink(tmp_path / "out.csv", fieldnames=fieldnames, roll=ALWAYS)
    sink.open(RuntimeContext("test", "sink", 0, 1, job_id="test-1"))
    for number in range(1, 4):
        handle, snapshot = cut(written(sink, {"a": number, "b": 0}), number)
        sink.commit(handle)
    sink = restored(tmp_path / "out.csv", [snapshot], attempt=2, kind=CsvSink)
    finish(written(sink, {"b": 1, "a": 4}))
    assert texts(tmp_path) == [f"a,b\n{number}\n" for number in ("1,0", "2,0", "3,0", "4,1")]
    assert [row["a"] for row in read(tmp_path / "out-*.csv", CsvSource)] == ["1", "2", "3", "4"]


def test_a_part_of_csv_without_rows_is_not_published(tmp_path):
    sink = CsvSink(tmp_path / "out.csv", fieldnames=["a"], roll=ALWAYS)
    sink.open(RuntimeContext("test", "sink", 0, 1, job_id="test-1"))
    assert cut(sink, 1)[0] is None
    assert finish(sink) is None
    assert names(tmp_path) == []


# --- what is refused, and what a sink says of itself ------------------------------------------------------


@pytest.mark.parametrize(
    ("roll", "message"),
    [
        (10, r"roll must be a timedelta, not 10: write timedelta\(seconds=10\)"),
        (0.5, r"roll must be a timedelta, not 0\.5: write timedelta\(seconds=0\.5\)"),
        ("10s", r"roll must be a timedelta, not '10s': write timedelta\(seconds=10\)"),
        (True, r"roll must be a timedelta, not True"),
        (timedelta(seconds=-1), r"roll must not be negative, and is -1 s"),
    ],
)
@pytest.mark.parametrize("kind", [TextSink, CsvSink, JsonlSink])
def test_what_is_no_duration_is_refused(kind, roll, message, tmp_path):
    with pytest.raises(PipelineError, match=message):
        kind(tmp_path / "out", roll=roll)


@pytest.mark.parametrize("method", ["write_text", "write_csv", "write_jsonl"])
def test_each_method_that_writes_a_file_rolls_and_names_the_line_of_a_wrong_duration(method, tmp_path):
    env = LocalEnvironment()
    stream = env.from_collection(["a"])
    write = getattr(stream, method)
    write(tmp_path / "out", roll=timedelta(minutes=5))
    [operator] = [o for chain in env._graph.plan().chains for o in chain.operators if o.kind is kinds.SINK]
    assert operator.functions[0].needs_checkpoints
    with pytest.raises(PipelineError, match=r"roll must be a timedelta, not 5: .*test_rolled_outputs\.py:\d+"):
        write(tmp_path / "other", roll=5)


def test_a_sink_that_rolls_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = JsonlSink("out.jsonl.gz", roll=ALWAYS)
    assert sink.needs_checkpoints
    assert not JsonlSink("out.jsonl.gz").needs_checkpoints
    assert sink.publishes() == ["out-*-of-*-*.jsonl.gz"]
    assert sink.at_a_stop() == (
        "publishes out-*-of-*-*.jsonl.gz at checkpoints and at the end; after a cancel no more parts appear"
    )


def test_a_sink_names_the_parts_that_are_there(tmp_path):
    sink = opened(tmp_path / "out.jsonl")
    handle = finish(written(sink, 1))
    assert set(sink.files_written(1)) == {str(tmp_path / "out.jsonl"), handle.path}


def test_a_device_is_written_through_though_it_rolls():
    sink = opened("/dev/null")
    assert cut(written(sink, 1), 1) == (None, None)
    sink.close()
    assert sink.publishes() is None


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")
def test_parts_leave_nothing_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    hour = timedelta(hours=1)
    sink = opened(tmp_path / "out.jsonl.gz", roll=hour)
    _, snapshot = cut(written(sink, 1), 1)
    sink.close()
    sink.abort()
    sink = restored(tmp_path / "out.jsonl.gz", [snapshot], attempt=2, roll=hour)
    finish(written(sink, 2))
    sink.abort()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["x" * 205 + ".jsonl", "é" * 100])
def test_long_names_roll_and_too_long_ones_are_refused_when_the_sink_opens(name, tmp_path):
    finish(written(opened(tmp_path / name, 0, 1, 10_000, job_id="j" * 50), 1))
    assert texts(tmp_path) == ["1\n"]
    with pytest.raises(InputError, match="File name too long"):
        opened(tmp_path / ("y" * 230))
