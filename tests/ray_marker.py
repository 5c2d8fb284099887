"""The marker `ray`: what uses a cluster of Ray gets it here, so that `-m ray` and `-m "not ray"` split the suite.

Such tests belong in one process, one after another: they share the cluster of the session, their heads listen at the
same addresses, and two clusters at once are too much for a small machine. Most of the time they wait, so the other
tests can run beside them (`side_by_side.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

_FIXTURES = {"ray_cluster", "ray_head", "ray_pool"}
_FOLDER = Path(__file__).parent / "ray"
_PARAMETER = "ray"
"""A parameter for which a test runs on Ray: a mode such as "ray-1-node", a kind of queue, a benchmark."""


def uses_ray(item: pytest.Item) -> bool:
    """Whether `item` needs a cluster. A test that starts one by itself is marked where it is written."""
    parameters = item.callspec.id.split("-") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else []
    fixtures = getattr(item, "fixturenames", ())
    return _PARAMETER in parameters or not _FIXTURES.isdisjoint(fixtures) or item.path.parent == _FOLDER


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if uses_ray(item):
            item.add_marker(pytest.mark.ray)
