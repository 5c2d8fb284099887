"""Faults that the engine does not have, put into it for a while: the proof has to find each of them."""

import math
import os
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from freezing import Group
from proof_files import Files

from sage_flow.checkpoint.log import LogHistory
from sage_flow.checkpoint.stored_log import StoredLog
from sage_flow.connectors import output_file, prepared_file
from sage_flow.connectors.output_file import OutputFile
from sage_flow.executors import snapshots, worker
from sage_flow.executors.collected_rows import CollectedRows
from sage_flow.executors.driver_checkpoints import DriverCheckpoints
from sage_flow.executors.worker import Worker
from sage_flow.runtime import subtask
from sage_flow.runtime.assigned_time import NO_TIMESTAMP, AssignedTime
from sage_flow.runtime.barrier import BarrierAlignment, TakeSnapshot
from sage_flow.runtime.event_time import EventTime
from sage_flow.runtime.key_table import KeyTable, Layer
from sage_flow.runtime.leader import Leader
from sage_flow.runtime.messages import AbortCheckpoint
from sage_flow.runtime.sinks import LAST, SubtaskSinks
from sage_flow.runtime.subtask import ChainSubtask
from sage_flow.runtime.table_writing import TableWriting
from sage_flow.split_source import SplitSource

__all__ = ["PLANTED", "planted"]

PLANTED = {}
"""By name: the class, the name of its method, and what makes the wrong method of the right one."""


def plants(name, owner, method):
    """Register the wrong method that `make(right)` returns."""

    def register(make):
        PLANTED[name] = (owner, method, make)
        return make

    return register


@contextmanager
def planted(name):
    """The engine has this fault meanwhile."""
    owner, method, make = PLANTED[name]
    with patch.object(owner, method, make(getattr(owner, method))):
        yield


# -- the cut -------------------------------------------------------------------------------------------------


@plants("alignment skipped", BarrierAlignment, "on_barrier")
def _(right):
    def on_barrier(self, channel, checkpoint):
        if checkpoint <= self._latest:
            return None
        self._latest = checkpoint
        return TakeSnapshot(checkpoint, ())

    return on_barrier


@plants("driver without barrier", CollectedRows, "cut_of_all")
def _(right):
    return lambda self, checkpoint: self._cut(checkpoint)


@plants("end in the place of a part", worker, "finished_part")
def _(right):
    return lambda subtask, splits, prepared, cut=0: right(subtask, splits, prepared)


@plants("in-place mutation after the cut", TableWriting, "save")
def _(right):
    return lambda self, key, entry: None


# -- tables --------------------------------------------------------------------------------------------------


@plants("written entries not rolled back", KeyTable, "freeze")
def _(right):
    return lambda self, checkpoint, since: right(self, checkpoint, None if since is None else checkpoint)


@plants("missing tombstone", KeyTable, "drop")
def _(right):
    def drop(self, key):
        right(self, key)
        self._dropped.discard(key)

    return drop


@plants("merge over newer", Layer, "take")
def _(right):
    def take(self, above):
        newer = {key: entry for key, entry in above.entries.items() if key not in self.entries}
        right(self, Layer(above.checkpoint, newer, above.dropped))

    return take


# -- sources and state ---------------------------------------------------------------------------------------


@plants("lost offset", SplitSource, "snapshot")
def _(right):
    return lambda self: dict(list(right(self).items())[:-1])


@plants("finished split forgotten", ChainSubtask, "splits_done")
def _(right):
    return lambda self: ()


@plants("double restore", subtask, "kept_rests")
def _(right):
    return lambda parts, source: right(parts, source) * 2


@plants("rest of a batch forgotten", subtask, "keep_rests")
def _(right):
    return lambda parts, source, rests: None


# -- sinks ---------------------------------------------------------------------------------------------------


@plants("commit before the record", SubtaskSinks, "prepare")
def _(right):
    def prepare(self, checkpoint=LAST):
        prepared = right(self, checkpoint)
        if checkpoint != LAST:
            self.commit_through(checkpoint)
        return prepared

    return prepare


@plants("only own handles in the metadata", SubtaskSinks, "prepare")
def _(right):
    def prepare(self, checkpoint=LAST):
        before = self.pending
        return tuple(one for one in right(self, checkpoint) if one not in before)

    return prepare


@plants("prepared handle aborted at a cancel", SubtaskSinks, "take_back")
def _(right):
    return lambda self, *, keeps_prepared=False: right(self, keeps_prepared=False)


@plants("prepared handle aborted with its checkpoint", ChainSubtask, "on_message")
def _(right):
    def on_message(self, message):
        if isinstance(message, AbortCheckpoint):
            self.sinks.pending = tuple(p for p in self.sinks.pending if p.checkpoint != message.checkpoint)
            self.sinks.recover(self.sinks.pending)
        right(self, message)

    return on_message


@plants("end without what was pending", Worker, "_be_finished")
def _(right):
    def be_finished(self, before):
        right(self, before)
        self._snapshot = snapshots.finished_part(self._subtask, before.finished_splits, ())
        return ()

    return be_finished


# -- the log and its leader ----------------------------------------------------------------------------------


@plants("older checkpoint after a commit", LogHistory, "done")
def _(right):
    def done(self):
        latest = right.fget(self)
        older = [e for e in self.entries.values() if isinstance(e, type(latest)) and e.checkpoint < latest.checkpoint]
        return max(older, key=lambda e: e.checkpoint) if older else latest

    return property(lambda self: None if right.fget(self) is None else done(self))


@plants("remembered restore point", Leader, "_restore_point")
def _(right):
    def restore_point(self, history):
        if not hasattr(self, "remembered"):
            self.remembered = right(self, history)
        return history.final or self.remembered

    return restore_point


@plants("end forgotten by the next leader", LogHistory, "final")
def _(right):
    return property(lambda self: None)


@plants("trimmed log", StoredLog, "trim")
def _(right):
    def trim(self, history, attempt):
        self._storage.delete([f"log/{position:012d}" for position in list(history.entries)[:-1]])
        self._entries.clear()

    return trim


@plants("rows shown before the end is recorded", DriverCheckpoints, "decide")
def _(right):
    def decide(self, finished):
        self._collected.show(None)
        return right(self, finished)

    return decide


# -- time, and processes of the past -------------------------------------------------------------------------


@plants("watermark forgotten in the snapshot", AssignedTime, "parts")
def _(right):
    def parts(self):
        kept = right(self)
        nothing = (NO_TIMESTAMP, -math.inf, -math.inf)
        clocks = {split: [(*nothing, *one[3:]) for one in clocks] for split, clocks in kept.splits.items()}
        return replace(kept, splits=clocks, lowest={})

    return parts


@plants("watermark not sent again after a restore", EventTime, "resume")
def _(right):
    return lambda self: iter(())


@plants("frame of an attempt of the past accepted", Group, "receive")
def _(right):
    return lambda self, target, message, others: others(target, message)


# -- files ---------------------------------------------------------------------------------------------------


@plants("file seen before the end is recorded", OutputFile, "prepare")
def _(right):
    def prepare(self, checkpoint, joined=()):
        handle = right(self, checkpoint, joined)
        if handle is not None:
            prepared_file.publish(handle)
        return handle

    return prepare


@plants("kept file read to its end", output_file, "join_segments")
def _(right):
    def join_segments(kept, path, output):
        right([one._replace(length=os.stat(one.path).st_size) for one in kept], path, output)

    return join_segments


@plants("files not made durable", Files, "fsync")
def _(right):
    return lambda self, descriptor: None
