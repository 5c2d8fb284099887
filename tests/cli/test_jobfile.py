"""Loading job files: what is one, under which name, how often, and that workers find it again."""

import os
import sys

import pytest
from job_folder import fresh_folder, write  # noqa: F401 - a fixture

from sage_flow import LocalEnvironment
from sage_flow.cli.jobfile import load_job
from sage_flow.errors import PipelineError
from sage_flow.executors.processes import ProcessExecutor


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(job_folder):
    pass


BUILD = """
def build(env):
    env.from_collection([1, 2]).collect("rows")
"""


def test_a_job_without_options(tmp_path):
    job = load_job(write(tmp_path / "plain_job.py", BUILD))
    env = LocalEnvironment(job.name)
    job.build_pipeline(env, job.options())
    assert job.name == "plain_job"
    assert env.execute(progress=False).collected == {"rows": [1, 2]}
    with pytest.raises(PipelineError, match=r"plain_job.py has no options: its build\(\) takes only an environment"):
        job.options(["top=1"])


@pytest.mark.parametrize("future", ["from __future__ import annotations", ""])
def test_a_job_with_options(tmp_path, future):
    text = f"""
    {future}
    from dataclasses import dataclass
    from typing import TYPE_CHECKING

    if TYPE_CHECKING:
        from sage_flow import LocalEnvironment

    @dataclass(frozen=True)
    class Options:
        top: int = 2

    def build(env: "LocalEnvironment", options: Options) -> None:
        env.from_collection(range(9)).filter(lambda n: n < options.top).collect("rows")
    """
    job = load_job(write(tmp_path / "optional_job.py", text))
    env = LocalEnvironment(job.name)
    job.build_pipeline(env, job.options(["top=3"]))
    assert env.execute(progress=False).collected == {"rows": [0, 1, 2]}


def test_options_without_a_type_are_texts(tmp_path):
    text = """
    def build(env, options):
        env.from_collection(range(int(options.top))).map(lambda n: options["word"] + str(n)).collect("rows")
        assert options.get("missing", "a default") == "a default"
    """
    job = load_job(write(tmp_path / "untyped_job.py", text))
    env = LocalEnvironment(job.name, executor=ProcessExecutor())
    job.build_pipeline(env, job.options(["top=2", "word=a=b"]))
    assert env.execute(progress=False).collected == {"rows": ["a=b0", "a=b1"]}
    with pytest.raises(AttributeError, match=r"untyped_job.py needs --option top=\.\.\."):
        job.build_pipeline(LocalEnvironment(), job.options([]))
    with pytest.raises(PipelineError, match=r"untyped_job.py needs --option word=\.\.\."):
        job.options(["top=1"])["word"]
    with pytest.raises(PipelineError, match="option 'top' is given twice"):
        job.options(["top=1", "top=2"])


def test_options_without_a_type_are_the_dataclass_options_of_the_file(tmp_path):
    text = """
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Options:
        top: int = 2

    def build(env, options):
        env.from_collection(range(options.top)).collect("rows")
    """
    job = load_job(write(tmp_path / "half_typed_job.py", text))
    env = LocalEnvironment(job.name)
    job.build_pipeline(env, job.options(["top=1"]))
    assert env.execute(progress=False).collected == {"rows": [0]}


@pytest.mark.parametrize(
    ("wrapped", "kind"),
    [
        ("async def inner(env): pass", "coroutine"),
        ("def inner(env): yield", "generator"),
        ("async def inner(env): yield", "async_generator"),
    ],
)
def test_a_build_that_has_not_run_when_it_returns_is_refused(tmp_path, wrapped, kind):
    job = load_job(write(tmp_path / f"hidden_{kind}.py", f"{wrapped}\nbuild = lambda env: inner(env)"))
    with pytest.raises(PipelineError, match=f"build in hidden_{kind}.py returned a {kind}, so its body has not run"):
        job.build_pipeline(LocalEnvironment(), None)


@pytest.mark.parametrize(("parameters", "told"), [("result", ["R"]), ("result, options", ["R", None])])
def test_a_report_gets_what_it_asks_for(tmp_path, parameters, told):
    text = f"{BUILD}\ntold = []\ndef report({parameters}):\n    told.extend([{parameters}])\n"
    job = load_job(write(tmp_path / "reporting_job.py", text))
    assert job.tell("R", None) is True
    assert sys.modules["reporting_job"].told == told


def test_a_job_need_not_report(tmp_path):
    assert load_job(write(tmp_path / "silent_job.py", BUILD)).tell("R", None) is False


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a_dir/x.py", None, "a_dir is a directory: name a job file in it, such as a_dir/NAME.py"),
        ("missing.py", None, "missing.py: no such file; a relative path starts at "),
        ("notes.md", "# notes", "notes.md is not a Python file"),
        ("a.b.py", BUILD, r"a\.b\.py is not a Python file"),
        ("torn.py", "x = 1\ndef build(env:\n", "torn.py:2 is not valid Python: .*: def build"),
        ("zeros.py", "x = 1\0", "zeros.py.* is not valid Python: "),
        ("none.py", "x = 1", r"none.py has no function build: a job file has def build\(env, options: Options\)"),
        ("no_function.py", "build = 3", "no_function.py has no function build"),
        ("many.py", "def build(a, b, c): pass", r"build in many.py must take \(env\) or \(env, options\)"),
        ("named.py", "def build(env, *, options): pass", r"build in named.py must take \(env\) or \(env, options\)"),
        ("rest.py", "def build(*parts): pass", r"build in rest.py must take \(env\) or \(env, options\)"),
        ("awaits.py", "async def build(env): pass", "build in awaits.py is an async function, which is not awaited"),
        ("yields.py", "def build(env): yield", "build in yields.py contains yield, so a call does not run its body"),
        ("told.py", f"{BUILD}\nasync def report(result): pass", "report in told.py is an async function"),
        ("dicts.py", "def build(env, options: dict): pass", "dicts.py must be annotated with a frozen dataclass"),
        ("lost.py", "def build(env, options: 'Lost'): pass", "annotation 'Lost' of build in lost.py has no meaning"),
        ("reports.py", f"{BUILD}\ndef report(): pass", r"report in reports.py must take \(result\)"),
        (
            "soft.py",
            "import dataclasses\n@dataclasses.dataclass\nclass Options: pass\ndef build(env, options: Options): pass",
            r"Options in soft.py must be frozen: @dataclass\(frozen=True\)",
        ),
    ],
)
def test_what_is_no_job_file_is_told(tmp_path, file, text, message):
    if text is not None:
        write(tmp_path / file, text)
    elif file.startswith("a_dir"):
        (tmp_path / "a_dir").mkdir()
        file = "a_dir"
    with pytest.raises(PipelineError, match=message):
        load_job(file)


@pytest.mark.parametrize("name", ["json", "wave", "pytest", "sage_flow", "rich"])
def test_a_name_that_hides_another_module_is_refused(tmp_path, name):
    job = write(tmp_path / f"{name}.py", BUILD)
    path = list(sys.path)
    with pytest.raises(PipelineError, match=f"{name}.py has the name of another module, {name!r}.*: rename the file"):
        load_job(job)
    assert sys.path == path


def test_a_package_of_the_same_name_is_refused(tmp_path):
    write(tmp_path / "twice" / "__init__.py", "")
    with pytest.raises(PipelineError, match=r"twice\.py has the name of another module, 'twice'"):
        load_job(write(tmp_path / "twice.py", BUILD))


def test_a_folder_of_the_same_name_is_none_of_its_business(tmp_path):
    (tmp_path / "datajob").mkdir()
    job = load_job(write(tmp_path / "jobs" / "datajob.py", BUILD))
    assert job.file == str(tmp_path / "jobs" / "datajob.py")


def test_a_file_is_run_once(tmp_path):
    file = write(tmp_path / "counted_job.py", f"import sys\nsys.path.append('ran')\n{BUILD}")
    assert load_job(file).build is load_job("counted_job.py").build
    assert sys.path.count("ran") == 1


def test_a_file_that_is_loaded_already_is_found_by_workers_too(tmp_path, monkeypatch):
    file = write(tmp_path / "jobs" / "known_job.py", BUILD)
    path = list(sys.path)
    load_job(file)
    monkeypatch.setattr(sys, "path", path)
    load_job(file)
    behind = len(sys.path) - sys.path[::-1].index(os.path.dirname(os.__file__))
    start = sys.path.index(str(tmp_path / "jobs"))
    assert start >= behind
    assert sys.path[start : start + 2] == [str(tmp_path / "jobs"), str(tmp_path)]


def test_an_import_that_meant_a_file_with_the_name_of_a_standard_module_says_so(tmp_path):
    write(tmp_path / "statistics.py", "def spread(numbers): pass")
    with pytest.raises(ImportError) as failed:
        load_job(write(tmp_path / "spreading_job.py", "from statistics import spread"))
    (note,) = failed.value.__notes__
    assert "statistics.py cannot be imported, as 'statistics' is a module of the standard library: rename it" in note


def test_a_file_that_failed_is_run_again(tmp_path):
    file = write(tmp_path / "broken_job.py", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_job(file)
    write(file, BUILD)
    assert load_job(file).name == "broken_job"


def test_operators_beside_the_jobs_are_found_and_win(tmp_path, monkeypatch):
    write(tmp_path / "project" / "own_operators" / "__init__.py", "")
    write(tmp_path / "project" / "own_operators" / "text.py", "where = 'project'")
    write(tmp_path / "elsewhere" / "own_operators" / "__init__.py", "")
    write(tmp_path / "elsewhere" / "own_operators" / "text.py", "where = 'elsewhere'")
    text = f"from own_operators.text import where\nimport beside, here\n{BUILD}"
    write(tmp_path / "project" / "jobs" / "beside.py", "")
    write(tmp_path / "elsewhere" / "here.py", "")
    file = write(tmp_path / "project" / "jobs" / "importing_job.py", text)
    monkeypatch.chdir(tmp_path / "elsewhere")
    load_job(file)
    assert sys.modules["importing_job"].where == "project"


def test_functions_and_classes_of_a_job_file_work_in_other_processes(tmp_path):
    text = """
    from __future__ import annotations
    from dataclasses import dataclass
    from sage_flow import Function

    @dataclass(frozen=True)
    class Point:
        x: int

        def moved(self, by):
            return Point(self.x + by)

    class Odd(Exception):
        pass

    class Move(Function):
        def open(self, ctx):
            self.by = 10

        def __call__(self, point):
            return point.moved(self.by)

    def even(point):
        if point.x == 13:
            raise Odd("13")
        return True

    @dataclass(frozen=True)
    class Options:
        last: int

    def build(env, options: Options):
        points = env.from_collection([Point(x) for x in range(options.last)])
        moved = points.map(Move(), parallelism=2).filter(even).map(lambda point: (point, isinstance(point, Point)))
        moved.key_by(lambda pair: pair).count(emit="final").collect("rows")
    """
    job = load_job(write(tmp_path / "jobs" / "far_job.py", text))
    module = sys.modules["far_job"]
    env = LocalEnvironment(job.name, executor=ProcessExecutor())
    job.build_pipeline(env, job.options(["last=3"]))
    rows = env.execute(progress=False).collected["rows"]
    assert sorted(rows, key=str) == [((module.Point(x), True), 1) for x in (10, 11, 12)]

    env = LocalEnvironment(job.name, executor=ProcessExecutor())
    job.build_pipeline(env, job.options(["last=4"]))
    with pytest.raises(module.Odd, match="13"):
        env.execute(progress=False)
