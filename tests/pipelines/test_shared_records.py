"""Each reader of a record has an object of its own, in every mode: what one changes, no other sees."""

import threading

import pytest

from sage_flow import LocalEnvironment, PipelineService
from sage_flow.errors import CodecError
from sage_flow.testing import PAUSE, TestSource

ROWS = 3000  # more than a frame, and than a batch of a source's


def rows(count=3):
    return [{"n": n, "parts": [n]} for n in range(count)]


def change(row):
    """Change a record and all of its parts in place."""
    row["n"] += 1000
    row["parts"].append("changed")
    return row


def as_tuple(row):
    return row["n"], tuple(row["parts"])


def fresh(count=3):
    return [as_tuple(row) for row in rows(count)]


def changed(count=3):
    return [as_tuple(change(row)) for row in rows(count)]


def run(env):
    return {name: sorted(found) for name, found in env.execute().collected.items()}


@pytest.mark.on_ray
def test_what_one_branch_changes_no_other_branch_sees(mode):
    env = mode.environment()
    stream = env.from_collection(rows(ROWS))
    stream.map(change).map(as_tuple).collect("changing")
    stream.map(as_tuple).collect("reading")
    stream.filter(lambda row: True).map(change).map(as_tuple).collect("changing, too")
    assert run(env) == {"changing": changed(ROWS), "reading": fresh(ROWS), "changing, too": changed(ROWS)}


def test_what_is_collected_is_what_was_emitted_whatever_another_branch_does_with_it(mode):
    env = mode.environment()
    made = env.from_collection(range(ROWS)).map(lambda n: {"n": n, "parts": [n]})
    made.collect("collected")
    made.for_each(change)
    collected = env.execute().collected["collected"]
    assert sorted(map(as_tuple, collected)) == fresh(ROWS)


def test_a_stream_that_is_united_with_itself_gives_each_record_twice_and_apart(mode):
    env = mode.environment()
    stream = env.from_collection(rows())
    stream.union(stream).map(change).map(as_tuple).collect("rows")
    assert run(env)["rows"] == sorted(changed() * 2)


def test_both_sides_of_a_connected_stream_have_records_of_their_own(mode):
    env = mode.environment()
    stream = env.from_collection(rows())
    stream.connect(stream).map(
        lambda row: ("left", *as_tuple(change(row))), lambda row: ("right", *as_tuple(row))
    ).collect("both")
    left, right = [("left", *row) for row in changed()], [("right", *row) for row in fresh()]
    assert run(env)["both"] == left + right


def test_every_subtask_has_its_own_copy_of_what_is_broadcast(mode):
    env = mode.environment()
    env.from_collection(rows()).broadcast().map(change, parallelism=3).map(as_tuple).collect("rows")
    assert run(env)["rows"] == sorted(changed() * 3)


def test_a_keyed_branch_and_a_plain_one_do_not_meet(mode):
    env = mode.environment()
    stream = env.from_collection(rows())
    stream.key_by(lambda row: row["n"]).reduce(lambda a, b: a).map(lambda pair: as_tuple(change(pair[1]))).collect(
        "keyed"
    )
    stream.map(as_tuple).collect("plain")
    assert run(env) == {"keyed": changed(), "plain": fresh()}


def put_aside(row, ctx):
    ctx.output("aside", row)
    yield row


def put_aside_late(row, ctx):
    yield as_tuple(row)
    ctx.output("aside", row)
    yield row


def put_aside_twice(row, ctx):
    ctx.output("aside", row)
    ctx.output("aside", row)


@pytest.mark.parametrize("parallelism", [None, 1])
def test_a_side_output_keeps_what_was_put_there_while_the_stream_goes_on(mode, parallelism):
    env = mode.environment(parallelism=parallelism)
    stream = env.from_collection(rows(ROWS)).process(put_aside)
    stream.side_output("aside").map(as_tuple).collect("aside")
    stream.map(change).map(as_tuple).collect("main")
    assert run(env) == {"aside": fresh(ROWS), "main": changed(ROWS)}


def test_a_side_output_of_a_map_keeps_what_was_put_there(mode):
    env = mode.environment(parallelism=1)

    def both(row, ctx):
        ctx.output("aside", row)
        return row

    stream = env.from_collection(rows()).map(both)
    stream.side_output("aside").map(as_tuple).collect("aside")
    stream.map(change).map(as_tuple).collect("main")
    assert run(env) == {"aside": fresh(), "main": changed()}


def test_what_is_put_on_two_side_outputs_is_two_records(mode):
    env = mode.environment(parallelism=1)

    def to_both(row, ctx):
        ctx.output("a", row)
        ctx.output("b", row)

    stream = env.from_collection(rows()).process(to_both)
    stream.side_output("a").map(change).map(as_tuple).collect("a")
    stream.side_output("b").map(as_tuple).collect("b")
    stream.for_each(print)
    assert run(env) == {"a": changed(), "b": fresh()}


def test_two_readers_of_a_side_output_have_records_of_their_own(mode):
    env = mode.environment()
    stream = env.from_collection(rows()).process(put_aside)
    aside = stream.side_output("aside")
    aside.map(change).map(as_tuple).collect("changing")
    aside.map(as_tuple).collect("reading")
    stream.for_each(change)
    assert run(env) == {"changing": changed(), "reading": fresh()}


def test_a_side_record_waits_with_what_it_was_while_the_operator_calls_a_service(mode):
    env = mode.environment(parallelism=1)

    class Echo:
        def say(self, n):
            return n

    def ask(row, ctx):
        ctx.output("aside", row)
        row["answer"] = ctx.service("echo").say(row["n"])
        yield row

    env.register_service("echo", Echo)
    stream = env.from_collection(rows()).process(ask)
    stream.side_output("aside").map(as_tuple).collect("aside")
    stream.map(change).map(as_tuple).collect("main")
    assert run(env) == {"aside": fresh(), "main": changed()}


def test_a_dead_letter_keeps_the_record_that_went_on_before_the_operator_failed(mode):
    env = mode.environment(parallelism=1)

    def give_and_fail(row):
        yield row
        if row["n"] >= 0:
            raise ValueError(row["n"])

    stream = env.from_collection(rows()).flat_map(give_and_fail, on_error="dead_letter", name="fails")
    letters = stream.dead_letters()
    letters.map(lambda letter: change(letter.record)["n"]).collect("changing letters")
    letters.map(lambda letter: letter.record["n"]).collect("letters")
    stream.rebalance().map(as_tuple, parallelism=2).collect("main")
    assert run(env) == {"changing letters": [1000, 1001, 1002], "letters": [0, 1, 2], "main": fresh()}


@pytest.mark.on_ray
def test_branches_of_a_services_pipeline_do_not_see_each_others_changes(mode):
    def body(requests):
        changing = requests.rebalance().map(lambda row: ("changed", *as_tuple(change(row))))
        return changing.union(
            requests.map(lambda row: ("read", *as_tuple(row))), requests.map(lambda row: ("raw", row["n"]))
        )

    env = mode.environment()
    env.register_service("body", PipelineService(body, reply="many"))
    env.from_collection(rows()).map(lambda row, ctx: tuple(sorted(ctx.service("body").process(row)))).collect("replies")
    expected = [(("changed", *c), ("raw", f[0]), ("read", *f)) for c, f in zip(changed(), fresh(), strict=True)]
    assert run(env)["replies"] == expected


# --- what does not pay -------------------------------------------------------------------------------------


def test_a_single_reader_gets_the_objects_themselves():
    given, seen = rows(ROWS), []
    env = LocalEnvironment("test")
    env.from_collection(given).rebalance().map(lambda row: row, parallelism=3).rebalance().for_each(seen.append)
    env.execute()
    assert {id(row) for row in seen} == {id(row) for row in given}


def test_of_several_readers_in_one_process_one_gets_the_objects_themselves():
    given, seen = rows(), ([], [], [])
    env = LocalEnvironment("test")
    stream = env.from_collection(given)
    for found in seen:
        stream.for_each(found.append)
    env.execute()
    own = {id(row) for row in given}
    assert sorted(len(own & {id(row) for row in found}) for found in seen) == [0, 0, 3]
    assert [found == given for found in seen] == [True] * 3


@pytest.mark.parametrize(
    "record", [1 << 70, 2.5, "text" * 10, b"bytes", ("a", (1, None))], ids=lambda r: type(r).__name__
)
def test_exact_immutable_records_are_handed_to_all_readers(record):
    seen = ([], [])
    env = LocalEnvironment("test")
    stream = env.from_collection([record])
    for found in seen:
        stream.for_each(found.append)
    env.execute()
    assert all(found[0] is record for found in seen)


def test_what_goes_to_a_side_output_alone_is_handed_over():
    given, seen = rows(), []

    def route(row, ctx):
        if row["n"] == 1:
            yield row
        else:
            ctx.output("others", row)

    env = LocalEnvironment("test")
    stream = env.from_collection(given).process(route)
    stream.for_each(seen.append)
    stream.side_output("others").for_each(seen.append)
    env.execute()
    assert {id(row) for row in seen} == {id(row) for row in given}


def test_a_dead_letter_of_a_map_holds_the_record_itself():
    given, seen = rows(), []
    env = LocalEnvironment("test")
    stream = env.from_collection(given).map(lambda row: row["none"], on_error="dead_letter")
    stream.for_each(print)
    stream.dead_letters().for_each(lambda letter: seen.append(letter.record))
    env.execute()
    assert {id(row) for row in seen} == {id(row) for row in given}


# --- records that cannot be copied -------------------------------------------------------------------------


def test_a_record_with_several_readers_that_cannot_be_copied_is_named_with_its_operator():
    env = LocalEnvironment("test")
    stream = env.from_source(TestSource([1, PAUSE, 2, 3])).map(
        lambda n: {"n": n, "lock": threading.Lock()}, name="locks"
    )
    stream.for_each(print)
    stream.for_each(print)
    with pytest.raises(CodecError, match=r"several readers cannot be copied: .*\['lock'\] is a _thread.lock") as caught:
        env.execute()
    notes = "\n".join(caught.value.__notes__)
    assert "'locks' (map)" in notes
    assert "{'lock': <unlocked _thread.lock" in notes
    assert "'n': 1}" in notes


def test_a_record_with_one_reader_need_not_be_copied():
    seen = []
    env = LocalEnvironment("test")
    env.from_collection([1]).map(lambda n: threading.Lock()).rebalance().for_each(seen.append)
    env.execute()
    assert len(seen) == 1
