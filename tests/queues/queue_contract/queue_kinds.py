"""The kinds of queues that the contract suite runs over: one class each, which knows what is particular to the kind."""

from __future__ import annotations

import pickle
import ssl

from sage_flow.channels import PythonQueueDescriptor, RayQueueDescriptor, RPCQueueDescriptor, resolve_descriptor
from sage_flow.queues.host import hosts_here
from sage_flow.queues.ray import host_of

KEY = b"the key of the contract suite"


class Kind:
    """What a test needs of a kind. Instances are pickled to other processes."""

    name: str
    queue_type: str
    reaches_other_processes = True
    copies_items = True  # what is got is a copy of what was put
    survives_its_first_user = True  # the queue is hosted by somebody else
    always_over_sockets = False  # also where the host is this process
    hosted_here = True  # or in another process than the test's

    def make(self, maxsize=0, queue_id=None, **configuration):
        """A descriptor of a channel nobody has used."""
        raise NotImplementedError

    def admit(self, descriptor):
        """A descriptor that came from elsewhere, ready to be used."""
        return descriptor

    def unpickle(self, data):
        return self.admit(pickle.loads(data))

    def resolve(self, data):
        return self.admit(resolve_descriptor(data))

    def from_json(self, descriptor_class, text):
        return self.admit(descriptor_class.from_json(text))

    def hosted(self, descriptor):
        """The names of the queues that its host has."""
        return {name for host in hosts_here() for _, name in host.statistics()["queues"]}

    def __repr__(self):
        return self.name


class PythonKind(Kind):
    name = queue_type = "python"
    reaches_other_processes = copies_items = False

    def make(self, maxsize=0, queue_id=None, **configuration):
        return PythonQueueDescriptor(maxsize, queue_id=queue_id, **configuration)


class MultiprocessingKind(Kind):
    name, queue_type = "multiprocessing", "python"
    survives_its_first_user = False
    always_over_sockets = True

    def make(self, maxsize=0, queue_id=None, **configuration):
        return PythonQueueDescriptor(maxsize, use_multiprocessing=True, queue_id=queue_id, **configuration)


class RpcKind(Kind):
    name = queue_type = "rpc"
    always_over_sockets = True

    def __init__(self, port, authority=None):
        self.port = port
        self.authority = authority  # the path of its certificate, for TLS

    def context(self):
        return None if self.authority is None else ssl.create_default_context(cafile=self.authority)

    def make(self, maxsize=0, queue_id=None, **configuration):
        return RPCQueueDescriptor(
            "127.0.0.1",
            self.port,
            queue_id=queue_id,
            maxsize=maxsize,
            key=KEY,
            ssl_context=self.context(),
            **configuration,
        )

    def admit(self, descriptor):
        return descriptor.with_credentials(KEY, self.context())


class RpcTlsKind(RpcKind):
    name = "rpc-tls"


class RpcHereKind(RpcKind):
    """The process that runs the server uses it without a socket."""

    name = "rpc-here"
    always_over_sockets = False


class RayKind(Kind):
    """Its host is on the node of the test and of its peers."""

    name = queue_type = "ray"
    hosted_here = False

    def __init__(self, address, namespace):
        self.address = address
        self.namespace = namespace

    def connect(self):
        """As a driver, in a process that is none yet."""
        import ray

        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")

    def make(self, maxsize=0, queue_id=None, **configuration):
        self.connect()
        return RayQueueDescriptor(maxsize, queue_id, namespace=self.namespace, **configuration)

    def admit(self, descriptor):
        self.connect()
        return descriptor

    def hosted(self, descriptor):
        import ray

        told = ray.get(host_of(self.namespace, descriptor.scope).statistics.remote())
        return {name for _, name in told["queues"]}


class RayOtherNodeKind(RayKind):
    """Its host is on the other node, and reached over TCP under TLS."""

    name = "ray-other-node"
