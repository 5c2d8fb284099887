"""`RPCQueueServer`: hosts queues for other processes, over TCP."""

from __future__ import annotations

import ssl
from typing import Any, cast

from sage_flow.links.address import TcpAddress
from sage_flow.links.endpoint_options import check_key
from sage_flow.links.local_keys import HiddenKey, LocalKey, made_key
from sage_flow.queues.host import QueueHost


class RPCQueueServer:
    """Serves queues at `host`:`port` (0: a free port) from its construction to `close()`; also a context manager.

    A queue is made at its first use, with the `maxsize` of the descriptor that is used. All clients must have `key`.
    Without it the server can only listen at a loopback address, and generates a key, which other programs of the same
    user on the same machine find automatically; give other programs `server.key`. `ssl_context`: for TLS.

    The server does not unpickle items. They are in the memory of this process, and are lost with it.

    >>> with RPCQueueServer("127.0.0.1", 0, key=b"secret") as server:
    ...     server.port > 0
    True

    Raises: ChannelNotReachable if the port is in use, or if there is no key and other machines could connect.
    """

    def __init__(
        self, host: str, port: int, key: bytes | None = None, *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        where = TcpAddress(host, port, ssl_context)
        given = check_key(key)
        key = made_key(where, given)
        self._key = HiddenKey(key)
        self._host = QueueHost(where, key)
        address = cast(TcpAddress, self._host.address)
        self.host, self.port = address.host, address.port
        """Where it listens."""
        self._made: LocalKey | None = None
        if key != given:
            try:
                self._made = LocalKey(address, key)
            except BaseException:
                self._host.close()
                raise

    @property
    def key(self) -> bytes:
        """The key for clients: `RPCQueueDescriptor(host, port, key=server.key)`. Keep it secret."""
        return self._key.reveal()

    def close(self) -> None:
        """Close all queues and all connections. What is in the queues is dropped, counted and logged."""
        if self._made is not None:
            self._made.remove()
        self._host.close()

    def statistics(self) -> dict[str, Any]:
        """`queues`: those of each queue, by scope and channel_id; how many connections there are and were refused."""
        return self._host.statistics()

    def __enter__(self) -> RPCQueueServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RPCQueueServer({self.host!r}, {self.port})"
