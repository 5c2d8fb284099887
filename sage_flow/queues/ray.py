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

_making = threading.Lock()  # many threads at once need not all ask Ray


class RayQueueDescriptor(BaseQueueDescriptor):
    """A queue that every process of a Ray cluster reaches which is connected to it, drivers included.

    A detached actor of `namespace` hosts all queues of a scope; whoever uses one first makes it, on his own node. It
    ends when for five minutes no process is connected, and what is in its queues ends with it, as when it dies.
    Items go to it over a Unix socket, from other nodes over TCP under TLS, and not through Ray.
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
    """The live end of a Ray queue in one process: one per channel, however many descriptors there are."""


def host_name(scope: str) -> str:
    """The name of the actor that hosts the queues of `scope`, in its namespace."""
    return f"queues of {scope}"


def host_of(namespace: str, scope: str, idle_s: float = IDLE_S) -> Any:
    """The handle of the actor that hosts the queues of `scope`; it is made if it is not there, near its first user."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    # Not `soft`, which Ray does not heed for actors without CPUs; and our own node is there.
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
    """The id of the node this process is on. Raises: ChannelNotReachable if Ray cannot say."""
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
    """Raises: ChannelNotReachable if no host comes to life."""
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
