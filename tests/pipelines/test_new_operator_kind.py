"""An operator that is written outside of sage_flow: a row, a writer, a method. Everything else asks these."""

import pytest

from sage_flow import LocalEnvironment, PipelineService
from sage_flow.errors import NoReply, PipelineError, SharedRecordError
from sage_flow.plan.kinds import KINDS, Gives, Kind, register
from sage_flow.runtime.lines import WRITERS
from sage_flow.runtime.lines.writer import Binding, LineWriter

MAP_SOME = Kind("map_some", Gives.AT_MOST_ONE, cure="await it before")
SORT = Kind("sort", Gives.ANY, holds_back=True)


class MapsSome(LineWriter):
    """`v1 = f1(v0)`, and None leaves the chain."""

    def write(self, text, step):
        text.guard(f"{step.result} = {text.call(step)}", step)
        text.drop(step, f"{step.result} is None")
        text.value = step.result


class Sorts(LineWriter):
    """All records, by what the function says of each, when there are no more."""

    def bind(self, bound):
        held = []
        return Binding((lambda value: held.append((bound.functions[0](value), value)) or (),), lambda: give(held))

    def write(self, text, step):
        text.loop(text.call(step), step)


def give(held):
    return [value for _, value in sorted(held)]


def map_some(stream, function, **options):
    return stream._step(MAP_SOME, function, options)


def sort(stream, function, **options):
    return stream._step(SORT, function, options)


@pytest.fixture(autouse=True)
def the_tables_know_them():
    for kind, writer in ((MAP_SOME, MapsSome()), (SORT, Sorts())):
        WRITERS[register(kind)] = writer
    yield
    for kind in (MAP_SOME, SORT):
        del WRITERS[kind], KINDS[kind.name]


def half(n):
    return None if n % 2 else n // 2


def test_it_runs_in_the_chain_and_is_counted():
    env = LocalEnvironment("test")
    sort(map_some(env.from_collection([6, 1, 4, 3]), half), lambda n: n).map(str).collect("rows")
    result = env.execute()
    assert result.collected["rows"] == ["2", "3"]
    assert (result.counts["map_some-1"], result.counts["sort-1"], result.counts["map-1"]) == (2, 2, 2)
    assert "[0] collection-1 -> map_some-1 -> sort-1 -> map-1 -> collect-1   x1" in env.explain()
    assert "map_some-1               map_some         tests/pipelines/test_new_operator_kind.py" in env.explain()


def test_its_failure_is_blamed_on_it_with_its_record():
    env = LocalEnvironment("test")
    map_some(env.from_collection([2, "x"]), half).collect()
    with pytest.raises(TypeError) as raised:
        env.execute()
    notes = "\n".join(raised.value.__notes__)
    assert "operator  'map_some-1' (map_some), subtask 1 of 1, job 'test'" in notes
    assert "record    'x'" in notes
    assert 'on_error="skip" or "dead_letter" lets the job go on' in notes


def test_its_on_error_holds():
    env = LocalEnvironment("test")
    skipping = map_some(env.from_collection([2, "x", 3]), half, on_error="skip")
    skipping.collect("halves")
    dead = map_some(skipping, lambda n: n // 0, name="divides", on_error="dead_letter")
    dead.for_each(print)
    dead.dead_letters().map(lambda letter: letter.record).collect("dead")
    result = env.execute()
    assert result.collected == {"halves": [1], "dead": [1]}
    assert (result.skipped, result.dead_letters) == ({"map_some-1": 1}, {"divides": 1})


def test_it_has_the_key_of_its_stream():
    env = LocalEnvironment("test")
    keyed = env.from_collection([1, 2, 4]).key_by(lambda n: n % 2)
    map_some(keyed, lambda n, ctx: ctx.key or None, parallelism=2).collect("rows")
    assert env.execute().collected["rows"] == [1]


def test_what_it_cannot_do_is_refused_before_it_runs():
    env = LocalEnvironment("test")
    with pytest.raises(PipelineError, match=r"on_error of 'map_some-1' .* must be one of fail, skip, dead_letter"):
        map_some(env.from_collection([1]), half, on_error="ignore")
    with pytest.raises(PipelineError, match="has a `yield`"):
        map_some(env.from_collection([1]), lambda n: (yield n))
    env = LocalEnvironment("test")
    map_some(env.from_collection([1]), half)
    env.from_collection([1]).collect()
    with pytest.raises(PipelineError, match="nothing reads the output of 'map_some-1'"):
        env.execute()


def test_a_coroutine_in_place_of_its_value_is_refused_with_its_cure():
    async def later(n):
        return n

    env = LocalEnvironment("test")
    map_some(env.from_collection([1]), lambda n: later(n)).collect()
    with pytest.raises(PipelineError, match=r"nothing awaits it: await it before"):
        env.execute()


def test_readers_of_its_records_have_copies_of_their_own():
    env = LocalEnvironment("test")
    made = map_some(env.from_collection([1]), lambda n: [n])
    made.map(lambda record: record.append(2) or record).collect("changed")
    made.collect("kept")
    assert env.execute().collected == {"changed": [[1, 2]], "kept": [[1]]}


def test_it_is_named_if_it_changes_a_shared_record():
    env = LocalEnvironment("test", check_shared_records=True)
    map_some(env.from_collection([[1]]), lambda record: record.append(2)).collect()
    with pytest.raises(SharedRecordError, match="'map_some-1' changes a record that is shared"):
        env.execute()


def test_in_a_service_a_record_that_it_drops_is_no_reply():
    def ask(n, ctx):
        try:
            return ctx.call_service("halves", n)
        except NoReply:
            return "none"

    env = LocalEnvironment("test")
    env.register_service("halves", PipelineService(lambda requests: map_some(requests, half)))
    env.from_collection([4, 3]).map(ask).collect("rows")
    assert env.execute().collected["rows"] == [2, "none"]


def test_what_holds_back_is_refused_in_a_service():
    env = LocalEnvironment("test")
    env.register_service("sorted", PipelineService(lambda requests: sort(requests, lambda n: n)))
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("sorted", n)).collect()
    with pytest.raises(PipelineError, match=r"'sorted/sort-1' .* joins records of several requests"):
        env.execute()
