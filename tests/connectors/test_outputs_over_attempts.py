"""Random histories of a file sink over attempts, checkpoints, deaths and changes of parallelism: each record once.

The engine's part is played here: it remembers complete checkpoints with their pending handles, gives up others, and
lets attempts die at any of their steps. Those that died go on as zombies: they write, take snapshots and prepare.
"""

import os
import pickle
import random
from contextlib import suppress
from datetime import timedelta

import pytest

from sage_flow.connectors import CsvSink, CsvSource
from sage_flow.errors import InputError
from sage_flow.functions import END, RuntimeContext

RECORDS = 60
HISTORIES = 25


class Died(Exception):
    """The attempt ends here, without a word."""


class Job:
    """A job with one source, whose position is a number, and a file sink behind it."""

    def __init__(self, path, roll, choice, *, has_zombies):
        self._path, self._roll, self._choice = path, roll, choice
        self._has_zombies = has_zombies
        self._attempt = 0
        self._restore_point = (0, [], [])  # position, snapshots, pending handles by their subtask
        self._opened, self._zombies = [], []
        self.is_restored = False

    def run(self):
        while True:
            self._attempt += 1
            parallelism = self._choice.randint(1, 4)
            sinks = [CsvSink(self._path, roll=self._roll) for _ in range(parallelism)]
            try:
                self._run_attempt(sinks)
                break
            except Died:
                self._zombies += self._opened
        for zombie in self._zombies:
            with suppress(OSError, InputError):
                zombie.close()
            zombie.abort()
        for sink in sinks:
            sink.close()
            sink.abort()

    def _run_attempt(self, sinks):
        position, snapshots, pending = self._restore_point
        pending = self._open(sinks, snapshots, pending)
        checkpoint = 0
        while position < RECORDS:
            for _ in range(self._choice.randint(1, 12)):
                if position < RECORDS:
                    sinks[position % len(sinks)].write({"n": position, "text": "ä" * (position % 7)})
                    position += 1
            self._disturb()
            checkpoint += 1
            pending = self._take_checkpoint(checkpoint, sinks, position, pending)
        for index, sink in enumerate(sinks):
            self._may_die(0.02)
            if (handle := sink.prepare(0)) is not None:
                pending.append((index, handle))
        for _, handle in pending:  # the end is recorded
            CsvSink(self._path).commit(pickle.loads(handle) if isinstance(handle, bytes) else handle)

    def _open(self, sinks, snapshots, pending):
        parallelism, self._opened = len(sinks), []
        for index, sink in enumerate(sinks):
            sink.open(RuntimeContext("test", "sink", index, parallelism, job_id="test-1", attempt=self._attempt))
            self._opened.append(sink)
            self._may_die(0.02)
        pending = [(index % parallelism, handle) for index, handle in pending]
        for index, sink in enumerate(sinks):
            own = [handle for owner, handle in pending if owner == index]
            if self.is_restored:
                sink.restore(pickle.loads(pickle.dumps(snapshots[index::parallelism])))
            sink.recover(own)
            self._may_die(0.02)
            for handle in own:
                sink.commit(handle)
                self._may_die(0.02)
        return pending if self._choice.random() < 0.3 else []  # what is committed may still be called pending

    def _take_checkpoint(self, checkpoint, sinks, position, pending):
        pending, snapshots = list(pending), []
        for index, sink in enumerate(sinks):
            handle = sink.prepare(checkpoint)
            if handle is not None:
                pending.append((index, pickle.loads(pickle.dumps(handle))))
            snapshots.append(pickle.loads(pickle.dumps(sink.snapshot())))
            self._may_die(0.03)
        if self._choice.random() < 0.3:
            return pending  # the checkpoint is given up
        self._restore_point = (position, snapshots, pending)
        self.is_restored = True
        left = []
        for index, handle in pending:
            self._may_die(0.03)
            if self._choice.random() < 0.7:
                sinks[index].commit(handle)
            if self._choice.random() < 0.5:
                left.append((index, handle))
        committed = [entry for entry in pending if os.path.exists(entry[1].target)]
        return [entry for entry in pending if entry in left or entry not in committed]

    def _disturb(self):
        for zombie in self._zombies:
            if self._has_zombies and self._choice.random() < 0.2:
                with suppress(OSError, InputError, ValueError):  # its files may be gone
                    zombie.write({"n": -1, "text": "zombie" * 2000})
                    zombie.prepare(99)
                    zombie.snapshot()

    def _may_die(self, chance):
        if self._choice.random() < chance:
            raise Died


def read(path):
    source = CsvSource(str(path))
    source.open(RuntimeContext("test", "source", 0, 1))
    found = []
    while (batch := source.next_batch()) is not END:
        found += [int(row["n"]) for row in batch] if isinstance(batch, list) else []
    return found


@pytest.mark.parametrize("has_zombies", [False, True])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("roll", [None, timedelta(0), timedelta(milliseconds=3)], ids=["at the end", "always", "some"])
def test_each_record_is_published_once_and_nothing_is_left(roll, ending, has_zombies, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no machine crashes here
    restored = 0
    for seed in range(HISTORIES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        job = Job(folder / f"out.csv{ending}", roll, random.Random(seed), has_zombies=has_zombies)
        job.run()
        restored += job._attempt > 1 and job.is_restored
        parts = [read(path) for path in sorted(folder.glob("[!.]*"))]
        assert sorted(number for part in parts for number in part) == list(range(RECORDS)), seed
        if not has_zombies:  # which prepare something after it was removed
            assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], seed
    assert restored > HISTORIES / 4
