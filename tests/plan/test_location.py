"""Where something was written: the user's line, as short as it can be said."""

import os
from pathlib import Path

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
    assert not is_engine_file(__file__)
    assert not is_engine_file(os.path.dirname(sage_flow.__file__) + "_jobs/flights.py")
    assert not is_engine_file("<stdin>")


def test_a_path_below_the_working_directory_is_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(str(tmp_path / "jobs" / "flights.py")) == os.path.join("jobs", "flights.py")
    assert short_path(str(tmp_path.parent / "flights.py")) == str(tmp_path.parent / "flights.py")
    assert short_path("<stdin>") == "<stdin>"
    assert str(Location(str(tmp_path / "a.py"), 3)) == "a.py:3"
