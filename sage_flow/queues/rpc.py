"""`RPCQueueDescriptor`: queues at an `RPCQueueServer`."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, ClassVar

from sage_flow.links.address import TcpAddress
from sage_flow.links.endpoint_options import check_key, check_patience, check_server
from sage_flow.queues.connection import QueueConnection, pooled_connection
from sage_flow.queues.descriptor import CLUSTER, BaseQueueDescriptor
from sage_flow.queues.methods import LiveQueue
from sage_flow.queues.remote import ReachPolicy, RemoteQueue

if TYPE_CHECKING:
    from typing_extensions import Self


class RPCQueueDescriptor(BaseQueueDescriptor):
    """A queue at the `RPCQueueServer` that listens at `host`:`port`.

    `connection_timeout`: seconds for a connection, or for an answer that needs no waiting. `retry_count`: how many more
    times a connection is tried, at first use and after a break; then the queue is closed for this process.
    `enable_pooling`: the queues of this process at one server share one connection. `key`, `ssl_context`: those of the
    server; they are in no serial form, so `with_credentials` adds them where a descriptor arrives.
    """

    queue_type: ClassVar[str] = "rpc"

    def __init__(
        self,
        host: str,
        port: int,
        connection_timeout: float = 30.0,
        retry_count: int = 3,
        enable_pooling: bool = True,
        queue_id: str | None = None,
        key: bytes | None = None,
        *,
        maxsize: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        scope: str = CLUSTER,
    ) -> None:
        check_server(host, port)
        check_patience("connection_timeout", connection_timeout, retry_count)
        self._address = (host, port)
        self._policy = ReachPolicy(connection_timeout, retry_count)
        self._enable_pooling = bool(enable_pooling)
        self._key = check_key(key)
        self._ssl_context = ssl_context
        super().__init__(maxsize, queue_id, scope)

    def with_credentials(self, key: bytes | None = None, ssl_context: ssl.SSLContext | None = None) -> Self:
        """Return a handle of the same channel that knows the key of the server; binds the channel."""
        handle = self.share()
        handle._key = check_key(key)
        handle._ssl_context = ssl_context
        return handle

    @property
    def _credentials(self) -> tuple[Any, ...]:
        return tuple(secret for secret in (self._key, self._ssl_context) if secret)

    @property
    def metadata(self) -> dict[str, Any]:
        """The configuration, as the constructor takes it, without key and SSLContext."""
        host, port = self._address
        return {
            "host": host,
            "port": port,
            "connection_timeout": self._policy.timeout_s,
            "retry_count": self._policy.retries,
            "enable_pooling": self._enable_pooling,
            "maxsize": self._maxsize,
        }

    @property
    def _place(self) -> tuple[str, ...]:
        host, port = self._address
        return host, str(port)

    @property
    def _host(self) -> str:
        host, port = self._address
        return f"{host}:{port}"

    def _make_live(self) -> LiveQueue:
        address = TcpAddress(*self._address, self._ssl_context)
        if self._enable_pooling:
            connection = pooled_connection(address, self._key, self._ssl_context)
        else:
            connection = QueueConnection(address, self._key)
        return RemoteQueue(
            (self._scope, self.channel_id), self._maxsize, connection, self._host, self._policy, self._part
        )
