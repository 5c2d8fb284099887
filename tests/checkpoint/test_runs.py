"""The runs of a job: their names and order, and what their logs say of them."""

import pytest

from sage_flow.checkpoint.log import AttemptEntry, DoneEntry, FinalEntry, JobEnd, LogHistory, OverEntry
from sage_flow.checkpoint.runs import (
    RunState,
    attempt_of,
    chunk_name,
    job_folder,
    latest_run,
    metadata_name,
    new_run,
    runs_of,
    state_of,
)
from sage_flow.checkpoint.storage import open_storage
from sage_flow.checkpoint.stored_log import StoredLog
from sage_flow.errors import InternalError

NOON = 1_795_867_200_000  # 2026-11-28 12:00:00 UTC
ATTEMPT = AttemptEntry(("L", 1), 1)


@pytest.fixture
def job(tmp_path):
    return open_storage(f"memory://{tmp_path.name}").at(job_folder("words"))


def begun(job, name):
    StoredLog(job.at(name)).create(0, ATTEMPT)
    return name


def over(end):
    return OverEntry(("L", 9), 1, end)


def test_a_run_is_named_by_its_time_in_utc():
    assert new_run(NOON + 999, "1a2b3c4d", []) == "20261128T120000-1a2b3c4d"


def test_a_new_run_comes_behind_all_earlier_ones_even_if_the_clock_went_back():
    earlier = ["notes", "20261128T115959-ffffffff", "20261128T120000-ffffffff"]
    assert new_run(NOON, "00000000", earlier[:2]) == "20261128T120000-00000000"
    assert new_run(NOON, "00000000", earlier) == "20261128T120001-00000000"
    assert new_run(NOON - 86_400_000, "00000000", earlier) == "20261128T120001-00000000"


@pytest.mark.parametrize("unique", ["", "1a2b", "1A2B3C4D", "../../.."])
def test_a_name_that_would_not_be_found_again_is_refused(unique):
    with pytest.raises(InternalError):
        new_run(NOON, unique, [])


def test_the_latest_run_is_the_last_one_that_has_begun(job):
    assert latest_run(job) is None
    assert runs_of(job) == []
    first = begun(job, new_run(NOON, "ffffffff", runs_of(job)))
    second = begun(job, new_run(NOON, "00000000", runs_of(job)))
    job.write("20261128T130000-00000000/chunks/a1-n1-s0-0", b"a leader that died before its first entry")
    job.write("notes.txt", b"")
    begun(job, "older-layout")
    assert runs_of(job) == [first, second]
    assert latest_run(job) == second


@pytest.mark.parametrize(
    ("entries", "state"),
    [
        ([], RunState.OPEN),
        ([ATTEMPT], RunState.OPEN),
        ([ATTEMPT, DoneEntry(("L", 2), 1, 1)], RunState.OPEN),
        ([ATTEMPT, FinalEntry(("L", 2), 1)], RunState.NOT_PUBLISHED),
        ([ATTEMPT, FinalEntry(("L", 2), 1), over(JobEnd.FINISHED)], RunState.FINISHED),
        ([ATTEMPT, over(JobEnd.FAILED)], RunState.FAILED),
        ([ATTEMPT, over(JobEnd.CANCELLED)], RunState.CANCELLED),
    ],
)
def test_the_state_of_a_run_is_what_its_log_says(entries, state):
    assert state_of(LogHistory(dict(enumerate(entries)))) is state


def test_each_end_of_a_job_is_a_state_of_its_run():
    assert {end.value for end in JobEnd} <= {state.value for state in RunState}


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", ".hidden", "100 %", "Wörter", "x" * 1000, "ü" * 200, "a\0b", "a\\b", "a\udcff"]
)
def test_each_name_of_a_job_has_a_folder_of_its_own(tmp_path, name):
    folder = job_folder(name)
    storage = open_storage(tmp_path)
    storage.at(folder).write("log/0", b"")
    assert storage.names() == [folder]
    assert job_folder(name + "2") != folder


def test_plain_names_of_jobs_stay_readable():
    assert job_folder("hourly words-2") == "hourly words-2"


def test_the_names_of_files_carry_the_attempt():
    assert chunk_name(2, 7, 3, 0) == "chunks/a2-n7-s3-0"
    assert metadata_name(12, 7) == "checkpoints/a12-n7"
    assert attempt_of(metadata_name(12, 7)) == 12


@pytest.mark.parametrize(
    "name", ["", "notes", "a1", "log/000000000001", "chunks/a1-n1-s1", "chunks/xa1-n1", "a1-n1.bak"]
)
def test_a_file_that_no_attempt_wrote_has_none(name):
    assert attempt_of(name) is None
