"""Jobs of jobs/nexmark that are killed at five random moments and continued each time give the rows of DuckDB.

Each start is a real `sage-flow run`, in a process group of its own, which SIGKILL ends as a whole.
"""

import os
import random
import signal
import threading
import time
from collections import Counter

import pytest
from job_folder import ROOT, finish, start, write
from nexmark_oracle import Oracle

from nexmark.job import Options

KILLS = 5
OPTIONS = Options(events=24_000, events_per_s=400, ooo_ms=2000, partitions=4)

JOB = f"""
import time
from dataclasses import dataclass
from datetime import timedelta

from nexmark.canonical import canonical_line
from nexmark.job import GeneratorSource, Options, timed
from nexmark.QUERY import query
from sage_flow import IDLE

EVENTS = {OPTIONS!r}


@dataclass(frozen=True)
class Pace:
    until: int  # the event before which this start of the job halts
    pause_s: float  # before each batch


class SlowEvents(GeneratorSource):
    def __init__(self, pace):
        super().__init__(EVENTS.generator, EVENTS.events, EVENTS.partitions)
        self._pace = pace

    def next_batch(self):
        time.sleep(self._pace.pause_s)
        halts = self._pace.until <= min(self._next.values(), default=0) < EVENTS.events
        return IDLE if halts else super().next_batch()


def build(env, options: Pace):
    events = timed(env.from_source(SlowEvents(options), name="events"), EVENTS.ooo_ms)
    lines = query(events).map(lambda row: canonical_line("QUERY", row), name="lines")
    lines.write_text("rows.txt", ROLL)
"""


@pytest.fixture
def begin(tmp_path):
    """Start the job; nothing of it is left after the test."""
    started = []

    def begin_job(until, pause_s):
        process = start(
            *("-m", "sage_flow", "run", "job.py", "--parallelism", "2", "--quiet"),
            *("--option", f"until={until}", "--option", f"pause_s={pause_s}"),
            *("--checkpoints", "kept", "--checkpoint-interval", "50ms", "--restore", "latest"),
            cwd=tmp_path,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin_job
    for process in started:
        kill(process)


def kill(process):
    """End all processes of a job at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def written(folder):
    """The rows that others can see."""
    return Counter(line for file in folder.glob("rows*.txt") for line in file.read_text("utf-8").splitlines())


def last_entry(folder):
    """The number of the last entry of the job's log."""
    return max((int(file.name) for file in folder.glob("kept/*/*/log/*") if file.name.isdecimal()), default=0)


def await_entry(folder, process, number):
    """Wait until the log of the job has an entry of this number."""
    while last_entry(folder) < number:
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "roll"),
    [pytest.param("q5", "", id="q5"), pytest.param("q8", "roll=timedelta(0), parallelism=2", id="q8 in parts")],
)
def test_a_nexmark_job_killed_at_five_random_moments_and_restored_gives_the_rows_of_duckdb(
    query, roll, begin, tmp_path
):
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # shown if the test fails
    draw = random.Random(seed)
    expected = Counter(Oracle(OPTIONS.generator.events(0, OPTIONS.events)).lines(query))
    write(tmp_path / "job.py", JOB.replace("QUERY", query).replace("ROLL", roll))
    (tmp_path / "nexmark").symlink_to(ROOT / "jobs" / "nexmark")
    for number in range(1, KILLS + 1):
        before = last_entry(tmp_path)
        process = begin(until=OPTIONS.events * number // (KILLS + 1), pause_s=0.06)
        entries, delay_s = draw.choice([1, 2, 3, 5]), draw.random() * 0.3  # the first one is that of the attempt
        await_entry(tmp_path, process, before + entries)
        time.sleep(delay_s)
        assert process.poll() is None, process.communicate()
        kill(process)
        print(f"killed {delay_s:.3f} s after entry {before + entries} of the log")
        assert not written(tmp_path) - expected  # rows that others see are right, and none is there twice
    code, _, err = finish(begin(until=OPTIONS.events, pause_s=0))
    assert code == 0, err
    assert written(tmp_path) == expected
    assert expected
