"""The modes that run a pipeline test on the test cluster: the actors of a pool, which jobs use one after the other.

A test marked `on_ray` runs on one node, too; one marked `on_two_nodes` with neighbours on different nodes. With
`--everywhere` every test that has the fixture `mode` does both.
"""

from __future__ import annotations

import pytest

from sage_flow.executors.ray.client import RayExecutor
from sage_flow.executors.ray.records import JobOptions
from sage_flow.testing import MODES, Mode

ONE_NODE, TWO_NODES = "ray-1-node", "ray-2-nodes"

_PATIENCE_S = 60


class WorkerPool:
    """Worker actors by the name of the node; a dead one is replaced when it is next wanted."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._actors = {}
        self._made = 0

    def names(self, *nodes):
        """The names of an actor on each of these nodes ("head" or "second"), all different."""
        wanted = [f"{node}-{nodes[:index].count(node)}" for index, node in enumerate(nodes)]
        return tuple(self._alive(key) for key in wanted)

    def _alive(self, key):
        import ray

        name, actor = self._actors.get(key, (None, None))
        try:
            ray.get(actor.place.remote(), timeout=_PATIENCE_S)
        except (AttributeError, ray.exceptions.RayError):
            name = self._make(key)
        return name

    def _make(self, key):
        import ray

        from sage_flow.executors.ray.worker import WorkerActor

        self._made += 1
        name = f"pool-{key}-{self._made}"
        node = self._cluster.head_id if key.startswith("head") else self._cluster.second_id
        options = {"name": name, "namespace": self._cluster.namespace, "num_cpus": 0, **self._cluster.on(node)}
        actor = ray.remote(WorkerActor).options(**options).remote(name)
        self._actors[key] = name, actor
        ray.get(actor.place.remote(), timeout=_PATIENCE_S)
        return name


@pytest.fixture(scope="session")
def ray_pool(ray_cluster):
    return WorkerPool(ray_cluster)


def _on(pool, *nodes):
    return lambda: RayExecutor(options=JobOptions(pool=pool.names(*nodes)))


@pytest.fixture
def mode(request):
    """Runs the test once per mode."""
    if isinstance(request.param, Mode):
        return request.param
    pool = request.getfixturevalue("ray_pool")
    nodes = ("head", "head") if request.param == ONE_NODE else ("head", "second", "head")
    return Mode(request.param, 2, _on(pool, *nodes))


def pytest_addoption(parser):
    parser.addoption("--everywhere", action="store_true", help="run every pipeline test on Ray, too")


def pytest_generate_tests(metafunc):
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if mark.args[0] == "mode"]
    if "mode" not in metafunc.fixturenames or chosen:
        return
    everywhere = metafunc.config.getoption("everywhere")
    modes = list(MODES)
    for mark, name in (("on_ray", ONE_NODE), ("on_two_nodes", TWO_NODES)):
        if everywhere or metafunc.definition.get_closest_marker(mark):
            modes.append(name)
    metafunc.parametrize("mode", modes, ids=str, indirect=True)
