"""What a subtask gives for a checkpoint is what it was at the cut, whatever happens before it is stored."""

import io
import pickle

import pytest

from sage_flow.runtime.cut import CHUNK, Cutter
from sage_flow.runtime.messages import AbortCheckpoint, BeginCheckpoint
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.table_copy import TableCopy


class Taken:
    def __init__(self):
        self.cuts, self.declined, self.now = [], [], 0.0
        self.cutter = Cutter(self.cuts.append, lambda n, why: self.declined.append((n, why)), lambda: self.now)

    def cut(self, parts, checkpoint=1):
        self.cutter.cut(checkpoint, (), lambda: parts)


def keyed_of(cut):
    *_, blob = cut.blobs()
    file, found = io.BytesIO(blob), {}
    while file.tell() < len(blob):
        for operator, table, entries in pickle.load(file):
            found.setdefault((operator, table), []).extend(entries)
    return found


def test_values_that_change_in_place_after_the_cut_are_stored_as_they_were():
    taken, values = Taken(), [[1], [2]]
    taken.cut({"op": Parts(keyed={"table": [("a", values[0]), ("b", values[1])]})})
    values[0].append("later")
    assert keyed_of(taken.cuts[0]) == {("op", "table"): [("a", [1]), ("b", [2])]}


@pytest.mark.parametrize("value", [1, 2.5, "text", True, None, b"bytes"])
def test_values_that_nobody_can_change_are_pickled_after_the_cut(value):
    taken = Taken()
    keys = list(range(CHUNK + 1))
    taken.cut({"op": Parts(keyed={"table": TableCopy(keys, [value] * len(keys))})})
    assert taken.cuts[0].keyed == ()
    assert keyed_of(taken.cuts[0]) == {("op", "table"): [(key, value) for key in keys]}


def test_one_value_that_can_be_changed_lets_all_of_its_table_be_pickled_at_once():
    taken, odd = Taken(), [0]
    taken.cut({"op": Parts(keyed={"even": TableCopy(["a"], [1]), "odd": TableCopy(["a", "b"], [1, odd])})})
    odd.append(1)
    assert keyed_of(taken.cuts[0]) == {("op", "even"): [("a", 1)], ("op", "odd"): [("a", 1), ("b", [0])]}


def test_a_tuple_may_hold_what_changes():
    taken, inner = Taken(), [0]
    taken.cut({"op": Parts(keyed={"table": TableCopy(["a"], [(inner, 5)])})})
    inner.append(1)
    assert keyed_of(taken.cuts[0]) == {("op", "table"): [("a", ([0], 5))]}


def test_what_cannot_be_pickled_declines_and_names_the_operator():
    taken = Taken()
    taken.cut({"fine": Parts(), "folds": Parts(keyed={"table": [("a", (n for n in ()))]})}, checkpoint=7)
    assert taken.cuts == []
    ((checkpoint, why),) = taken.declined
    assert checkpoint == 7
    assert "'folds'" in why
    assert "generator" in why


def test_rule_22_a_command_for_an_older_or_aborted_checkpoint_is_passed_over():
    taken = Taken()
    taken.cutter.on_begin(BeginCheckpoint(2), is_source=True)
    assert taken.cutter.due == 2
    taken.cutter.on_abort(AbortCheckpoint(2))
    assert taken.cutter.due is None
    taken.cutter.on_begin(BeginCheckpoint(2), is_source=True)
    taken.cutter.on_begin(BeginCheckpoint(1), is_source=True)
    assert taken.cutter.due is None


def test_a_source_that_has_cut_for_the_last_checkpoint_goes_on_if_that_fails():
    taken = Taken()
    taken.cutter.on_begin(BeginCheckpoint(3, stops=True), is_source=True)
    taken.cut({}, checkpoint=3)
    assert taken.cutter.has_stopped
    taken.cutter.on_abort(AbortCheckpoint(3))
    assert not taken.cutter.has_stopped


def test_alignment_lasts_from_the_first_barrier_and_not_from_the_command():
    taken = Taken()
    taken.cutter.on_begin(BeginCheckpoint(1), is_source=False)
    taken.now = 5.0
    taken.cutter.on_barrier(1)
    taken.now = 7.0
    taken.cutter.on_barrier(1)
    taken.cut({})
    assert taken.cuts[0].alignment_s == 2.0


def test_a_source_aligns_from_the_command_on():
    taken = Taken()
    taken.cutter.on_begin(BeginCheckpoint(1), is_source=True)
    taken.now = 5.0
    taken.cut({})
    assert taken.cuts[0].alignment_s == 5.0
