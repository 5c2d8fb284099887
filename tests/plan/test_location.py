"""Where something was written: the user's line, as short as it can be said."""

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sage_flow
from sage_flow import LocalEnvironment
from sage_flow.plan.location import Location, caller_location, is_engine_file, short_path


def test_the_caller_is_the_line_that_called():
    where = caller_location()
    assert where.file == __file__
    assert "where = caller_location()" in Path(__file__).read_text().splitlines()[where.line - 1]


def test_an_operator_is_where_the_user_wrote_it_and_not_in_the_engine():
    env = LocalEnvironment("job")
    env.from_collection([1]).map(abs, name="m").for_each(print)
    (chain,) = env._graph.plan().chains
    assert {operator.location.file for operator in chain.operators} == {__file__}
    assert len({operator.location.line for operator in chain.operators}) == 1


def test_engine_files_are_those_of_the_package_and_generated_chains():
    assert is_engine_file(sage_flow.__file__)
    assert is_engine_file(os.path.join(os.path.dirname(sage_flow.__file__), "runtime", "chain.py"))
    assert is_engine_file("<sage_flow chain 'a' from 0.0>")
    assert is_engine_file(contextlib.__file__)  # the engine's own `with` blocks
    assert not is_engine_file(__file__)
    assert not is_engine_file(os.path.dirname(sage_flow.__file__) + "_jobs/flights.py")
    assert not is_engine_file("<stdin>")


def test_a_path_below_the_working_directory_is_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(str(tmp_path / "jobs" / "flights.py")) == os.path.join("jobs", "flights.py")
    assert short_path(str(tmp_path.parent / "flights.py")) == str(tmp_path.parent / "flights.py")
    assert short_path("<stdin>") == "<stdin>"
    assert str(Location(str(tmp_path / "a.py"), 3)) == "a.py:3"


# --- in a notebook ----------------------------------------------------------------------------------------


class Shell:
    """An IPython of version 7: a cell's file has the number of the cell in its name, and nobody names it."""

    execution_count = 1
    compile = SimpleNamespace()

    def run(self, source):
        self.execution_count += 1
        names = {}
        exec(compile(source, f"<ipython-input-{self.execution_count}-{hash(source)}>", "exec"), names)
        return names


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


HERE = "from sage_flow.plan.location import caller_location\nwhere = caller_location()"


def test_a_cell_that_runs_again_writes_at_the_same_place(shell):
    first, again, other = (shell.run(source)["where"] for source in (HERE, HERE, HERE + " "))
    assert again.is_again(first)
    assert not first.is_again(again)
    assert other.is_after(again)
    assert not other.is_again(again)


def test_a_place_of_an_old_ipython_is_named_as_that_names_it(shell):
    assert str(shell.run(HERE)["where"]).startswith("<ipython-input-2-")


def test_outside_of_ipython_nothing_is_written_again(monkeypatch):
    for ipython in (SimpleNamespace(), SimpleNamespace(get_ipython=lambda: None)):
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        first, second = caller_location(), caller_location()
        assert (first.cell, first.title) == (None, "")
        assert not second.is_after(first)
