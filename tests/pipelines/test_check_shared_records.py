"""check_shared_records=True names the operator that changes a record which others hold, and only that one."""

import collections

import pytest

from sage_flow import LocalEnvironment, Sink
from sage_flow.errors import SharedRecordError
from sage_flow.functions import END, Source
from sage_flow.testing import TestSource


def rows(count=3):
    return [{"n": n, "parts": [n]} for n in range(count)]


def made(n):
    return {"n": n, "parts": [n]}


def change(row):
    row["parts"].append("changed")
    return row


def failure(env):
    with pytest.raises(SharedRecordError) as caught:
        env.execute()
    return str(caught.value), "\n".join(caught.value.__notes__)


def test_an_operator_that_changes_a_record_which_another_one_reads_is_named(mode):
    env = mode.environment(check_shared_records=True)
    stream = env.from_collection(range(3)).map(made)
    stream.map(change, name="changing").collect("x")
    stream.map(lambda row: row["n"], name="reading").collect("o")
    message, notes = failure(env)
    assert message.startswith("'changing' changes a record that is shared: {'n': ")
    assert "'changed']}; 'reading' reads it, too. Emit a changed copy" in message
    assert "operator  'changing' (map)" in notes
    assert "record    {'n': " in notes


def test_an_operator_that_changes_what_the_program_has_is_named_however_far_from_the_source():
    env = LocalEnvironment("test", check_shared_records=True)
    stream = env.from_collection(rows(), name="mine").filter(lambda row: True)
    stream.rebalance().map(lambda row: row, parallelism=3).rebalance().map(
        change, name="changing", parallelism=2
    ).collect()
    message, _ = failure(env)
    assert message.startswith("'changing' changes a record")
    assert "the program passed it to 'mine' and still holds it" in message


def test_a_reduce_that_changes_the_first_record_of_the_program_is_named():
    env = LocalEnvironment("test", check_shared_records=True)
    keyed = env.from_collection(rows()).key_by(lambda row: 0)
    keyed.reduce(lambda a, b: a["parts"].append(b["n"]) or a, name="sums", emit="final").collect()
    message, _ = failure(env)
    assert message.startswith("'sums' changes a record that is shared: {'n': 0, 'parts': [0]} became")


def test_a_fold_that_changes_what_it_has_given_out_is_named(mode):
    env = mode.environment(parallelism=1, check_shared_records=True)
    keyed = env.from_source(TestSource([1, 2, 3])).key_by(lambda n: 0)
    keyed.fold(list, lambda so_far, n: so_far.append(n) or so_far, name="lists").collect()
    message, _ = failure(env)
    assert message.startswith("'lists' changes a record that is shared: (0, [1]) became (0, [1, 2]);")
    assert "; 'collect-1' has collected it before. Emit a changed copy instead" in message


def test_a_function_that_keeps_what_it_gives_and_changes_it_later_is_named_also_in_a_later_batch():
    kept = []

    def keep(n):
        for row in kept:
            row["n"] = -1
        kept.append(made(n))
        return kept[-1]

    env = LocalEnvironment("test", check_shared_records=True)
    env.from_iterable(iter([1, 2])).map(keep, name="keeps").rebalance().for_each(print, parallelism=2)
    message, _ = failure(env)
    assert message.startswith("'keeps' changes a record that is shared: {'n': 1, 'parts': [1]} became {'n': -1")


def test_a_part_of_the_programs_record_that_a_later_operator_changes_is_found():
    env = LocalEnvironment("test", check_shared_records=True)
    env.from_collection(rows()).flat_map(lambda row: [row["parts"]]).map(
        lambda part: part.append(1), name="parts"
    ).collect()
    message, _ = failure(env)
    assert message.startswith("'parts' changes a record that is shared: {'n': 0, 'parts': [0]} became")


class Changing(Sink):
    def write(self, row):
        change(row)


def test_a_sink_is_named_too():
    env = LocalEnvironment("test", check_shared_records=True)
    env.from_collection(rows()).add_sink(Changing(), name="sink")
    assert failure(env)[0].startswith("'sink' changes a record")


def test_a_broadcast_is_read_by_all_subtasks():
    env = LocalEnvironment("test", check_shared_records=True)
    env.from_source(TestSource([1])).map(made).broadcast().map(change, name="changing", parallelism=3).collect()
    assert "; all 3 subtasks of 'changing' read it" in failure(env)[0]


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
@pytest.mark.parametrize("operator", ["map", "flat_map", "filter"])
def test_no_on_error_lets_it_pass(operator, policy):
    env = LocalEnvironment("test", check_shared_records=True)
    stream = env.from_collection(rows())
    changing = getattr(stream, operator)(lambda row: row["parts"].append(1) or [row], name="changing", on_error=policy)
    changing.collect("rows")
    if policy == "dead_letter":
        changing.dead_letters().collect("letters")
    assert failure(env)[0].startswith("'changing' changes a record")


class Numbers(Source):
    def __init__(self):
        self._left = 3

    def next_batch(self):
        self._left -= 1
        return [made(self._left)] if self._left >= 0 else END


def test_who_changes_records_that_only_it_has_is_not_blamed(mode):
    env = mode.environment(check_shared_records=True)
    stream = env.from_source(Numbers()).map(change).flat_map(lambda row: (change(row) for _ in "a"))
    stream.rebalance().map(change, parallelism=3).key_by(lambda row: row["n"]).map(change).for_each(change)
    stream = env.from_iterable(lambda: (made(n) for n in range(3))).map(change)
    stream.key_by(lambda row: row["n"]).fold(list, lambda found, row: [*found, change(row)], emit="final").collect(
        "rows"
    )
    result = env.execute()
    assert sorted(n for n, _ in result.collected["rows"]) == [0, 1, 2]


def test_who_only_reads_is_not_blamed_and_the_results_are_those_without_the_check(mode):
    results = []
    for checks in (False, True):
        env = mode.environment(check_shared_records=checks)
        stream = env.from_collection([*rows(500), 7, "text", None, collections.OrderedDict(a=1), {3, 4}, object])
        stream.map(str).collect("text")
        stream.union(stream).broadcast().filter(lambda row: isinstance(row, dict), parallelism=2).collect("dicts")
        stream.map_batches(lambda batch: [len(batch)], parallelism=1).collect("batches")
        results.append({name: sorted(map(repr, found)) for name, found in env.execute().collected.items()})
    assert results[0] == results[1]
