"""The end of a job is decided once: all of its outputs are published or none, whoever dies and whenever."""

import itertools
import os
import signal

import pytest

from sage_flow import FixedDelay, JobStatus, LocalEnvironment, Sink
from sage_flow.errors import PipelineError, WorkerDied
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.simulation import SimulationExecutor


class StagedSink(Sink):
    """Stages its records in a file and publishes it by a rename, as any process can."""

    def __init__(self, folder, name, fails=0):
        self.folder = folder
        self.name = name
        self.fails = fails

    def open(self, ctx):
        self.records = []
        self.staged = self.folder / f"{self.name}.a{ctx.attempt}.staged"

    def write(self, value):
        self.records.append(value)

    def prepare(self, checkpoint):
        self.staged.write_text(repr(sorted(self.records)))
        return str(self.staged)

    def commit(self, handle):
        if self.fails:  # others may be killed while they write a number
            tries = self.folder / f"{self.name}.tries"
            count = int(tries.read_text()) if tries.exists() else 0
            tries.write_text(str(count + 1))
            if count < self.fails:
                raise OSError(f"disk full ({count})")
        if os.path.exists(handle):
            os.replace(handle, self.folder / f"{self.name}.out")
        assert (self.folder / f"{self.name}.out").exists()

    def abort(self):
        self.records = []

    def recover(self, handles):
        for staged in self.folder.glob(f"{self.name}.*.staged"):
            if str(staged) not in handles:
                staged.unlink(missing_ok=True)


class OlderSink(Sink):
    """Publishes by `commit()` without a handle."""

    def __init__(self, file, fails=False):
        self.file = file
        self.fails = fails

    def open(self, ctx):
        self.records = []

    def write(self, value):
        self.records.append(value)

    def commit(self):
        if self.fails:
            raise OSError("refused")
        self.file.write_text(repr(sorted(self.records)))


def published(folder):
    return sorted(path.name for path in folder.glob("*.out"))


def staged(folder):
    return sorted(path.name for path in folder.glob("*.staged"))


def write_to(env, folder, names, **sinks):
    numbers = env.from_collection(range(5))
    for name in names:
        sink = sinks.get(name) or StagedSink(folder, name)
        numbers.rebalance().add_sink(sink, parallelism=1)


def test_what_is_prepared_is_published_when_the_job_has_finished(mode, tmp_path):
    env = mode.environment()
    write_to(env, tmp_path, ["a", "b"])
    env.execute()
    assert published(tmp_path) == ["a.out", "b.out"]
    assert (tmp_path / "a.out").read_text() == "[0, 1, 2, 3, 4]"
    assert staged(tmp_path) == []


def test_a_commit_that_fails_is_tried_again_by_attempts_that_only_publish(mode, tmp_path):
    env = mode.environment()
    write_to(env, tmp_path, ["a", "b"], b=StagedSink(tmp_path, "b", fails=2))
    runs = tmp_path / "runs"

    def note(n):
        with runs.open("a") as file:
            file.write("x")
        return n

    env.from_collection([1]).map(note).collect("rows")
    result = env.execute()
    assert result.collected["rows"] == [1]
    assert runs.read_text() == "x", "a job that has finished is not run again"
    assert published(tmp_path) == ["a.out", "b.out"]
    assert (tmp_path / "b.tries").read_text() == "3"


def test_a_job_that_can_never_publish_fails_and_says_that_its_end_is_recorded(tmp_path):
    env = LocalEnvironment()
    write_to(env, tmp_path, ["a", "b"], b=StagedSink(tmp_path, "b", fails=1000))
    job = env.submit()
    with pytest.raises(OSError, match="disk full") as caught:
        job.result()
    assert job.status is JobStatus.FAILED
    assert "end is recorded, but not all of its output could be published" in "\n".join(caught.value.__notes__)
    assert staged(tmp_path) == ["b.a1.staged"], "what was to be published stays"


def test_at_least_once_sinks_publish_first_and_their_failure_keeps_back_the_rest(mode, tmp_path):
    env = mode.environment()
    write_to(env, tmp_path, ["a", "old"], old=OlderSink(tmp_path / "old.txt", fails=True))
    with pytest.raises(OSError, match="refused"):
        env.execute()
    assert published(tmp_path) == []
    assert staged(tmp_path) == []


def test_a_sink_of_the_older_form_keeps_working(mode, tmp_path):
    env = mode.environment()
    write_to(env, tmp_path, ["a", "old"], old=OlderSink(tmp_path / "old.txt"))
    env.execute()
    assert (tmp_path / "old.txt").read_text() == "[0, 1, 2, 3, 4]"
    assert published(tmp_path) == ["a.out"]


class CannotPrepare(StagedSink):
    def prepare(self, checkpoint):
        raise OSError("cannot prepare")


def test_a_sink_that_cannot_prepare_keeps_back_all_others(mode, tmp_path):
    env = mode.environment()
    write_to(env, tmp_path, ["a", "b"], b=CannotPrepare(tmp_path, "b"))
    with pytest.raises(OSError, match="cannot prepare"):
        env.execute()
    assert published(tmp_path) == []
    assert staged(tmp_path) == []


# --- processes that die -----------------------------------------------------------------------------------


class Dies(StagedSink):
    """Ends its process in the first commit: before, in the middle of, or behind the publication."""

    def __init__(self, folder, name, when):
        super().__init__(folder, name)
        self.when = when

    def commit(self, handle):
        mark = self.folder / f"{self.name}.killed"
        dies = not mark.exists()
        mark.touch()
        if dies and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().commit(handle)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_process_that_is_killed_in_its_commit_is_replaced_and_all_is_published(tmp_path, when):
    env = LocalEnvironment(executor=ProcessExecutor(workers=3))
    names = [f"s{n}" for n in range(9)]
    write_to(env, tmp_path, names, s4=Dies(tmp_path, "s4", when))
    env.execute()
    assert published(tmp_path) == [f"{name}.out" for name in names]
    assert staged(tmp_path) == []


def test_a_process_that_is_killed_before_the_end_is_recorded_publishes_nothing(tmp_path):
    env = LocalEnvironment(executor=ProcessExecutor(workers=3))
    write_to(env, tmp_path, ["a", "b"])
    env.from_collection([1]).for_each(lambda n: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerDied):
        env.execute()
    assert published(tmp_path) == []


# --- restarts in this process -----------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_local_job_that_fails_starts_again_as_its_strategy_says(tmp_path, executor):
    env = LocalEnvironment(restart=FixedDelay(2, delay_s=0.01), executor=executor)
    marks = tmp_path / "marks"

    def fragile(n):
        if not marks.exists():
            marks.touch()
            raise ValueError("the first attempt fails")
        return n

    env.from_collection(range(5)).map(fragile).add_sink(StagedSink(tmp_path, "a"), parallelism=1)
    env.from_collection([7]).collect("rows")
    job = env.submit()
    assert job.result().collected["rows"] == [7], "rows of the attempt that failed are forgotten"
    assert published(tmp_path) == ["a.out"]
    assert (tmp_path / "a.out").read_text() == "[0, 1, 2, 3, 4]"


def test_a_local_job_says_why_it_was_not_restarted_again():
    env = LocalEnvironment(restart=FixedDelay(1, delay_s=0.0))
    env.from_collection([0]).map(lambda n: 1 // n).collect("rows")
    with pytest.raises(ZeroDivisionError) as caught:
        env.execute()
    assert "not restarted: it was restarted once, and no more is allowed" in "\n".join(caught.value.__notes__)


def test_a_job_that_waits_to_be_restarted_can_be_cancelled():
    env = LocalEnvironment(restart=FixedDelay(1, delay_s=1000.0))
    env.from_collection([0]).map(lambda n: 1 // n).collect("rows")
    job = env.submit()
    while job.status is not JobStatus.RESTARTING:
        assert not job.wait(0.01).is_final
    job.cancel()
    assert job.wait(60) is JobStatus.CANCELLED


def test_a_strategy_must_be_one():
    with pytest.raises(PipelineError, match="restart must be a strategy"):
        LocalEnvironment(restart=3)


# --- every crash, in the simulation -----------------------------------------------------------------------


def outcome_with(folder, executor, restart=None):
    env = LocalEnvironment(executor=executor, restart=restart)
    write_to(env, folder, ["a", "b"])
    env.from_collection([1]).collect("rows")
    job = env.submit()
    try:
        rows = job.result().collected["rows"]
    except WorkerDied:
        assert published(folder) == []
        return "nothing"
    assert rows == [1]
    assert published(folder) == ["a.out", "b.out"]
    assert {(folder / name).read_text() for name in published(folder)} == {"[0, 1, 2, 3, 4]"}
    assert staged(folder) == []
    return "all"


def victims(tmp_path):
    executor = SimulationExecutor(0)
    (tmp_path / "dry").mkdir()
    outcome_with(tmp_path / "dry", executor)
    names = {line.split(" run ")[1] for line in executor.trace if line.endswith(("]", " driver")) and " run " in line}
    return sorted(names), len(executor.trace)


def crash_at_steps(tmp_path, restart, every, seeds):
    """What came of jobs that were crashed at steps `every` apart, in each activation of a subtask and in the driver."""
    names, steps = victims(tmp_path)
    assert "driver" in names
    found = []
    for number, (seed, name, step) in enumerate(itertools.product(seeds, names, range(1, steps, every))):
        folder = tmp_path / str(number)
        folder.mkdir()
        executor = SimulationExecutor(seed * 100_003 + number, crash_at={name: step})
        found.append(outcome_with(folder, executor, restart))
    assert "all" in found
    assert ("nothing" in found) == (restart is None)
    return len(found)


STRATEGIES = {"no restart": None, "restarts": FixedDelay(3, delay_s=0.1)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_crash_at_any_step_leaves_no_output_half_published(tmp_path, strategy):
    crash_at_steps(tmp_path, STRATEGIES[strategy], every=3, seeds=[0])


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_crash_at_every_step_of_ten_thousand_schedules_leaves_no_output_half_published(tmp_path, strategy):
    assert crash_at_steps(tmp_path, STRATEGIES[strategy], every=1, seeds=range(13)) > 5_000
