"""Queues of a Ray cluster: their host, its death and its idle time; who reaches them, and how."""

import contextlib
import os
import pickle
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from sage_flow.channels import RayQueueDescriptor
from sage_flow.errors import ChannelNotReachable, QueueClosed
from sage_flow.queues.ray import RayQueueProxy, end_queues, host_name, host_of

PATIENCE_S = 60


class Client:
    """An actor that uses a queue it was given."""

    def put(self, descriptor, items):
        descriptor.put_many(items)

    def get(self, descriptor, count):
        return [descriptor.get(timeout=PATIENCE_S) for _ in range(count)]

    def link(self, descriptor):
        descriptor.qsize()
        return repr(descriptor.queue_instance.link)

    def live_queues(self, descriptors):
        for descriptor in descriptors:
            descriptor.qsize()
        return len({id(descriptor.queue_instance) for descriptor in descriptors})


@pytest.fixture
def namespace(ray_cluster, request):
    """One of the test's own, whose host ends with it."""
    name = f"{request.node.name}-{os.urandom(4).hex()}"
    yield name
    end_queues(name, "cluster")


@pytest.fixture
def make(namespace):
    return lambda *args, **configuration: RayQueueDescriptor(*args, **configuration, namespace=namespace)


@pytest.fixture
def clients(ray_cluster):
    """One on each node."""
    client = ray.remote(num_cpus=0)(Client)
    made = [client.options(**ray_cluster.on(node)).remote() for node in (ray_cluster.head_id, ray_cluster.second_id)]
    yield made
    for actor in made:
        ray.kill(actor)


def told(namespace):
    return ray.get(ray.get_actor(host_name("cluster"), namespace).statistics.remote())


def wait_until_gone(namespace, process):
    """Until the host is dead for Ray, too."""
    deadline = time.monotonic() + PATIENCE_S
    with contextlib.suppress(ValueError, ray.exceptions.RayActorError):
        while told(namespace)["process"] == process:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def start(function, *args):
    """In a thread; returns a future."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future


def until_waiting(descriptor, getters):
    deadline = time.monotonic() + PATIENCE_S
    while (there := descriptor.statistics()["waiting_getters"]) != getters:
        assert time.monotonic() < deadline, there
        time.sleep(0.001)


# --- who reaches it, and how ------------------------------------------------------------------------------


def test_the_live_end_is_one_proxy(make):
    descriptor = make()
    clone = descriptor.share().clone("label")
    descriptor.put("a")
    assert type(descriptor.queue_instance) is RayQueueProxy
    assert clone.queue_instance is descriptor.queue_instance


def test_clones_from_before_and_after_first_use_meet_as_actor_arguments_on_both_nodes(make, clients):
    descriptor = make()
    before = [descriptor.share(), descriptor.share().clone("before"), pickle.loads(pickle.dumps(descriptor))]
    ray.get([client.put.remote(before[1], [place]) for place, client in enumerate(clients)])
    after = [descriptor.clone("after"), RayQueueDescriptor.from_dict(descriptor.to_dict())]
    assert sorted(descriptor.get(timeout=PATIENCE_S) for _ in clients) == [0, 1]
    for client in clients:
        descriptor.put_many(["one", "two"])
        assert ray.get(client.get.remote(after[0], 2)) == ["one", "two"]
        assert ray.get(client.live_queues.remote([*before, *after])) == 1


def test_own_node_by_a_unix_socket_and_the_other_by_tls(make, clients, namespace, ray_cluster):
    descriptor = make()
    descriptor.put("made here")
    assert told(namespace)["node"] == ray_cluster.head_id
    assert told(namespace)["port"] is None, "nobody of another node has asked"
    here, there = ray.get([client.link.remote(descriptor) for client in clients])
    assert "sage-flow-" in here
    port = told(namespace)["port"]
    assert port is not None
    assert f"127.0.0.2:{port}" in there


@pytest.mark.race
def test_sixty_four_threads_make_one_host(make, namespace):
    descriptors = [make(queue_id=f"{number % 4}") for number in range(64)]
    ready = threading.Barrier(64)

    def use(descriptor):
        ready.wait()
        descriptor.put("a")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(use, descriptors))
    assert [descriptor.qsize() for descriptor in descriptors[:4]] == [16] * 4
    assert len(told(namespace)["queues"]) == 4
    assert told(namespace)["links"] == 1


@pytest.mark.race
def test_processes_that_are_first_together_meet(make, clients):
    descriptor = make()
    ray.get([client.put.remote(descriptor, ["a"] * 10) for client in clients])
    assert ray.get([client.get.remote(descriptor, 10) for client in clients]) == [["a"] * 10] * 2


def test_secrets_are_in_no_serial_form_and_no_text(make, namespace):
    descriptor = make()
    descriptor.put("a")
    node = ray.get_runtime_context().get_node_id()
    host = host_of(namespace, "cluster")
    ways = [ray.get(host.locate.remote(descriptor.channel_id, asking)) for asking in (node, "another node")]
    forms = [pickle.dumps(descriptor), descriptor.to_json(), repr(descriptor), repr(descriptor.statistics())]
    forms += [repr(vars(descriptor.queue_instance)), repr(ways), repr(dict(os.environ))]
    told = "".join(form if isinstance(form, str) else repr(form) for form in forms)
    assert repr(ways[0].key)[2:-1] not in told
    assert "PRIVATE KEY" not in told
    assert ways[0].credentials is None
    assert b"PRIVATE KEY" in ways[1].credentials.private_key


# --- no way -----------------------------------------------------------------------------------------------


def test_without_ray_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ChannelNotReachable, match=r"call ray.init\(\) first"):
        RayQueueDescriptor().put("a")


def test_a_ray_client_driver_is_told_why_it_cannot(monkeypatch):
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    with pytest.raises(ChannelNotReachable, match="ray:// driver"):
        RayQueueDescriptor().put("a")


# --- the end ----------------------------------------------------------------------------------------------


def test_the_death_of_the_host_closes_its_queues_for_everybody(make, namespace, clients):
    descriptor = make()
    descriptor.put("lost")
    unused = pickle.dumps(make(queue_id="never used"))
    process = told(namespace)["process"]
    assert descriptor.get() == "lost"
    getter = start(descriptor.share().get)
    remote = clients[1].get.remote(descriptor, 1)
    until_waiting(descriptor, 2)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(QueueClosed, match="its host is gone"):
        getter.result(PATIENCE_S)
    with pytest.raises(QueueClosed):
        ray.get(remote)
    wait_until_gone(namespace, process)
    for handle in (descriptor, make(queue_id=descriptor.queue_id), pickle.loads(pickle.dumps(descriptor))):
        with pytest.raises(QueueClosed, match="gone"):
            handle.put("nobody gets an empty queue for one that was lost")
    with pytest.raises(QueueClosed, match="gone"):
        ray.get(clients[0].put.remote(descriptor, ["nor where it was never used"]))
    fresh = pickle.loads(unused)
    fresh.put("of the next host")
    assert fresh.get() == "of the next host"


def test_a_host_ends_when_its_lease_is_idle_since(make, namespace):
    process = ray.get(host_of(namespace, "cluster", idle_s=0.3).statistics.remote())["process"]
    empty, kept = make(queue_id="empty"), make(queue_id="kept")
    empty.put("a")
    assert empty.get() == "a"
    kept.put("lost with its host")
    assert told(namespace)["process"] == process, "somebody is connected"
    for handle in (empty, kept):
        handle.trim()
    wait_until_gone(namespace, process)
    empty.put("nothing was lost of it")
    assert empty.get() == "nothing was lost of it"
    with pytest.raises(QueueClosed, match="the items in the queue are lost"):
        kept.get_nowait()


def test_queues_of_a_scope_can_be_ended_together(make, namespace):
    descriptor = make(queue_id="again")
    descriptor.put("a")
    waited_for = make()
    getter = start(waited_for.share().get)
    until_waiting(waited_for, 1)
    end_queues(namespace, "cluster")
    with pytest.raises(QueueClosed):
        getter.result(PATIENCE_S)
    with pytest.raises(QueueClosed):
        descriptor.get()
    end_queues(namespace, "cluster")
    again = make(queue_id="again")
    with pytest.raises(queue.Empty):
        again.get_nowait()


def test_what_is_dropped_is_counted_and_logged_by_the_host(make, ray_cluster):
    descriptor = make()
    descriptor.put_many("abc")
    descriptor.close()
    logs = Path(ray_cluster.cluster.head_node.get_session_dir_path(), "logs")
    lines = "".join(file.read_text() for file in logs.glob("worker-*.err"))
    assert f"queue {descriptor.channel_id} was closed; the 3 items in it were dropped" in lines


def test_secrets_are_in_no_log(make, ray_cluster, namespace):
    descriptor = make()
    descriptor.put("a")
    way = ray.get(host_of(namespace, "cluster").locate.remote(descriptor.channel_id, "another node"))
    logs = Path(ray_cluster.cluster.head_node.get_session_dir_path(), "logs")
    for file in logs.rglob("*"):
        if file.is_file():
            text = file.read_bytes()
            assert way.key not in text
            assert b"PRIVATE KEY" not in text
