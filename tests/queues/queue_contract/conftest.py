"""The kinds, the servers they need, and other processes."""

import pytest
import ray
from queue_kinds import (
    KEY,
    MultiprocessingKind,
    PythonKind,
    RayKind,
    RayOtherNodeKind,
    RpcHereKind,
    RpcKind,
    RpcTlsKind,
)
from queue_peer import Peer, host_there

from sage_flow.channels import RPCQueueServer
from tests.links.certificates import Authority

KINDS = ["python", "multiprocessing", "rpc", "rpc-tls", "rpc-here", "ray", "ray-other-node"]


@pytest.fixture
def over_sockets(monkeypatch):
    """Hosts in this process are reached as those of others are."""
    monkeypatch.setattr("sage_flow.queues.connection.host_here", lambda address, key: None)


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """Those that need no Ray, by name."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    with (
        RPCQueueServer("127.0.0.1", 0, KEY) as plain,
        RPCQueueServer("127.0.0.1", 0, KEY, ssl_context=authority.server()) as tls,
        RPCQueueServer("127.0.0.1", 0, KEY) as here,
    ):
        found = [
            PythonKind(),
            MultiprocessingKind(),
            RpcKind(plain.port),
            RpcTlsKind(tls.port, str(authority.path)),
            RpcHereKind(here.port),
        ]
        yield {kind.name: kind for kind in found}


@pytest.fixture(scope="session")
def ray_kinds(ray_cluster):
    """Those that need one, by name."""
    elsewhere = "hosted elsewhere"
    there = ray.remote(num_cpus=0, **ray_cluster.on(ray_cluster.second_id))(host_there)
    assert ray.get(there.remote(elsewhere)) == ray_cluster.second_id
    found = [RayKind(ray_cluster.address, "hosted here"), RayOtherNodeKind(ray_cluster.address, elsewhere)]
    return {kind.name: kind for kind in found}


@pytest.fixture(params=KINDS)
def kind(request, kinds):
    """Each of them."""
    return _chosen(request, kinds)


@pytest.fixture(params=[name for name in KINDS if name != "python"])
def crossing(request, kinds):
    """Each that other processes reach."""
    return _chosen(request, kinds)


def _chosen(request, kinds):
    kind = kinds[request.param] if request.param in kinds else request.getfixturevalue("ray_kinds")[request.param]
    if kind.always_over_sockets:
        request.getfixturevalue("over_sockets")
    return kind


@pytest.fixture
def make(kind):
    """Make descriptors of `kind` that are closed at the end of the test."""
    yield from _maker(kind)


@pytest.fixture
def make_crossing(crossing):
    """Make descriptors of `crossing` that are closed at the end of the test."""
    yield from _maker(crossing)


def _maker(kind):
    made = []

    def make(**configuration):
        made.append(kind.make(**configuration))
        return made[-1]

    yield make
    for descriptor in made:
        if descriptor.is_bound:
            descriptor.share().close()


@pytest.fixture(scope="session")
def peers():
    """Two other processes, for all tests."""
    started = [Peer(), Peer()]
    yield started
    for peer in started:
        peer.kill()


@pytest.fixture
def victim():
    """A process that the test may kill."""
    peer = Peer()
    yield peer
    peer.kill()
