"""The commands for clusters where there is none: wrong uses, and what is decided before anybody is asked."""

from __future__ import annotations

import argparse
import http.server
import io
import json
import os
import sys
import threading

import pytest
from job_folder import fresh_folder, start, write  # noqa: F401 - a fixture

from sage_flow import LocalEnvironment, RemoteEnvironment
from sage_flow.cli import main, placement, relay
from sage_flow.cli.inspection import job_text
from sage_flow.cli.jobfile import load_job
from sage_flow.cli.submission import JobServer, entrypoint, shipped
from sage_flow.errors import ClusterError, PipelineError
from sage_flow.executors.ray.cluster import connect_to_ray, this_submission
from sage_flow.executors.ray.search_path import SearchPath

JOB = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    top: int = 3

def build(env, options: Options):
    env.from_collection(range(options.top)).collect("rows")
"""
SUBMISSION = '{"metadata": {"job_submission_id": "raysubmit_1", "job_name": "x"}, "runtime_env": {}}'


@pytest.fixture(autouse=True)
def _no_cluster_in_the_environment(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody(unused_port):
    return f"127.0.0.1:{unused_port}"


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]  # it does not listen


@pytest.fixture(autouse=True)
def unconnected(monkeypatch):
    """As a command begins, whatever tests before this one have left connected."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


# --- wrong uses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["list", "status x", "logs x", "cancel x", "drain x", "services x", "channels x"])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_an_address_that_nobody_answers(command, scheme, nobody, capsys):
    assert main([*command.split(), "--address", f"{scheme}{nobody}"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sage-flow: error: no server answers at ")
    assert nobody in err


def test_submitting_to_nobody(job_folder, nobody, capsys):
    write(job_folder / "jobs" / "sent_to_nobody.py", JOB)
    assert main(["submit", "jobs/sent_to_nobody.py", "--address", f"http://{nobody}"]) == 3
    assert "--dashboard-host" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "ray://head:10001", "http://", "http://head:x", "head"])
def test_submit_wants_the_address_of_a_job_server(job_folder, address, capsys):
    write(job_folder / "addressed.py", JOB)
    assert main(["submit", "addressed.py", "--address", address]) == 2
    err = capsys.readouterr().err
    assert repr(address) in err
    assert "address" in err


def test_submit_without_an_address_asks_for_it_or_takes_that_of_ray(job_folder, nobody, capsys, monkeypatch):
    write(job_folder / "homeless.py", JOB)
    assert main(["submit", "homeless.py"]) == 2
    assert "--address http://HOST:8265" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", f"http://{nobody}")
    assert main(["submit", "homeless.py"]) == 3
    assert nobody in capsys.readouterr().err


def test_the_job_file_and_its_options_are_checked_before_anything_travels(job_folder, nobody, capsys):
    write(job_folder / "checked.py", JOB)
    write(job_folder / "empty_job.py", "x = 1\n")
    for arguments, told in [
        (["checked.py", "--option", "topp=3"], "has no option 'topp'"),
        (["checked.py", "--option", "top=many"], "option 'top' must be int"),
        (["empty_job.py"], "has no function build"),
        (["missing.py"], "no such file"),
        (["checked.py", "--working-dir", "nowhere"], "--working-dir nowhere: no such folder"),
    ]:
        assert main(["submit", *arguments, "--address", f"http://{nobody}"]) == 2, arguments
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "code", "told"),
    [
        ("env.from_collection(range(options.top)).map(abs)", 2, "has no sink"),
        ("env.from_collection([1]).collect('rows')\n    1 // (options.top - 3)", 1, "ZeroDivisionError"),
        ("env.from_collection(open('only_there.txt')).collect('rows')", 1, "only_there.txt"),
    ],
)
def test_the_pipeline_is_written_before_anything_travels(job_folder, nobody, capsys, build, code, told):
    write(job_folder / "written.py", JOB.replace('env.from_collection(range(options.top)).collect("rows")', build))
    submit = ["submit", "written.py", "--address", f"http://{nobody}"]
    assert main(submit) == code
    err = capsys.readouterr().err
    assert told in err
    assert "--no-build skips the call of build()" in err
    assert main([*submit, "--no-build"]) == 3  # it goes on, to nobody
    assert main([*submit, "--no-check"]) == 3


def test_the_pipeline_is_written_in_the_folder_that_travels(job_folder, nobody, capsys):
    here = os.getcwd()
    source = JOB.replace("range(options.top)", "__import__('pathlib').Path('words.txt').read_text().split()")
    write(job_folder / "travels" / "jobs" / "reads_words.py", source)
    submit = ["submit", "travels/jobs/reads_words.py", "--working-dir", "travels", "--address", f"http://{nobody}"]
    assert main(submit) == 1
    assert "words.txt" in capsys.readouterr().err
    write(job_folder / "travels" / "words.txt", "a b")
    assert main(submit) == 3
    assert os.getcwd() == here


def test_a_job_file_has_to_be_in_what_travels(job_folder, nobody, capsys):
    write(job_folder / "outside.py", JOB)
    (job_folder / "project").mkdir()
    assert main(["submit", "outside.py", "--working-dir", "project", "--address", f"http://{nobody}"]) == 2
    assert "outside.py is not in the folder that is shipped" in capsys.readouterr().err


def test_a_server_of_another_kind_is_told(job_folder, capsys):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(418, "I am a teapot")

        def log_message(self, *args):
            pass

    write(job_folder / "brewed.py", JOB)
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert main(["submit", "brewed.py", "--address", f"http://127.0.0.1:{server.server_port}"]) == 3
        finally:
            server.shutdown()
    err = capsys.readouterr().err
    assert err.startswith(
        f"sage-flow: error: the job server at http://127.0.0.1:{server.server_port} rejected the request: "
    )
    assert "418" in err


def test_a_reader_of_the_log_that_has_had_enough_is_no_error_of_the_server(job_folder, monkeypatch, capsys):
    class Following:
        address = "http://head:8265"

        def __init__(self, address):
            self.submit = lambda *arguments: "raysubmit_1"

        def follow(self, submission, show):
            server = JobServer.__new__(JobServer)
            server._ask(print, file=Closed())

    class Closed:
        def write(self, text):
            raise BrokenPipeError

    write(job_folder / "piped.py", JOB)
    monkeypatch.setattr("sage_flow.cli.submission.JobServer", Following)
    monkeypatch.setattr("sage_flow.cli.program.discard_stdout", lambda: None)
    assert main(["submit", "piped.py", "--address", "http://head:8265"]) == 1
    assert capsys.readouterr().err == "sage-flow: job 'piped' is submitted as raysubmit_1\n"


def test_a_ray_inside_another_process_cannot_be_asked(capsys):
    assert main(["list", "--address", "local"]) == 2
    assert "give the address of a cluster" in capsys.readouterr().err


def test_a_job_of_a_cluster_has_to_be_named(nobody, capsys):
    assert main(["channels", "--address", nobody]) == 2
    assert "say which job" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["submit", "list", "status", "logs", "cancel", "drain"])
def test_help_tells_the_exit_codes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for code in ("0    done", "1    the job failed", "2    wrong use", "3    no cluster", "130  Ctrl-C"):
        assert f"  {code}" in out


def test_wait_and_detach_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["submit", "x.py", "--wait", "--detach"])
    assert ended.value.code == 2


# --- where a job runs -------------------------------------------------------------------------------------


def environment_for(job_folder, *flags):
    write(job_folder / "placed.py", JOB)
    parser = argparse.ArgumentParser()
    placement.add_run_options(parser)
    arguments = parser.parse_args(flags)
    arguments.parallelism = 2
    return placement.environment(load_job("placed.py"), arguments)


def address_for(job_folder, *flags):
    env = environment_for(job_folder, *flags)
    assert isinstance(env, RemoteEnvironment)
    return env._address[0]


def test_a_job_runs_here_unless_it_is_asked_otherwise(job_folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    env = environment_for(job_folder, "--name", "mine")
    assert type(env) is LocalEnvironment
    assert env.name == "mine"


def test_ray_alone_is_one_of_its_own(job_folder):
    env = environment_for(job_folder, "--ray")
    assert env.name == "placed"
    assert env._address == ("local", "sage_flow", None)


def test_on_a_cluster_the_folder_travels(job_folder):
    address, _, runtime_env = environment_for(job_folder, "--address", "host:6379")._address
    assert address == "host:6379"
    assert runtime_env["working_dir"] == str(job_folder)
    assert ".venv" in runtime_env["excludes"]


def test_that_one_is_started_also_where_a_cluster_runs(monkeypatch):
    import ray

    asked = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    connect_to_ray("local")
    assert asked["address"] == "local"


def test_ray_address_is_where_ray_is(job_folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert address_for(job_folder, "--ray") == "auto"
    assert address_for(job_folder, "--ray", "--address", "local") == "local"


def test_in_a_submission_ray_is_the_default_and_nothing_travels_again(job_folder, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", SUBMISSION)
    assert this_submission() == "raysubmit_1"
    assert environment_for(job_folder)._address == ("auto", "sage_flow", None)
    assert type(environment_for(job_folder, "--no-ray")) is LocalEnvironment


@pytest.mark.parametrize("told", ["{}", '{"metadata": {}}', '{"metadata": null}'])
def test_a_driver_of_another_kind_is_no_submission(told, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", told)
    assert this_submission() is None


def test_a_job_server_is_no_place_to_run(job_folder, monkeypatch, capsys):
    write(job_folder / "misplaced.py", JOB)
    assert main(["run", "misplaced.py", "--address", "http://head:8265"]) == 2
    assert "`sage-flow submit` sends a job there" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert main(["run", "misplaced.py", "--ray"]) == 2


def test_running_where_nobody_answers(job_folder, nobody, capsys):
    write(job_folder / "unanswered.py", JOB)
    assert main(["run", "unanswered.py", "--address", nobody]) == 3
    err = capsys.readouterr().err
    assert f"no server answers at '{nobody}'" in err
    assert len(err.splitlines()) == 1  # no line of the engine's, nor of the library's


def test_a_termination_while_the_job_starts_is_not_lost(tmp_path):
    job = """
    import itertools
    import os
    import signal

    def build(env):
        env.from_iterable(itertools.count).for_each(abs)
        submit = env.submit

        def submit_and_end():
            handle = submit()
            os.kill(os.getpid(), signal.SIGTERM)
            return handle

        env.submit = submit_and_end
    """
    process = start("-m", "sage_flow.cli", "run", str(write(tmp_path / "started.py", job)), "--quiet", cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.startswith("sage-flow: SIGTERM: draining job 'started'")
    assert err.endswith("sage-flow: job 'started' is FINISHED\n")


# --- what travels -----------------------------------------------------------------------------------------


def test_files_that_would_hide_standard_modules_from_ray_are_told(job_folder, capsys):
    for name in ("json.py", "queue/__init__.py", "logging/notes.txt", "test.py", "jobs/csv.py", "own.py"):
        write(job_folder / name, "")
    assert shipped(".")["working_dir"] == str(job_folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sage-flow: warning: ")
    assert " json.py, queue may take the place of its modules: rename" in line


def test_the_command_on_the_cluster_survives_its_shell(job_folder):
    write(job_folder / "p" / "jobs" / "the job.py", JOB)
    command = entrypoint("p/jobs/the job.py", "p", ["--option", "text=a 'b' $c; d"])
    assert command == ("python -m sage_flow.cli run 'jobs/the job.py' --ray --option 'text=a '\"'\"'b'\"'\"' $c; d'")


def test_a_link_does_not_lead_out(job_folder):
    write(job_folder / "elsewhere.py", JOB)
    (job_folder / "p").mkdir()
    os.symlink(job_folder / "elsewhere.py", job_folder / "p" / "link.py")
    with pytest.raises(PipelineError, match="is not in the folder"):
        entrypoint("p/link.py", "p", [])


def test_what_travels_is_a_folder(tmp_path):
    with pytest.raises(PipelineError, match="no such folder"):
        shipped(str(write(tmp_path / "file", "")))


def test_modules_of_the_job_are_found_in_the_copy_of_what_travels(tmp_path, monkeypatch):
    there, copy = tmp_path / "there", tmp_path / "copy"
    for folder in (there / "jobs", there / "only", copy / "jobs"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(there / "jobs"), str(there), str(there / "only")])
    path = SearchPath(str(there))
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "path", ["first"])
    path.follow()
    assert sys.path[:3] == ["first", str(copy / "jobs"), str(there / "jobs")]
    assert str(copy) in sys.path
    assert str(there / "only") in sys.path


# --- a command that is run on the cluster -----------------------------------------------------------------


class FakeServer:
    """A job server whose only submission prints `log`."""

    def __init__(self, log):
        self.log = log
        self.forgotten = []

    def submit(self, entrypoint, metadata):
        self.entrypoint, self.metadata = entrypoint, metadata
        return "raysubmit_1"

    def follow(self, submission_id, show):
        for begin in range(0, len(self.log), 7):
            show(self.log[begin : begin + 7])

    def forget(self, submission_id):
        self.forgotten.append(submission_id)


def packed(monkeypatch, *command):
    """What the relay of a command prints, on the other side."""
    written = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        relay.run_packed(main, command)
    return written.getvalue()


def test_what_a_command_prints_on_the_cluster_is_printed_here(monkeypatch, capsys):
    server = FakeServer(f"of Ray\n{packed(monkeypatch, 'status', 'x', '--address', 'nowhere')}more of Ray\n")
    monkeypatch.setattr(relay, "JobServer", lambda address: server)
    assert relay.run_on_cluster("http://head:8265", ["status", "x y"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sage-flow: error: 'nowhere' is not an address of Ray")
    assert server.entrypoint == "python -m sage_flow.cli.relayed status 'x y'"
    assert server.metadata["sage_flow_command"] == "status"  # it is no submission of a job
    assert server.forgotten == ["raysubmit_1"]


def test_long_output_travels_in_short_lines(monkeypatch):
    help_text = packed(monkeypatch, "--help")
    assert max(map(len, help_text.splitlines())) < 20_000
    out = io.StringIO()
    unpacker = relay.Unpacker(out, out)
    unpacker.feed(help_text)
    assert "usage: sage-flow" in out.getvalue()
    assert (unpacker.code, unpacker.noise) == (0, [])


@pytest.mark.parametrize("text", ["x" * 5000, "\N{GRINNING FACE}" * 2000, "a\x1eb\r\n\u2028c"])
def test_every_text_survives_the_way(text):
    way, out = io.StringIO(), io.StringIO()
    relay._Packer(way, "out").write(text)
    assert max(map(len, way.getvalue().split("\n"))) < 20_000
    relay.Unpacker(out, out).feed(way.getvalue())
    assert out.getvalue() == text


def test_a_cluster_that_cannot_run_the_command_tells_why(monkeypatch):
    server = FakeServer("one\npython: No module named sage_flow\n")
    monkeypatch.setattr(relay, "JobServer", lambda address: server)
    with pytest.raises(ClusterError, match=r"(?s)could not run `sage-flow list`:.*No module named sage_flow"):
        relay.run_on_cluster("http://head:8265", ["list"])
    assert server.forgotten == ["raysubmit_1"]


def test_the_command_is_forgotten_after_ctrl_c(monkeypatch):
    server = FakeServer("")
    monkeypatch.setattr(relay, "JobServer", lambda address: server)

    def interrupted(submission_id, show):
        raise KeyboardInterrupt

    server.follow = interrupted
    with pytest.raises(KeyboardInterrupt):
        relay.run_on_cluster("http://head:8265", ["list"])
    assert server.forgotten == ["raysubmit_1"]


def test_a_job_server_that_is_not_http_is_refused_before_ray_is_imported():
    with pytest.raises(PipelineError, match="not the address of a job server"):
        JobServer("ray://head:10001")


# --- what is printed --------------------------------------------------------------------------------------


def test_status_shows_the_message_and_the_subtasks():
    job = {
        "id": "a-1",
        "name": "a",
        "status": "FAILED",
        "attempt": 2,
        "submitted": 0.0,
        "ended": 1.0,
        "message": "ValueError: no",
        "submission_id": "raysubmit_1",
        "subtasks": [
            {"name": "map-1[1/2]", "status": "RUNNING", "node": "f" * 56, "pid": 0, "actor": "a-1/map-1[1/2]"}
        ],
        "operators": {"map-1": {"emitted": 1234, "skipped": 5, "dead_letters": 0, "late": 0}},
        "watermarks": {},
    }
    text = job_text(json.loads(json.dumps(job)))
    assert "job        a-1 (a)\nstatus     FAILED, attempt 2\n" in text
    assert " as raysubmit_1\n" in text
    assert "message    ValueError: no\n" in text
    assert "map-1[1/2]  RUNNING  ffffffff  -        a-1/map-1[1/2]" in text
    assert "map-1       1,234        5             0" in text
