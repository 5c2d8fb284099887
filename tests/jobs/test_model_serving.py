"""jobs/model_serving.py: a model that is asked by a pipeline and over HTTP at once."""

import csv
import http.client
import json
import signal
import socket
import sys
from pathlib import Path

import pytest
from job_folder import finish, start

from operators.flowers import MEASURES, FlowerClassifier, load_model
from sage_flow import LocalEnvironment
from sage_flow.cli import main
from sage_flow.cli.jobfile import load_job
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.executors.threads import ThreadExecutor

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "model_serving.py"
FLOWERS = ROOT / "jobs" / "flowers.csv"
PREDICT = '{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'


@pytest.fixture(autouse=True)
def _search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor])
def test_the_rows_have_the_predictions_of_the_model(make, tmp_path):
    job = load_job(JOB)
    env = LocalEnvironment("predictions", 2, executor=make())
    job.build_pipeline(env, job.options([f"out={tmp_path}/out.csv"]))
    result = env.execute(progress=False)
    flowers = rows_of(FLOWERS)
    expected = load_model().predict([[float(row[name]) for name in MEASURES] for row in flowers])
    written = [row for file in sorted(tmp_path.glob("out*.csv")) for row in rows_of(file)]
    assert {(*(row[name] for name in MEASURES), row["predicted"]) for row in written} == {
        (*(row[name] for name in MEASURES), str(species)) for row, species in zip(flowers, expected, strict=True)
    }
    assert len(result.collected["right"]) == len(flowers) == 30


def test_a_flower_that_is_none_fails_alone():
    model = FlowerClassifier()
    model._model = load_model()
    flower = dict.fromkeys(MEASURES, 1.0)
    replies = FlowerClassifier.classify.__wrapped__(model, [flower, {**flower, "petal_width": -1}, 7, {}])
    assert replies[0].species == "setosa"
    assert [str(reply).partition(",")[0] for reply in replies[1:]] == [
        "petal_width must be a length in cm",
        "a flower is an object with sepal_length",
        "sepal_length must be a length in cm",
    ]


def test_programs_are_answered_by_http_while_and_after_the_rows_are_read(tmp_path):
    process = start(
        *("-m", "sage_flow", "run", str(JOB), "--no-progress"),
        *("--option", "port=0", "--option", "stays=true", "--option", f"out={tmp_path}/out.csv"),
        cwd=tmp_path,
        warnings="default",
    )
    try:
        url = next(line for line in process.stderr if line.startswith("POST http://"))
        host, _, port = url.split("/")[2].partition(":")
        assert ask(host, int(port), PREDICT) == (200, "setosa")
        assert ask(host, int(port), "{}")[0] == 500
    finally:
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
    assert code == 130, err
    assert len(rows_of(tmp_path / "out.csv")) == 30
    assert "30 flowers" in out


def ask(host, port, body):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("POST", "/classify", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return reply.status, content[0] if isinstance(content, list) else content


@pytest.mark.parametrize(
    ("given", "told"), [("port=70000", "port must be from 0 to 65535"), ("stays=true", "give a port, too")]
)
def test_options_that_make_no_sense_are_refused(given, told, capsys):
    assert main(["run", str(JOB), "--quiet", "--option", given]) == 2
    assert told in capsys.readouterr().err


def test_a_port_in_use_fails_the_job(capsys):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert main(["run", str(JOB), "--quiet", "--option", f"port={port}"]) == 1
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err
