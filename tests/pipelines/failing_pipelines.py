"""Pipelines that fail: the exceptions, functions that note what happens to them, and who asks for the error."""

import os
import pathlib
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from sage_flow import Function, JobStatus, ProcessFunction, Sink
from sage_flow.testing import MODES, TestSource

one_process = pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "processes"], ids=str)
"""For what does not depend on processes, of which each job costs most of a second."""


class Boom(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


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


@pytest.fixture(name="diary")
def fresh_diary(tmp_path):
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


def numbers(env, name="numbers"):
    return env.from_collection([1, 2, 3], name=name)
