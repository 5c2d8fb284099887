"""The table of operator kinds is the only list of them."""

import ast
import pickle
from pathlib import Path

import pytest

import sage_flow
from sage_flow.errors import InternalError
from sage_flow.plan import kinds
from sage_flow.plan.kinds import KINDS, Gives, Kind
from sage_flow.runtime.lines import WRITERS

PACKAGE = Path(sage_flow.__file__).parent
TABLES = ("plan/kinds.py", "runtime/lines/__init__.py")
WRITERS_OF_OPERATORS = ("streams/", "environment.py")
ENDS = {"SOURCE", "REQUESTS", "SINK", "COLLECT", "SERVICE", "KEY_BY"}
"""Kinds of which there is one each by nature: what enters a chain, what leaves it, and what says how records travel."""


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_every_kind_has_a_row_and_a_writer(kind):
    assert KINDS[kind.name] is kind
    assert (kind in WRITERS) == (kind is not kinds.SERVICE)  # which is in no chain


def test_every_row_is_named_in_the_table():
    assert {getattr(kinds, kind.name.upper()) for kind in KINDS.values()} == set(KINDS.values())


def test_every_writer_is_of_a_kind_in_the_table():
    assert set(WRITERS) <= set(KINDS.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_row_does_not_contradict_itself(kind):
    assert set(kind.on_error) <= {"skip", "dead_letter"}
    if kind.iterates or kind.awaits:
        assert kind.gives is Gives.ANY
    if kind.takes_batches:
        assert kind.holds_back
    if kind.folds:
        assert kind.is_stateful
    if kind.is_sink:
        assert "dead_letter" not in kind.on_error


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_kind_is_the_same_behind_a_pickle(kind):
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_a_process_that_knows_no_such_kind_says_what_to_import():
    pickled = pickle.dumps(Kind("never_registered"))
    with pytest.raises(InternalError, match=r"'never_registered': import the module that registers it"):
        pickle.loads(pickled)


def test_two_kinds_of_one_name_are_refused():
    with pytest.raises(InternalError, match="two kinds of operators are named 'map'"):
        kinds.register(Kind("map"))
    assert KINDS["map"] is kinds.MAP


def named(file):
    """The kinds that a module names, as `kinds.MAP`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "kinds" and node.attr.isupper():
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "sage_flow.plan.kinds":
            yield from (alias.name for alias in node.names if alias.name.isupper())


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_no_other_module_lists_kinds_it_asks_the_row(file):
    name = file.relative_to(PACKAGE).as_posix()
    if name not in TABLES and not name.startswith(WRITERS_OF_OPERATORS):
        assert set(named(file)) <= ENDS
