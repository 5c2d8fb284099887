"""Which job a name means, where there are submissions that have started none."""

from __future__ import annotations

import pytest

from sage_flow import JobStatus
from sage_flow.cli import known_jobs
from sage_flow.cli.known_jobs import JoblessSubmission, KnownJobs
from sage_flow.cli.submission import Submission
from sage_flow.errors import PipelineError
from sage_flow.executors.ray.records import REMEMBERED, JobRecord


class FakeCluster:
    namespace = "sage_flow"

    def __init__(self, *records):
        self._records = records

    def jobs(self):
        return list(self._records)


@pytest.fixture
def known(monkeypatch):
    def known(records, submissions, trouble=None):
        monkeypatch.setattr(known_jobs, "_submissions", lambda: (submissions, trouble))
        return KnownJobs(FakeCluster(*records))

    return known


def job(name, submitted, submission_id=None):
    return JobRecord(f"{name}-{submitted:g}", name, JobStatus.FINISHED, submitted, submission_id=submission_id)


def submission(name, started, status="FAILED", number=None):
    return Submission(status, 1, "it died", f"raysubmit_{started if number is None else number:g}", name, started)


def test_the_latest_of_a_name_counts_whether_it_started_a_job_or_not(known):
    before, after = submission("flights", 1.0), submission("flights", 3.0)
    record = job("flights", 2.0)
    assert known([record], [before]).find("flights") is record
    assert known([record], [before, after]).find("flights") == JoblessSubmission(after)
    assert known([record], [before, after]).find("raysubmit_1") == JoblessSubmission(before)


def test_a_submission_that_has_a_job_is_that_job(known):
    record = job("flights", 2.0, "raysubmit_1")
    found = known([record], [submission("flights", 1.0, "SUCCEEDED")])
    assert found.find("raysubmit_1") is found.find("flights") is found.find("flights-2") is record
    assert [told["id"] for told in found.shown()] == ["flights-2"]


@pytest.mark.parametrize(
    ("status", "told"),
    [("PENDING", "SUBMITTED"), ("RUNNING", "SUBMITTED"), ("FAILED", "FAILED"), ("STOPPED", "CANCELLED")],
)
def test_a_submission_has_the_status_of_a_job(known, status, told):
    (shown,) = known([], [submission("flights", 1.0, status)]).shown()
    assert (shown["id"], shown["name"], shown["status"]) == (None, "flights", told)


def test_submissions_of_others_are_found_by_their_id_and_not_listed(known):
    found = known([], [submission(None, 1.0)])
    assert found.shown() == []
    assert found.find("raysubmit_1").submission.name is None
    with pytest.raises(PipelineError, match="there are: none"):
        found.find("None")


def test_a_submission_whose_job_is_forgotten_is_not_listed(known):
    records = [job("many", float(number)) for number in range(10, 10 + REMEMBERED)]
    assert len(known(records, [submission("old", 9.0)]).shown()) == REMEMBERED
    assert len(known(records, [submission("late", 300.0)]).shown()) == REMEMBERED + 1
    assert len(known(records[1:], [submission("old", 9.0)]).shown()) == REMEMBERED


def test_in_another_namespace_there_are_no_submissions(monkeypatch):
    monkeypatch.setattr(known_jobs, "_submissions", lambda: pytest.fail("it was asked"))
    cluster = FakeCluster(job("flights", 1.0))
    cluster.namespace = "others"
    assert [told["name"] for told in KnownJobs(cluster).shown()] == ["flights"]


def test_no_such_job_names_those_there_are_and_what_is_not_known(known):
    found = known([job("one", 1.0)], [submission("two", 2.0)], "submissions are not known: nobody answers")
    with pytest.raises(PipelineError) as refusal:
        found.find("three")
    told = (
        "no job 'three' is known here; there are: two (raysubmit_2), one-1 (submissions are not known: nobody answers)"
    )
    assert str(refusal.value) == told
