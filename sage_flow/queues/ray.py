"""`RayQueueDescriptor`: queues that all processes of a Ray cluster reach."""

from __future__ import annotations

import ssl
import threading
from functools import lru_cache
from typing import Any, ClassVar, Final

from sage_flow.errors import ChannelNotReachable, QueueClosed
from sage_flow.links.endpoint import Credentials
from sage_flow.queues.connection import QueueConnection, pooled_connection
from sage_flow.queues.descriptor import CLUSTER, BaseQueueDescriptor, check_text
from sage_flow.queues.methods import LiveQueue
from sage_flow.queues.opcodes import VISITOR
from sage_flow.queues.ray_host import IDLE_S, HostLocation, RayQueueHost
from sage_flow.queues.remote import ReachPolicy, RemoteQueue

_POLICY: Final = ReachPolicy(served=True)
_TRIES: Final = 5  # a host may end while it is asked, and then another one is made

_making = threading.Lock()  # threads that need a host at once ask Ray one after the other


class RayQueueDescriptor(BaseQueueDescriptor):
    """A queue that every process can use which is connected to a Ray cluster, drivers included.

    A detached actor of `namespace` hosts all queues of a scope. The process that first uses one of them makes the
    actor, on its own node. The actor ends when no process has been connected for five minutes; then, as after its
    death, what is in its queues is lost. Items go to it over a Unix socket, from other nodes over TCP under TLS, and
    not through Ray.
    """

    queue_type: ClassVar[str] = "ray"

    def __init__(
        self, maxsize: int = 0, queue_id: str | None = None, *, scope: str = CLUSTER, namespace: str = "sage_flow"
    ) -> None:
        self._namespace = check_text("namespace", namespace)
        super().__init__(maxsize, queue_id, scope)

    @property
    def metadata(self) -> dict[str, Any]:
        """The configuration, as the constructor takes it."""
        return {"maxsize": self._maxsize, "namespace": self._namespace}

    @property
    def _place(self) -> tuple[str, ...]:
        return (self._namespace,)

    @property
    def _host(self) -> str:
        return f"Ray actor {host_name(self._scope)!r} in namespace {self._namespace!r}"

    def _make_live(self) -> LiveQueue:
        node = this_node(str(self))
        location = _locate(self._namespace, self._scope, self.channel_id, node, visits=self._part == VISITOR)
        if location is None:
            raise QueueClosed(
                f"{self} is closed: its host ({self._host}) is gone, and the items in the queue are lost; take a new "
                "queue_id for a new queue"
            )
        name = self._scope, self.channel_id
        return RayQueueProxy(name, self._maxsize, _connection(location, node), self._host, _POLICY, self._part)


class RayQueueProxy(RemoteQueue):
    """The live queue of a Ray queue in one process: one per channel, however many descriptors there are."""


def host_name(scope: str) -> str:
    """Return the name of the actor that hosts the queues of `scope`, in its namespace."""
    return f"queues of {scope}"


def host_of(namespace: str, scope: str, idle_s: float = IDLE_S) -> Any:
    """Return the actor that hosts the queues of `scope`; if there is none, it is made on the node of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    # Not `soft`: Ray ignores it for actors without CPUs, and this node exists.
    with _making:
        return _actor().options(
            name=host_name(scope),
            namespace=namespace,
            get_if_exists=True,
            lifetime="detached",
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        ).remote(namespace, scope, idle_s)  # fmt: skip


def end_queues(namespace: str, scope: str) -> None:
    """Close all queues of a scope, for everybody, and end their host. Without a host there is nothing to do."""
    import ray

    try:
        ray.get(ray.get_actor(host_name(scope), namespace).end.remote())
    except (ValueError, ray.exceptions.RayActorError):  # there is none; it has ended
        pass


def this_node(whose: str) -> str:
    """Return the id of the node of this process. Raises: ChannelNotReachable if Ray cannot tell it."""
    import ray

    if ray.util.client.ray.is_connected():
        raise ChannelNotReachable(
            f"{whose} cannot be used by a ray:// driver, which is outside of the cluster's network: use it in a task or"
            " an actor, or start the driver on a node of the cluster"
        )
    if not ray.is_initialized():
        raise ChannelNotReachable(
            f"{whose} is in a Ray cluster, and this process is not connected to one: call ray.init() first"
        )
    return str(ray.get_runtime_context().get_node_id())


@lru_cache(maxsize=1)
def _actor() -> Any:
    import ray

    return ray.remote(num_cpus=0, max_restarts=0)(RayQueueHost)


def _locate(namespace: str, scope: str, channel_id: str, node: str, *, visits: bool) -> HostLocation | None:
    """Ask the host where it is, see `RayQueueHost.locate`. Raises: ChannelNotReachable if no host can be started."""
    import ray

    for left in range(_TRIES - 1, -1, -1):
        try:
            location: HostLocation | None = ray.get(host_of(namespace, scope).locate.remote(channel_id, node, visits))
            return location
        except ray.exceptions.RayActorError as error:
            if not left:
                raise ChannelNotReachable(f"the host of queue {channel_id} cannot be started: {error}") from error
    return None


def _connection(location: HostLocation, node: str) -> QueueConnection:
    tls = None if location.credentials is None else _client_context(location.credentials)
    return pooled_connection(location.endpoint.address_from(node, tls), location.key, tls)


@lru_cache(maxsize=16)
def _client_context(credentials: Credentials) -> ssl.SSLContext:
    return credentials.client()
