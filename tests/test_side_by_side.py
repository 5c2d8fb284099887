"""The two processes that `make unit` runs at once, and the marker that tells which test belongs to which."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from job_folder import write
from side_by_side import commands_with, run

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60


def program(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def printed(**commands: list[str]) -> tuple[int, list[str]]:
    to = io.BytesIO()
    return run(commands, to), [line for line in to.getvalue().decode().splitlines() if not line.startswith("---")]


def test_two_processes_run_at_once_and_their_outputs_follow_one_another(tmp_path):
    meet = tmp_path / "meet.py"
    write(
        meet,
        f"""
        import pathlib, sys, time
        me, other = sys.argv[1:]
        print(me, "begins", flush=True)
        pathlib.Path({str(tmp_path)!r}, me).touch()
        while not pathlib.Path({str(tmp_path)!r}, other).exists():
            time.sleep(0.01)
        print(me, "ends", file=sys.stderr)
        """,
    )
    code, lines = printed(one=[sys.executable, str(meet), "one", "two"], two=[sys.executable, str(meet), "two", "one"])
    assert (code, lines) == (0, ["one begins", "one ends", "two begins", "two ends"])


@pytest.mark.parametrize(
    "failing", ["raise SystemExit(1)", "import os; os.kill(os.getpid(), 9)"], ids=["fails", "dies"]
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
def test_one_process_that_fails_or_dies_is_a_failure_of_both_which_both_finish(failing, is_first):
    both = [program(f"print('told', flush=True); {failing}"), program("print('good')")]
    one, two = both if is_first else both[::-1]
    code, lines = printed(one=one, two=two)
    assert (code, sorted(lines)) == (1, ["good", "told"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_both_processes_and_what_they_have_started(number, tmp_path):
    child = """
        import os, pathlib, signal, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("started", flush=True)
        pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(3600)
    """
    parent = f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", {textwrap.dedent(child)!r}, sys.argv[1]])
        time.sleep(3600)
    """
    commands = {name: [*program(parent), str(tmp_path / name)] for name in ("one", "two")}
    script = [sys.executable, "-c", f"from side_by_side import main; raise SystemExit(main({commands!r}))"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pids = [int(await_text(tmp_path / name)) for name in commands]
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert (out.count(b"started\n"), out.count(b"KeyboardInterrupt"), err) == (2, 2, b"")
    for pid in pids:
        await_end(pid)


def await_text(path: Path) -> str:
    until = time.monotonic() + PATIENCE_S
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    return path.read_text()


def await_end(pid: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while is_running(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_each_process_has_its_marks_its_cache_and_all_options():
    ray, rest = (command[1:] for command in commands_with(["-x", "-p", "randomly"]).values())
    assert ray == [
        *("-m", "pytest", "-q", "-x", "-p", "randomly"),
        *("-m", "(ray or proof) and not soak", "-o", "cache_dir=.pytest_cache/ray"),
    ]
    assert rest == [
        *("-m", "pytest", "-q", "-x", "-p", "randomly"),
        *("-m", "not ray and not proof and not soak", "-o", "cache_dir=.pytest_cache/rest"),
    ]


def test_what_uses_a_cluster_is_marked_and_nothing_else_is():
    """By a mode, a kind of queue, a benchmark, a fixture, by itself, or by its folder: one file for each of them."""
    files = [
        "tests/pipelines/test_context_key.py",
        "tests/queues/queue_contract/test_queue_end.py",
        "tests/test_benchmarks.py",
        "tests/test_docs.py",
        "tests/test_docker.py",
        "tests/ray/test_ray_tokens.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:randomly", "-p", "no:cacheprovider"]
    told = subprocess.run(
        [*command, "-m", "ray", *files, "sage_flow/executors/ray"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = [line for line in told.stdout.splitlines() if "::" in line]
    assert {line.partition("::")[0] for line in found} == set(files)
    by_parameter = [line for line in found if line.startswith(tuple(files[:3]))]
    assert [line for line in by_parameter if "ray" not in line.partition("[")[2]] == []
    assert "tests/test_docker.py::test_the_commands_of_the_services_are_a_cluster_that_runs_the_job" in found
