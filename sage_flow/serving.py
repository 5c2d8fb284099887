"""`HasServices`, a base of job handles: the services of a job for callers outside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_flow.errors import PipelineError
from sage_flow.executors.execution import Execution
from sage_flow.service import ServiceHandle

if TYPE_CHECKING:
    import ssl

    from sage_flow.executors.http_service import HttpService
    from sage_flow.executors.remote_service import ServedService

__all__ = ["HasServices"]


class HasServices:
    """What is called from outside the job."""

    _execution: Execution

    def service(self, service: str | type) -> ServiceHandle:
        """Return a handle of a service of the job, for calls from outside, by any thread of this process.

        A service can be called until the job's own callers have ended. Calls that then are open get their
        replies; later ones raise ServiceUnavailable. Raises UnknownService.
        """
        return self._execution.service(service)

    def serve(
        self,
        service: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: bytes | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> ServedService:
        """Let other processes call this service, with `connect_service(host, port, service, key=key)`.

        `key` opens this service and nothing else. Without it only this machine can connect, and the service generates a
        key, which programs of the same user find automatically; give other programs the `key` of the returned object.
        Port 0 selects a free port, which is the `port` of the returned object. The server ends with the job. Raises
        UnknownService; ChannelNotReachable if the port is in use or a key is missing; TypeError and ValueError for a
        key that is not bytes or is empty.
        """
        return self._execution.serve(service, host, port, key, ssl_context)

    def serve_http(
        self, service: str, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
    ) -> HttpService:
        """Let programs call this service by HTTP, with JSON: `POST /METHOD`, whose body is the argument.

        The server runs in this program, listens at `host` and `port` (0 selects a free port, which is the `port` of the
        returned object), and ends with the job or its `close()`. Callers send `token` as `Authorization: Bearer TOKEN`;
        without one only this machine can connect. Raises UnknownService; ChannelNotReachable if the port is in use or
        a token is missing; TypeError and ValueError for a token that no header can have; PipelineError if aiohttp is
        not installed.
        """
        try:
            from sage_flow.executors.http_service import HttpService
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            raise PipelineError("serve_http needs aiohttp: pip install aiohttp") from error
        return HttpService(self._execution, service, host, port, token)
