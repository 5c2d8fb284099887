"""Who may see the page: whoever knows its token, from this machine.

The token is in the address that the command prints. The first request with it gets a cookie and is sent on to the same
address without it, so the token is in no history entry that is opened again and in no `Referer`. Requests whose `Host`
is another name are refused, as are those from pages of other origins: a web page that is open in the same browser must
not reach a job.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

__all__ = ["Door"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_REFUSED = "This page needs a token: open the whole address that `sage-flow dashboard` has printed.\n"


class Door:
    """An ASGI application before another one."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str, port: int) -> None:
        self._app = app
        self._token = token
        self._cookie = f"sage_flow_{port}"  # cookies do not tell ports apart
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        origin = headers.get("origin")
        is_from_here = headers.get("host") in self._hosts and (
            origin is None or origin.removeprefix("http://") in self._hosts
        )
        given = dict(query).get("token")
        if not is_from_here:
            await self._refuse(scope, send)
        elif given is not None and scope["type"] == "http" and self._is_right(given):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            location = scope["path"] + (f"?{rest}" if rest else "")
            await _answer(send, 303, "", [("location", location), ("set-cookie", cookie)])
        elif given is None and self._is_right(self._cookie_of(headers.get("cookie", ""))):
            await self._app(scope, receive, send)
        else:
            await self._refuse(scope, send)

    def _is_right(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token.encode())

    def _cookie_of(self, header: str) -> str:
        try:
            found = SimpleCookie(header).get(self._cookie)
        except CookieError:
            return ""
        return "" if found is None else found.value

    async def _refuse(self, scope: Scope, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 403, _REFUSED, [])


async def _answer(send: Send, status: int, text: str, headers: list[tuple[str, str]]) -> None:
    all_headers = [("content-type", "text/plain; charset=utf-8"), ("referrer-policy", "no-referrer"), *headers]
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": text.encode()})
