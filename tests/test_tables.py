"""The contract of a table of keyed state: each kind keeps, finds and forgets entries by key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow.errors import InvalidKeyError
from sage_flow.runtime.key_table import MISSING, ExpiringTable, KeyTable

FAR = 10**15
KINDS = {
    "plain": (lambda: KeyTable(list), lambda value: value),
    "without a default": (KeyTable, lambda value: value),
    "expiring": (lambda: ExpiringTable(list, 1_000), lambda value: (value, FAR)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_an_entry_is_found_until_it_is_dropped(kind):
    new, entry = kind
    table = new()
    assert table.find("a") is MISSING
    table.put("a", entry(1))
    table.put("a", entry(None))
    assert table.find("a") == entry(None)
    assert list(table.entries()) == [("a", entry(None))]
    table.drop("a")
    table.drop("a")
    assert table.find("a") is MISSING
    assert list(table.entries()) == []


def test_a_key_that_cannot_be_placed_is_refused(kind):
    new, entry = kind
    table = new()
    with pytest.raises(InvalidKeyError):
        table.put(float("nan"), entry(1))
    assert list(table.entries()) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers()))))
def test_a_table_holds_what_a_dict_would(steps):
    for new, entry in KINDS.values():
        table, model = new(), {}
        for key, value in steps:
            if value is None:
                table.drop(key)
                model.pop(key, None)
            else:
                table.put(key, entry(value))
                model[key] = entry(value)
            assert list(table.entries()) == list(model.items())
            assert table.find(key) == model.get(key, MISSING)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50))), st.integers(1, 200))
def test_expired_entries_are_dropped_and_no_others(steps, ttl_ms):
    table, ends, now = ExpiringTable(list, ttl_ms), {}, 0
    for key, passed in steps:
        now += passed
        table.put(key, (key, now + ttl_ms))
        ends[key] = now + ttl_ms
        table.drop_until(now)
        assert set(ends) >= {key for key, _ in table.entries()} >= {key for key, end in ends.items() if end > now}
    table.drop_until(now + 2 * ttl_ms)
    assert list(table.entries()) == []
    assert table._buckets == {}
