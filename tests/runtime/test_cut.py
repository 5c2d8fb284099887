"""What a subtask gives for a checkpoint is what it was at the cut, whatever happens before it is stored."""

import io
import pickle
import random

import pytest

from sage_flow.errors import PipelineError
from sage_flow.runtime import cut_writing
from sage_flow.runtime.cut import Cutter
from sage_flow.runtime.cut_writing import Cut
from sage_flow.runtime.key_table import MISSING, ExpiringTable, KeyTable, TableEntries
from sage_flow.runtime.messages import AbortCheckpoint, BeginCheckpoint
from sage_flow.runtime.parts import Parts
from sage_flow.runtime.table_writing import merged_chunks


class Taken:
    """A cutter and what it has given, stored as the shell does it."""

    def __init__(self, *, checks=False):
        self.cuts, self.declined, self.now, self.files, self.latest = [], [], 0.0, {}, 0
        decline = lambda n, why: self.declined.append((n, why))  # noqa: E731
        self.cutter = Cutter(self.store, decline, lambda: self.now, checks=checks)

    def store(self, one):
        if isinstance(one, Cut):
            self.cuts.append(one)
            base = () if one.base is None else self.files[one.base]
            self.files[one.checkpoint] = (*base, *self.files.pop(("pieces", one.checkpoint), ()), one.keyed)
        else:
            self.files[("pieces", one.checkpoint)] = (*self.files.get(("pieces", one.checkpoint), ()), one.keyed)

    def begin(self, parts, checkpoint=1):
        self.latest = checkpoint
        self.cutter.cut(checkpoint, (), lambda: parts)

    def cut(self, parts, checkpoint=1):
        self.begin(parts, checkpoint)
        self.work()

    def work(self):
        while self.cutter.writer.has_work:
            self.cutter.writer.work()

    def complete(self, checkpoint):
        self.cutter.writer.on_complete(checkpoint)
        self.work()

    def keyed(self, checkpoint=None):
        """What a restore of the checkpoint reads."""
        blob, chunks = b"".join(one for file in self.files[checkpoint or self.latest] for one in file), []
        file = io.BytesIO(blob)
        while file.tell() < len(blob):
            chunks += pickle.load(file)
        return merged_chunks(chunks)


def table_of(**entries):
    table = KeyTable()
    for key, entry in entries.items():
        table.put(key, entry)
    return table


def parts_of(table):
    return {"op": Parts(keyed={"table": TableEntries(table)})}


@pytest.fixture
def increments(monkeypatch):
    """Let also a small state be stored by its changes."""
    monkeypatch.setattr(cut_writing, "_SMALL", 0)


# -- one cut --------------------------------------------------------------------------------------------------


def test_records_that_several_of_a_key_wait_are_stored_as_pairs():
    taken, values = Taken(), [[1], [2]]
    taken.begin({"op": Parts(keyed={"waiting": [("a", values[0]), ("a", values[1])]})})
    values[0].append("later")
    taken.work()
    assert taken.keyed() == {("op", "waiting"): [("a", [1]), ("a", [2])]}


@pytest.mark.parametrize("read", ["[]", "find", "plain"])
def test_rule_13_a_value_that_is_changed_in_place_after_the_cut_is_stored_as_it_was(read):
    taken, table = Taken(), table_of(a=[1], b=[2])
    taken.begin(parts_of(table))
    {"[]": table.__getitem__, "find": table.find, "plain": lambda key: table.plain()[key]}[read]("b").append("later")
    taken.work()
    assert taken.keyed() == {("op", "table"): {"a": [1], "b": [2]}}
    assert table["b"] == [2, "later"]


def test_what_is_inside_a_tuple_may_change():
    taken, table = Taken(), table_of(a=([0], 5))
    taken.begin(parts_of(table))
    table["a"][0].append(1)
    taken.work()
    assert taken.keyed() == {("op", "table"): {"a": ([0], 5)}}


def test_a_value_that_is_read_before_its_turn_does_not_lose_its_neighbours():
    taken, table = Taken(), KeyTable()
    for key in range(1_000):
        table[key] = [key]
    taken.begin(parts_of(table))
    for key in (999, 0, 500, 501):
        table[key].append("later")
    taken.work()
    assert taken.keyed() == {("op", "table"): {key: [key] for key in range(1_000)}}


def test_a_table_is_stored_in_steps_between_which_records_come():
    taken, table = Taken(), KeyTable()
    for key in range(5_000):
        table[key] = key
    taken.begin(parts_of(table))
    for key in range(3):
        taken.cutter.writer.work()
        table[key] += 1
    assert taken.cuts == []
    taken.work()
    assert taken.keyed() == {("op", "table"): {key: key for key in range(5_000)}}


def test_a_subtask_that_rarely_runs_pickles_more_at_a_time():
    taken, table = Taken(), KeyTable()
    for key in range(5_000):
        table[key] = key
    taken.begin(parts_of(table))
    taken.now = 10.0
    taken.cutter.writer.work()
    assert len(taken.cuts) == 1


def test_a_large_state_is_stored_in_several_files(monkeypatch):
    monkeypatch.setattr(cut_writing, "_PIECE", 4_000)
    taken, table = Taken(), KeyTable()
    for key in range(5_000):
        table[key] = key
    taken.cut(parts_of(table))
    assert taken.cuts[0].pieces > 1
    assert taken.keyed() == {("op", "table"): {key: key for key in range(5_000)}}


def test_what_cannot_be_pickled_declines_and_names_the_operator():
    taken = Taken()
    taken.cut({"fine": Parts(), "folds": Parts(keyed={"table": [("a", (n for n in ()))]})}, checkpoint=7)
    assert taken.cuts == []
    ((checkpoint, why),) = taken.declined
    assert checkpoint == 7
    assert "'folds'" in why
    assert "generator" in why


def test_rule_12_what_cannot_be_pickled_at_the_first_touch_declines_and_lets_the_record_go_on():
    taken, table = Taken(), table_of(a=["x"], b=(n for n in ()))
    taken.begin(parts_of(table), checkpoint=7)
    assert list(table["b"]) == []
    taken.work()
    assert [(n, "'op'" in why, "generator" in why) for n, why in taken.declined] == [(7, True, True)]
    assert taken.cuts == []
    table.drop("b")
    taken.cut(parts_of(table), checkpoint=8)
    assert taken.keyed() == {("op", "table"): {"a": ["x"]}}


# -- several cuts -----------------------------------------------------------------------------------------------


def test_a_later_checkpoint_stores_what_was_touched(increments):
    taken, table = Taken(), table_of(**{f"k{i}": [i] for i in range(1_000)})
    taken.cut(parts_of(table), 1)
    taken.complete(1)
    table["k7"].append("more")
    table.put("new", [0])
    table.drop("k8")
    taken.cut(parts_of(table), 2)
    assert taken.cuts[1].base == 1
    assert sum(map(len, taken.cuts[1].keyed)) < 200
    assert taken.keyed()["op", "table"] == {f"k{i}": [i] for i in range(1_000) if i != 8} | {
        "k7": [7, "more"],
        "new": [0],
    }


def test_a_small_state_is_stored_whole_each_time():
    taken, table = Taken(), table_of(a=1, b=2)
    for checkpoint in (1, 2):
        taken.cut(parts_of(table), checkpoint)
        taken.complete(checkpoint)
        table.put("a", 3)
    assert [cut.base for cut in taken.cuts] == [None, None]


def test_changes_that_have_become_more_than_the_state_are_stored_as_a_whole_state(increments):
    taken, table = Taken(), table_of(**{f"k{i}": i for i in range(100)})
    for checkpoint in range(1, 8):
        taken.cut(parts_of(table), checkpoint)
        taken.complete(checkpoint)
        for i in range(60):
            table[f"k{i}"] += 1
    assert [cut.base for cut in taken.cuts][:6] == [None, 1, 2, None, 4, 5]


def test_rule_12_a_key_that_was_dropped_does_not_rise_again(increments):
    taken, table = Taken(), table_of(a=[1], b=[2])
    taken.cut(parts_of(table), 1)
    taken.complete(1)
    table.drop("a")
    assert table.find("a") is MISSING
    assert dict(table.entries()) == {"b": [2]}
    taken.cut(parts_of(table), 2)
    assert taken.keyed() == {("op", "table"): {"b": [2]}}


def test_rule_12_what_an_aborted_checkpoint_has_stored_is_stored_again(increments):
    taken, table = Taken(), table_of(a=[1], b=[2], c=[3])
    taken.cut(parts_of(table), 1)
    taken.complete(1)
    table["a"].append("touched")
    table.drop("c")
    taken.cut(parts_of(table), 2)
    taken.cutter.on_abort(AbortCheckpoint(2))
    table["b"].append("touched")
    taken.cut(parts_of(table), 3)
    assert taken.cuts[-1].base == 1
    assert taken.keyed() == {("op", "table"): {"a": [1, "touched"], "b": [2, "touched"]}}


def test_rule_12_an_abort_overwrites_nothing_that_was_touched_or_dropped_since(increments):
    taken, table = Taken(), table_of(a=[1], b=[2])
    taken.cut(parts_of(table), 1)
    taken.complete(1)
    table.put("a", ["frozen"])
    table.put("c", ["frozen"])
    taken.cut(parts_of(table), 2)
    table.put("a", ["later"])
    table.drop("c")
    taken.cutter.on_abort(AbortCheckpoint(2))
    assert dict(table.entries()) == {"a": ["later"], "b": [2]}
    taken.cut(parts_of(table), 3)
    assert taken.keyed() == {("op", "table"): {"a": ["later"], "b": [2]}}


def test_rule_12_a_pane_that_is_gone_is_not_in_the_next_checkpoint(increments):
    taken = Taken()
    panes = {1: table_of(a=1), 2: table_of(a=2)}
    for checkpoint in (1, 2):
        parts = {"op": Parts(keyed={("pane", at): TableEntries(table) for at, table in panes.items()})}
        taken.cut(parts, checkpoint)
        taken.complete(checkpoint)
        panes.pop(1, None)
    *_, tables = pickle.loads(taken.cuts[1].small)["op"]
    assert tables == [("pane", 2)]


def test_a_new_table_of_an_old_name_has_nothing_of_the_old_one(increments):
    taken = Taken()
    taken.cut(parts_of(table_of(a=1)), 1)
    taken.complete(1)
    taken.cut(parts_of(table_of(b=2)), 2)
    assert taken.cuts[1].base == 1
    assert taken.keyed() == {("op", "table"): {"b": 2}}


def test_a_whole_state_is_stored_from_several_layers_of_which_the_newest_counts():
    taken, table = Taken(), table_of(a=[1], b=[2], c=[3])
    taken.cut(parts_of(table), 1)
    taken.cutter.writer.on_complete(1)  # its layer is not merged yet
    table["a"].append("later")
    table.drop("b")
    table.put("d", [4])
    taken.begin(parts_of(table), 2)
    assert taken.cutter.writer.has_work
    table["c"].append("after the cut")
    table["a"].append("after the cut")
    taken.work()
    assert taken.cuts[-1].base is None
    assert taken.keyed() == {("op", "table"): {"a": [1, "later"], "c": [3], "d": [4]}}


def test_if_it_is_not_known_what_became_of_a_checkpoint_the_next_one_is_whole(increments):
    taken, table = Taken(), table_of(a=1)
    taken.cut(parts_of(table), 1)
    taken.complete(1)
    taken.cut(parts_of(table), 2)
    taken.cut(parts_of(table), 3)
    assert [cut.base for cut in taken.cuts] == [None, 1, None]
    taken.complete(2)  # late: its layers are gone
    taken.complete(3)
    taken.cut(parts_of(table), 4)
    assert taken.cuts[-1].base == 3


def test_a_checkpoint_that_is_aborted_amid_its_storing_gives_nothing(increments):
    taken, table = Taken(), KeyTable()
    for key in range(5_000):
        table[key] = [key]
    taken.begin(parts_of(table), 1)
    taken.cutter.writer.work()
    taken.cutter.on_abort(AbortCheckpoint(1))
    table[4_999].append("later")
    taken.work()
    assert taken.cuts == []
    taken.cut(parts_of(table), 2)
    assert taken.keyed()["op", "table"][4_999] == [4_999, "later"]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("expires", [False, True])
def test_any_order_of_cuts_outcomes_and_changes_stores_what_the_table_was(seed, expires, increments, monkeypatch):
    monkeypatch.setattr(cut_writing, "_FIRST_STEP", 2)
    rng = random.Random(seed)
    table = ExpiringTable(list, 1_000) if expires else KeyTable()
    taken, model, cut_at, outcome = Taken(), {}, {}, None
    for number in range(1, 400):
        key = rng.randrange(12)
        match rng.randrange(10):
            case 0 | 1 | 2:
                value = ([number], number) if expires or rng.random() < 0.5 else number
                table.put(key, value)
                model[key] = pickle.loads(pickle.dumps(value))
            case 3 | 4 if isinstance(found := table.find(key), tuple):
                assert found == model[key]
                found[0].append(number)
                model[key][0].append(number)
            case 5:
                table.drop(key)
                model.pop(key, None)
            case 6 | 7 if taken.cutter.writer.has_work:
                taken.cutter.writer.work()
            case 8:
                taken.begin(parts_of(table), number)
                cut_at[number] = pickle.loads(pickle.dumps(model))
                outcome = number
            case 9 if outcome is not None:
                if rng.random() < 0.5:
                    taken.cutter.on_abort(AbortCheckpoint(outcome))
                    outcome = None
                elif outcome in taken.files:
                    taken.cutter.writer.on_complete(outcome)
                    outcome = None
        assert table.find(key) == model.get(key, MISSING)
    assert dict(table.entries()) == model
    assert len(taken.cuts) > 5
    assert any(cut.base is not None for cut in taken.cuts) or seed > 0
    for cut in taken.cuts:
        assert taken.keyed(cut.checkpoint).get(("op", "table"), {}) == cut_at[cut.checkpoint]


# -- when it cuts -------------------------------------------------------------------------------------------------


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


def test_rule_13_the_test_mode_finds_a_value_that_two_keys_share():
    taken, shared = Taken(checks=True), [1]
    table = table_of(a=shared, b=shared, c=[3])
    taken.cut(parts_of(table), 1)
    table["a"].append("for a")
    with pytest.raises(PipelineError, match=r"the state of 'op' for key 'b' has changed while no record of this key"):
        taken.begin(parts_of(table), 2)


def test_the_test_mode_lets_right_values_pass(increments):
    taken, table = Taken(checks=True), table_of(a=[1], b=[2])
    for checkpoint in range(1, 6):
        taken.begin(parts_of(table), checkpoint)
        table["a"].append(checkpoint)
        taken.work()
        if checkpoint != 3:
            taken.complete(checkpoint)
    assert taken.keyed() == {("op", "table"): {"a": [1, 1, 2, 3, 4], "b": [2]}}
