"""A Ray of two nodes for the tests of this session, started when the first test asks for it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

SECOND = "second_node"
"""A resource that only the second node has: `resources={SECOND: 0.001}` places an actor there."""

_NAMESPACE = "sage_flow"
_HEAD_IP, _SECOND_IP = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 is no address of a node: Ray replaces it when it dials
_STORE_BYTES = 80 << 20  # the least that Ray takes is 75 MB
_SETTINGS = {
    "RAY_worker_niceness": "0",  # workers are as important as the tests that wait for them
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else each worker warns of what it will do in the future
}


@dataclass(frozen=True)
class RayCluster:
    """`head_id`, `second_id`: the node ids. The driver is connected, in `namespace`, at the head."""

    address: str
    head_id: str
    second_id: str
    namespace: str
    cluster: Any
    """The `ray.cluster_utils.Cluster`."""

    def on(self, node_id: str) -> dict[str, Any]:
        """Return the options that place a task or actor on this node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}

    def add_node(self, ip: str, **options: Any) -> Any:
        """Start one more, which the test may kill, and has to remove. `ip`: 127.0.0.4 and so on."""
        with _settings():
            return self.cluster.add_node(node_ip_address=ip, object_store_memory=_STORE_BYTES, **options)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """Two nodes of four CPUs each, and this process as a driver."""
    with two_nodes() as cluster:
        yield cluster


@contextmanager
def two_nodes() -> Iterator[RayCluster]:
    """The same for a program."""
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="sfr-", ignore_cleanup_errors=True) as folder:  # sockets: a short path
        node = {"num_cpus": 4, "object_store_memory": _STORE_BYTES}
        # Ray notes its newest cluster in RAY_TMPDIR/ray, which this one must neither need nor change for others.
        head = {"node_ip_address": _HEAD_IP, "temp_dir": os.path.join(folder, "ray"), "include_dashboard": False}
        with _settings(RAY_TMPDIR=folder):
            cluster = Cluster(initialize_head=True, head_node_args={**node, **head})
        try:
            with _settings():
                second = cluster.add_node(**node, node_ip_address=_SECOND_IP, resources={SECOND: 1})
                ray.init(address=cluster.address, namespace=_NAMESPACE, log_to_driver=False, logging_level="ERROR")
            yield RayCluster(cluster.address, cluster.head_node.node_id, second.node_id, _NAMESPACE, cluster)
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def _settings(**more: str) -> Iterator[None]:
    """What the processes that Ray starts inherit, `more` whatever is set outside. They import what the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SETTINGS.items():
            patch.setenv(name, os.environ.get(name, value))
        for name, value in more.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(path or os.getcwd() for path in sys.path))
        yield
