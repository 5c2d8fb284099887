"""Keyed state: an entry per key, defaults of its own for each, keys that can be placed."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import InvalidKeyError, PipelineError
from sage_flow.functions import RuntimeContext
from sage_flow.state import KeyedState


class At:
    """Keyed state, and the key it is looked at with."""

    def __init__(self):
        self.context = RuntimeContext("job", "step", 0, 1, keyed=True)
        self.state = KeyedState(self.context)

    def __call__(self, key):
        self.context.key = key
        return self.state


@pytest.fixture
def at():
    return At()


# --- one kind after the other -----------------------------------------------------------------------------


def test_a_value_is_kept_per_key_once_it_is_set(at):
    at("a").value("n", 0).set(5)
    assert at("a").value("n", 0).get() == 5
    assert at("b").value("n", 0).get() == 0
    at("a").value("n").clear()
    assert at("a").value("n").get() == 0


def test_none_is_a_value_like_any_other(at):
    at("a").value("n", 7).set(None)
    assert at("a").value("n", 7).get() is None


def test_a_default_that_was_read_and_changed_is_not_kept_unless_it_is_set(at):
    at("a").value("seen", []).get().append(1)
    assert at("a").value("seen", []).get() == []


@pytest.mark.parametrize("default", [[], list, {}, {"a": [1]}, set, (1, [2])])
def test_keys_never_share_a_default(at, default):
    first, second = at("a").value("v", default).get(), at("b").value("v", default).get()
    assert first == second
    assert isinstance(first, tuple) or first is not second
    if isinstance(first, (tuple, dict)) and first:
        inner = [values[1] if isinstance(values, tuple) else values["a"] for values in (first, second)]
        assert inner[0] is not inner[1]


def test_a_list_grows_per_key_and_is_read_as_a_copy(at):
    at("a").list("l").append(1)
    at("a").list("l").extend([2, 3])
    at("b").list("l").append(9)
    handle = at("a").list("l")
    handle.get().append("not kept")
    assert (handle.get(), list(handle), len(handle)) == ([1, 2, 3], [1, 2, 3], 3)
    handle.set(n for n in (7, 8))
    assert handle.get() == [7, 8]
    handle.clear()
    assert (handle.get(), len(handle)) == ([], 0)
    assert at("b").list("l").get() == [9]


def test_what_is_given_to_a_list_is_not_kept_itself(at):
    mine = [1]
    at("a").list("l").set(mine)
    mine.append(2)
    assert at("a").list("l").get() == [1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["set", "del", "pop", "clear"]), st.integers(0, 3))))
def test_a_map_does_what_a_dict_per_key_does(events):
    at, model = At(), {"a": {}, "b": {}}
    for key, event, name in events:
        handle, plain = at(key).map("m"), model[key]
        match event:
            case "set":
                handle[name] = plain[name] = len(plain)
            case "del" if name in plain:
                del handle[name], plain[name]
            case "pop":
                assert handle.pop(name, None) == plain.pop(name, None)
            case "clear":
                handle.clear()
                plain.clear()
        assert dict(handle) == plain
        assert len(handle) == len(plain)
        assert (name in handle) == (name in plain)
        assert handle.get(name) == plain.get(name)


def test_a_map_can_be_changed_while_it_is_looped_over(at):
    at("a").map("m").update(x=1, y=2)
    for name in at("a").map("m"):
        del at("a").map("m")[name]
    assert len(at("a").map("m")) == 0


def test_an_empty_map_leaves_no_entry_behind(at):
    at("a").map("m")["x"] = 1
    del at("a").map("m")["x"]
    assert at.state.tables["m"] == {}
    with pytest.raises(KeyError):
        del at("a").map("m")["x"]


def test_a_reducing_state_folds_what_is_added(at):
    assert at("a").reducing("r", max).get() is None
    assert [at("a").reducing("r", max).add(n) for n in (3, 1, 5)] == [3, 3, 5]
    assert at("b").reducing("r", max).add(0) == 0
    assert at("a").reducing("r", max).get() == 5
    at("a").reducing("r", max).clear()
    assert at("a").reducing("r", max).add(1) == 1


def test_a_folded_none_is_not_nothing(at):
    at("a").reducing("r", lambda a, b: (a, b)).add(None)
    assert at("a").reducing("r", lambda a, b: (a, b)).add(1) == (None, 1)


# --- names and keys ---------------------------------------------------------------------------------------


def test_names_are_apart_and_a_handle_is_made_once(at):
    at("a").value("x").set(1)
    assert at("a").value("y").get() is None
    assert at("a").value("x") is at("b").value("x")


@pytest.mark.parametrize("kind", ["list", "map"])
def test_a_name_is_of_one_kind(at, kind):
    at("a").value("x")
    with pytest.raises(PipelineError, match=f"'x' is a ValueState already and cannot be a {kind.title()}State"):
        getattr(at("a"), kind)("x")


USES = {
    "value get": lambda state: state.value("v", 0).get(),
    "value set": lambda state: state.value("v", 0).set(1),
    "list get": lambda state: state.list("l").get(),
    "list append": lambda state: state.list("l").append(1),
    "list set": lambda state: state.list("l").set([1]),
    "list len": lambda state: len(state.list("l")),
    "map get": lambda state: state.map("m").get("x"),
    "map set": lambda state: state.map("m").update(x=1),
    "map len": lambda state: len(state.map("m")),
    "reducing get": lambda state: state.reducing("r", max).get(),
    "reducing add": lambda state: state.reducing("r", max).add(1),
}


@pytest.mark.parametrize("use", USES)
def test_without_a_record_there_is_no_key(at, use):
    with pytest.raises(PipelineError, match=r"which open\(\), on_end\(\), close\(\) and .* do not have"):
        USES[use](at.state)


@pytest.mark.parametrize("key", [float("nan"), object(), ("a", float("nan"))], ids=["nan", "object", "nested"])
@pytest.mark.parametrize("use", USES)
def test_a_key_that_cannot_be_placed_is_refused_at_its_first_use(at, use, key):
    with pytest.raises(InvalidKeyError):
        USES[use](at(key))
    assert all(table == {} for table in at.state.tables.values())


def test_equal_keys_are_one_key(at):
    at(1).value("n").set("one")
    assert at(1.0).value("n").get() == at(True).value("n").get() == "one"


# --- ttl ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(at):
    at.now = 0
    at.state.wall_ms = lambda: at.now
    return at


TTL = timedelta(milliseconds=100)


def test_a_value_reads_as_the_default_at_once_when_its_time_has_passed(clock):
    clock("a").value("n", 0, ttl=TTL).set(5)
    clock.now = 99
    assert clock("a").value("n", 0, ttl=TTL).get() == 5
    clock.now = 100
    assert clock("a").value("n", 0, ttl=TTL).get() == 0
    clock("a").value("n", 0, ttl=TTL).set(6)
    clock.now = 199
    assert clock("a").value("n", 0, ttl=TTL).get() == 6
    clock("a").value("n", 0, ttl=TTL).clear()
    assert clock("a").value("n", 0, ttl=TTL).get() == 0


def test_what_has_expired_leaves_the_table_when_others_are_set(clock):
    for n in range(1_000):
        clock.now = n
        clock(n).value("n", 0, ttl=TTL).set(n)
    assert len(clock.state.tables["n"]) < 120


def test_where_records_have_timestamps_the_time_is_theirs(at):
    at.context.watermark_of = lambda: 0
    at.context.timestamp = 1_000
    at("a").value("n", 0, ttl=TTL).set(5)
    at.context.timestamp = 1_099
    assert at("a").value("n", 0, ttl=TTL).get() == 5
    at.context.timestamp = 1_100
    assert at("a").value("n", 0, ttl=TTL).get() == 0
    at("b").value("n", 0, ttl=TTL).set(1)
    at.context.timestamp = 1_050  # a record that is out of order
    assert at("a").value("n", 0, ttl=TTL).get() == 5
    at.context.watermark_of = lambda: 1_200
    at.context.timestamp = 1_200
    at("c").value("n", 0, ttl=TTL).set(1)
    assert set(at.state.tables["n"]) == {"c"}


@pytest.mark.parametrize(("first", "second"), [(None, TTL), (TTL, None), (TTL, 2 * TTL)])
def test_a_name_cannot_be_reused_with_another_ttl(at, first, second):
    at("a").value("n", 0, ttl=first)
    with pytest.raises(PipelineError, match="say the same wherever it is used"):
        at("a").value("n", 0, ttl=second)
    with pytest.raises(PipelineError, match="cannot be a ListState"):
        at("a").list("n")


def test_a_ttl_is_a_timedelta_above_0(at):
    with pytest.raises(PipelineError, match="must be a timedelta, not 5"):
        at("a").value("n", 0, ttl=5)
    with pytest.raises(PipelineError, match="must be longer than 0"):
        at("a").value("n", 0, ttl=timedelta(0))
