"""A service of a job for programs that speak HTTP: JSON in, JSON out.

    served = job.serve_http("embed", port=8000)

    curl http://127.0.0.1:8000/embed -H 'Content-Type: application/json' -d '"why?"'

An event loop in a thread of its own answers; a call that has been made waits there as a coroutine.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from sage_flow.errors import ChannelNotReachable, ServiceTimeout
from sage_flow.executors.execution import Execution
from sage_flow.executors.http_calls import LINES, as_json, call_of, error_as_json, failure, problem
from sage_flow.links.address import TcpAddress
from sage_flow.runtime.caller import Caller
from sage_flow.service import Call, ServiceFuture

__all__ = ["HttpService"]

_HEALTH: Final = "/-/health"
_LARGEST_BODY: Final = 16 * 1024 * 1024
_TO_END_S: Final = 5.0
_POOL: Final = "calls by HTTP"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpService:
    """A service that programs can call by HTTP, until `close()` or the end of its job.

    `host`, `port` and `url` are its address; `port` is the real one, also if 0 was given.
    """

    def __init__(self, execution: Execution, service: str, host: str, port: int, token: str | None) -> None:
        address = TcpAddress(host, port)
        self._token = _checked_token(token)
        if self._token is None and not address.is_loopback:
            raise ChannelNotReachable(
                f"other machines can reach {host!r}, so callers need a token: serve_http({service!r}, host={host!r},"
                " token=...); they send it as `Authorization: Bearer TOKEN`"
            )
        self._execution = execution
        self._service = service
        self._caller = self._new_caller()  # raises UnknownService before anything listens
        listener = address.listen()
        self.host = host
        self.port: int = listener.getsockname()[1]
        self._stops = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        name = f"HTTP of service {service}"
        self._thread = threading.Thread(target=self._run, args=(listener,), name=name, daemon=True)
        self._thread.start()
        threading.Thread(target=self._await_job, name=f"{name}: end", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens, as `http://HOST:PORT`; a method of the service is a path behind it."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def close(self) -> None:
        """Take no more requests. Those that are open have five seconds to get their replies."""
        self._stop()
        self._thread.join()

    def __enter__(self) -> HttpService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HttpService({self._service!r}, {self.url!r})"

    def _new_caller(self) -> Caller:
        caller = self._execution.service(self._service)._caller
        if not isinstance(caller, Caller):
            raise TypeError(f"calls of {self._service!r} are made by a {type(caller).__name__}")
        return caller

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(listener))
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        application = web.Application(client_max_size=_LARGEST_BODY, middlewares=[self._guard])
        application.router.add_get(_HEALTH, self._tell_health)
        application.router.add_post("/{method}", self._answer)
        # A call is cancelled when its client closes the connection.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_TO_END_S, handler_cancellation=True)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            await self._stops.wait()
        finally:
            await runner.cleanup()

    def _stop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._stops.set)
        except RuntimeError:
            pass  # the loop is closed

    def _await_job(self) -> None:
        self._execution.wait()
        self._stop()

    # -- requests -------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody in who must not call, and tell what is wrong with a request as JSON."""
        try:
            if request.path != _HEALTH:
                self._check_caller(request)
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return problem(413, f"the body is larger than {_LARGEST_BODY // 1024**2} MiB")
        except web.HTTPNotFound:
            return problem(404, f"no such path {request.path!r}: POST to /METHOD, or GET {_HEALTH}")
        except web.HTTPMethodNotAllowed as error:
            cure = "ask for the health by GET" if request.path == _HEALTH else "call a method by POST"
            return problem(405, f"{request.method} is not allowed: {cure}", {"Allow": error.headers["Allow"]})
        except web.RequestPayloadError as error:
            return problem(400, f"the body cannot be read: {error}")
        except web.HTTPException as error:
            return problem(error.status, error.text or error.reason, _challenge(error))

    def _check_caller(self, request: web.Request) -> None:
        if self._token is None:
            # A page in a browser on this machine can have a name of its own that leads here.
            if not _is_loopback_name(_host_of(request)):
                raise web.HTTPForbidden(text=f"the host {request.host!r} is not this machine: call {self.url}")
            return
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            raise web.HTTPUnauthorized(text="a token is missing: send the header Authorization: Bearer TOKEN")
        if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token):
            raise web.HTTPUnauthorized(text="the token is wrong")

    async def _tell_health(self, request: web.Request) -> web.Response:
        is_open = not self._execution.is_over and self._caller.is_open(self._service)
        return web.json_response({"status": "ok" if is_open else "opening"}, status=200 if is_open else 503)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        call = call_of(self._service, request, await request.read())
        try:
            future = await self._started(call)
            if LINES in request.headers.get("Accept", ""):
                return await self._send_lines(request, call, future)
            reply = await _in_time(future, call)
        except Exception as error:  # whatever the call raised is its client's
            return failure(error)
        try:
            return web.Response(text=as_json(reply), content_type="application/json")
        except (TypeError, ValueError) as error:
            return failure(type(error)(f"the reply of {call.service}.{call.method} cannot be written as JSON: {error}"))

    async def _started(self, call: Call) -> ServiceFuture:
        """Make the call. The job may have restarted, so that its services are elsewhere."""
        future = self._caller.start_if_free(call, _POOL)
        if future.was_refused:
            self._caller = await asyncio.to_thread(self._new_caller)
            future = self._caller.start_if_free(call, _POOL)
        return future

    async def _send_lines(self, request: web.Request, call: Call, future: ServiceFuture) -> web.StreamResponse:
        """Send the outputs of the call as they come, or the items of its reply, a line each."""
        response: web.StreamResponse | None = None
        try:
            async for output in _outputs(future, call):
                line = as_json(output)
                if response is None:
                    response = web.StreamResponse(headers={"Content-Type": LINES})
                    await response.prepare(request)
                await response.write(line.encode() + b"\n")
        except Exception as error:
            if response is None:
                return failure(error)
            await response.write(error_as_json(error).encode() + b"\n")
        if response is None:
            return web.Response(content_type=LINES)
        await response.write_eof()
        return response


async def _in_time(future: ServiceFuture, call: Call) -> Any:
    """Return the reply. The client's time goes on while the service opens, other than that of a call."""
    if call.timeout is None:
        return await future
    reply = asyncio.ensure_future(_reply(future))
    try:
        await asyncio.wait({reply}, timeout=call.timeout)
        if reply.done():
            return reply.result()
    finally:
        reply.cancel()
    raise ServiceTimeout(f"{call.service}.{call.method} gave no reply within {call.timeout:g} s")


async def _reply(future: ServiceFuture) -> Any:
    return await future


async def _outputs(future: ServiceFuture, call: Call) -> AsyncIterator[Any]:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    future.on_output(lambda: loop.call_soon_threadsafe(changed.set))
    reply = asyncio.ensure_future(_in_time(future, call))
    reply.add_done_callback(lambda _: changed.set())
    given = 0
    try:
        while not reply.done():
            await changed.wait()
            changed.clear()
            for output in future.outputs[given:]:
                given += 1
                yield output
        value = await reply
        for output in (value if isinstance(value, list) else [value])[given:]:
            yield output
    finally:
        reply.cancel()


def _checked_token(token: Any) -> bytes | None:
    if token is None:
        return None
    if not isinstance(token, str):
        raise TypeError(f"token is a {type(token).__name__}: give a str")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("token must have only printable ASCII characters and no spaces, and at least one")
    return token.encode()


def _challenge(error: web.HTTPException) -> dict[str, str] | None:
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else None


def _host_of(request: web.Request) -> str | None:
    try:
        return request.url.host
    except ValueError:  # the header is no address
        return None


def _is_loopback_name(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
