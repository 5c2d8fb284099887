"""The jobs of jobs/nexmark against the same queries in SQL (nexmark_oracle.py), over the same events."""

import importlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cutting import cut_subtasks
from job_folder import ROOT, finish, start
from nexmark_oracle import Oracle

from nexmark.canonical import digest
from nexmark.generator import EventGenerator
from nexmark.job import GeneratorSource, Options
from nexmark.model import COLUMNS
from sage_flow import END, LocalEnvironment, RuntimeContext
from sage_flow.splits import SplitEnd

JOBS = ROOT / "jobs" / "nexmark"
QUERIES = list(COLUMNS)
EVENTS = 3000

# 30 s of events with windows of 10 s, and few auctions at a time
PLAIN = Options(events=EVENTS, events_per_s=100, ooo_ms=1000)
STREAMS = {
    "in order": replace(PLAIN, ooo_ms=0, seed=1),
    "20 s out of order": replace(PLAIN, ooo_ms=20_000, seed=2, partitions=3),
    "many equal times": replace(PLAIN, grid_ms=1000, ooo_ms=5000, seed=3),
    "before 1970": replace(PLAIN, base_time=-15_000, seed=4, partitions=8),
    "over midnight": replace(PLAIN, base_time=1_436_918_385_000, ooo_ms=7000, seed=5, partitions=1),
    "days": replace(PLAIN, events=2000, events_per_s=1, ooo_ms=20_000, base_time=-3_600_000, seed=6),
    "one second": replace(PLAIN, events_per_s=10_000, seed=7),
}


@cache
def expected(options):
    """The lines of all queries for these events, by query."""
    oracle = Oracle(options.generator.events(0, options.events))
    return {query: oracle.lines(query) for query in COLUMNS}


def run(env, query, options, folder):
    """Run the job; return its lines, sorted."""
    output = Path(folder, f"{query}.jsonl")
    importlib.import_module(f"nexmark.{query}").build(env, replace(options, output=output))
    env.execute(progress=False)
    return sorted(output.read_text("utf-8").splitlines())


# --- the queries ------------------------------------------------------------------------------------------


def test_there_is_a_job_for_every_query():
    files = {file.stem for file in JOBS.glob("q*.py")}
    assert files == set(COLUMNS)


ON_RAY, ON_TWO_NODES = ("q1", "q4", "q5"), ("q8",)  # the others are too much for each run of the tests


def these(queries):
    return pytest.mark.parametrize("query", [query for query in QUERIES if query in queries])


@these(set(COLUMNS) - {*ON_RAY, *ON_TWO_NODES})
def test_a_query_gives_the_rows_of_the_oracle_in_every_mode(mode, query, tmp_path):
    assert run(mode.environment(), query, PLAIN, tmp_path) == expected(PLAIN)[query] != []


@pytest.mark.on_ray
@these(ON_RAY)
def test_these_queries_give_the_rows_of_the_oracle_on_ray_too(mode, query, tmp_path):
    assert run(mode.environment(parallelism=3), query, PLAIN, tmp_path) == expected(PLAIN)[query] != []


@pytest.mark.on_ray
@pytest.mark.on_two_nodes
@these(ON_TWO_NODES)
def test_this_query_gives_the_rows_of_the_oracle_on_two_nodes_too(mode, query, tmp_path):
    assert run(mode.environment(parallelism=3), query, PLAIN, tmp_path) == expected(PLAIN)[query] != []


@pytest.mark.parametrize("query", QUERIES)
def test_the_rows_do_not_depend_on_cuts(query, tmp_path, monkeypatch):
    cuts = cut_subtasks(monkeypatch, query)
    options = replace(PLAIN, partitions=8, seed=8)
    assert run(LocalEnvironment("test", 3), query, options, tmp_path) == expected(options)[query]
    assert cuts


@pytest.mark.parametrize("parallelism", [1, 3, 8])
@pytest.mark.parametrize("query", QUERIES)
def test_the_rows_do_not_depend_on_the_parallelism(query, parallelism, tmp_path):
    options = STREAMS["20 s out of order"] if parallelism == 3 else replace(PLAIN, partitions=8, seed=8)
    assert run(LocalEnvironment("test", parallelism), query, options, tmp_path) == expected(options)[query]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_gives_the_rows_of_the_oracle_for_every_stream(query, stream, tmp_path):
    options = STREAMS[stream]
    assert run(LocalEnvironment("test", 2), query, options, tmp_path) == expected(options)[query]


# --- the command and the options --------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    def run_command(query, *options):
        given = [argument for option in options for argument in ("--option", option)]
        process = start("-m", "sage_flow", "run", str(JOBS / f"{query}.py"), *given, cwd=tmp_path)
        code, out, err = finish(process)
        assert code == 0, err
        return out

    return run_command


def test_the_command_writes_the_rows_of_the_generator_into_a_file(command, tmp_path):
    command("q5", "output=rows.jsonl", "events=3000", "seed=5", "ooo_ms=4000", "events_per_s=100")
    options = Options(events=3000, seed=5, ooo_ms=4000, events_per_s=100)
    assert digest((tmp_path / "rows.jsonl").read_text().splitlines()) == digest(expected(options)["q5"])


def test_the_command_reads_events_from_a_file(command, tmp_path):
    events = EventGenerator(seed=9, events_per_s=100, ooo_ms=3000).events(0, 2000)
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    command("q7", "input=events.jsonl", "output=rows.jsonl", "ooo_ms=3000")
    options = Options(events=2000, seed=9, events_per_s=100, ooo_ms=3000)
    assert sorted((tmp_path / "rows.jsonl").read_text().splitlines()) == expected(options)["q7"]


def test_without_a_file_the_rows_are_printed(command):
    options = Options(events=1000, seed=3)
    out = command("q2", "events=1000", "seed=3")
    assert set(expected(options)["q2"]) <= set(out.splitlines())


# --- the source -------------------------------------------------------------------------------------------

GENERATOR = EventGenerator(seed=11)


def opened(events, partitions, subtask=0, parallelism=1):
    source = GeneratorSource(GENERATOR, events, partitions)
    source.open(RuntimeContext("job", "events", subtask, parallelism))
    return source


def rest_of(source):
    """What is left, by split."""
    batches = {split: [] for split in source.splits_read()}
    while (batch := source.next_batch()) is not END:
        if isinstance(batch, SplitEnd):
            assert batch.split == source.split
        else:
            batches[source.split] += batch
    return batches


@pytest.mark.parametrize("parallelism", [1, 2, 5])
def test_the_subtasks_read_each_partition_once_and_in_order(parallelism):
    read = {}
    for subtask in range(parallelism):
        part = rest_of(opened(1000, 3, subtask, parallelism))
        assert not part.keys() & read.keys()
        read |= part
    assert read == {str(number): list(GENERATOR.events(number, 1000, 3)) for number in range(3)}


def test_a_source_takes_the_partitions_in_turn():
    source = opened(2000, 3)
    splits = []
    for _ in range(4):
        source.next_batch()
        splits.append(source.split)
    assert splits == ["0", "1", "2", "0"]


@pytest.mark.parametrize("batches", [0, 1, 5, 9])
def test_a_restored_source_goes_on_behind_the_position(batches):
    source = opened(2000, 3)
    for _ in range(batches):
        source.next_batch()
    restored = opened(2000, 3)
    restored.restore(source.snapshot())
    assert rest_of(restored) == rest_of(source)
