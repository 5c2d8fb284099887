"""Committed output is that of a run in peace, whoever is killed. The long form is `make chaos`."""

import pytest
from chaos import check_job, expected


@pytest.mark.parametrize(
    ("name", "victims"),
    [("q5", ("subtask", "master")), ("q8", ("subtask", "subtask")), ("flights", ("subtask", "raylet", "subtask"))],
)
def test_what_a_job_publishes_does_not_change_by_kill_9(ray_cluster, tmp_path, name, victims):
    right = expected(name, tmp_path / "right")
    assert len(right) > 20
    assert check_job(name, ray_cluster, tmp_path / "killed", 1, right, victims, most=6) > 1
