"""Ray's token: the one that is there is used alike by every command, or the error says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_folder import write
from ray_head import RayHead, started_head

pytestmark = pytest.mark.slow

JOB = """
    def build(env):
        env.from_collection(range(3)).collect("rows")
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """A cluster that took up the token in the file, as `ray start --head` does."""
    with started_head(token_in_file=True) as head:
        yield head


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write(folder / "jobs" / "three.py", JOB)
    return folder


def test_every_command_shows_the_token_that_is_there(head, project):
    code, _, err = head.sage_flow("submit", "jobs/three.py", "--address", head.url, cwd=project)
    assert code == 0, err
    for address in (head.url, head.address, head.client):
        code, out, err = head.sage_flow("list", "--json", "--address", address, cwd=project)
        assert code == 0, err
        assert [(job["name"], job["status"]) for job in json.loads(out)] == [("three", "FINISHED")]
    for command in ("status", "logs", "cancel", "drain"):
        code, out, err = head.sage_flow(command, "three", "--address", head.address, cwd=project)
        assert code == 0, err
        assert "three" in out
    code, _, err = head.sage_flow("run", "jobs/three.py", "--address", head.address, cwd=project)
    assert code == 0, err


@pytest.mark.parametrize(
    ("command", "where"),
    [
        *((command, where) for command in (["list"], ["status", "x"]) for where in ("url", "address", "client")),
        (["submit", "jobs/three.py"], "url"),
        (["run", "jobs/three.py"], "address"),
        (["run", "jobs/three.py"], "client"),
    ],
)
def test_who_shows_no_token_is_told_how_to(head, project, command, where):
    head.environment["RAY_AUTH_MODE"] = "disabled"
    try:
        code, out, err = head.sage_flow(*command, "--address", getattr(head, where), cwd=project)
    finally:
        del head.environment["RAY_AUTH_MODE"]
    assert (code, out) == (3, "")
    assert "`export RAY_AUTH_MODE=token`" in err.splitlines()[-1]
