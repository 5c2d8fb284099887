"""The command `sage-flow` as a program: search path, start-up, pipes, Ctrl-C."""

import os

import pytest
from job_folder import finish, start, write

from sage_flow import __version__


def test_the_version_is_told_without_loading_what_runs_jobs(tmp_path):
    code = (
        "import sys\n"
        "from sage_flow.cli import main\n"
        "try:\n"
        "    main(['--version'])\n"
        "except SystemExit:\n"
        "    print(*{'rich', 'ray', 'numpy', 'sage_flow.cli.jobfile', 'sage_flow.cli.metrics'} & set(sys.modules))\n"
    )
    assert finish(start("-c", code, cwd=tmp_path)) == (0, f"sage-flow {__version__}\n\n", "")


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    write(tmp_path / "counted.py", "def build(env):\n    env.from_collection([1]).collect()\n")
    read, written = os.pipe()
    os.close(read)
    process = start("-m", "sage_flow.cli", "explain", "counted.py", cwd=tmp_path, stdout=written)
    os.close(written)
    assert finish(process) == (1, None, "")


def test_operators_beside_the_jobs_are_found_from_anywhere(tmp_path):
    write(tmp_path / "operators" / "__init__.py", "")
    write(tmp_path / "operators" / "text.py", "def shout(text):\n    return text.upper()\n")
    job = """
    from operators.text import shout

    def build(env):
        env.from_collection(["a"]).map(shout).print()

    def report(result):
        pass
    """
    write(tmp_path / "jobs" / "shouting.py", job)
    command = ("-m", "sage_flow.cli", "run")
    assert finish(start(*command, "jobs/shouting.py", cwd=tmp_path)) == (0, "A\n", "")
    assert finish(start(*command, "shouting.py", cwd=tmp_path / "jobs")) == (0, "A\n", "")


SHADOWS = [
    *("json", "csv", "queue", "logging", "asyncio", "gzip", "types", "random", "copy", "tempfile", "selectors", "ssl"),
    *("multiprocessing", "concurrent", "select", "zipfile", "heapq", "decimal", "statistics", "uuid", "secrets"),
]


@pytest.mark.parametrize("where", ["", "jobs"])
@pytest.mark.parametrize("executor", ["ThreadExecutor", "ProcessExecutor"])
def test_files_beside_a_job_hide_no_standard_module_from_the_engine(tmp_path, executor, where):
    for name in SHADOWS:
        write(tmp_path / where / f"{name}.py", "raise SystemExit('this file must not be imported')")
    write(tmp_path / "helpers.py", "def shout(text):\n    return text.upper()\n")
    job = f"""
    from helpers import shout
    from sage_flow.executors.processes import ProcessExecutor
    from sage_flow.executors.threads import ThreadExecutor

    async def same(value):
        return value

    class Names:
        def get(self, value):
            return value

    def build(env):
        env._executor = {executor}()
        env.register_service("names", Names)
        words = env.from_iterable(lambda: ["a", "b"]).map(shout).map(lambda w, ctx: ctx.service("names").get(w))
        words.map_async(same).rebalance().write_jsonl("out.jsonl")
        words.write_text("out.txt.gz")
        words.map(lambda word: [word]).write_csv("out.csv", fieldnames=["word"])
        words.print()
    """
    file = write(tmp_path / where / "shadowed.py", job)
    script = "import sys; from sage_flow.cli import main; sys.exit(main())"  # as the command: not `python -m`
    process = start("-c", script, "run", str(file), "--quiet", "--progress", cwd=tmp_path / where, here=False)
    code, out, err = finish(process)
    assert (code, sorted(out.split())) == (0, ["A", "B"]), err
    assert (tmp_path / where / "out.jsonl").read_text() == '"A"\n"B"\n'


PROGRAM = """
if __name__ == "__main__":
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

print("loaded")

from dataclasses import dataclass
from operators.text import shout

@dataclass(frozen=True)
class Options:
    text: str

def build(env, options: Options):
    env.from_collection([options.text]).map(shout).collect("rows")

def report(result):
    print(*result.collected["rows"])
"""


def test_a_job_file_is_a_program_that_is_loaded_once(tmp_path):
    write(tmp_path / "operators" / "__init__.py", "")
    write(tmp_path / "operators" / "text.py", "def shout(text):\n    return text.upper()\n")
    job = str(write(tmp_path / "jobs" / "program.py", PROGRAM))
    assert finish(start(job, "--option", "text=a", cwd="/")) == (0, "loaded\nA\n", "")
    code, _, err = finish(start(job, cwd=tmp_path))
    assert code == 2
    assert err.startswith("sage-flow: error: jobs/program.py needs --option text=...\n")
