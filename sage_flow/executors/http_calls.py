"""What an HTTP request asks of a service, and what the client is told: bodies, headers and status codes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from aiohttp import web

from sage_flow.errors import (
    NoReply,
    ServiceOverloaded,
    ServiceTimeout,
    ServiceUnavailable,
    UnknownService,
)
from sage_flow.runtime.packed_error import text_of
from sage_flow.service import Call

__all__ = ["LINES", "as_json", "call_of", "error_as_json", "failure", "problem"]

LINES: Final = "application/x-ndjson"
_JSON: Final = "application/json"
_TIMEOUT: Final = "X-Timeout"
_KEY: Final = "X-Key"
_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (UnknownService, 404),
    (ServiceOverloaded, 429),
    (ServiceUnavailable, 503),
    (ServiceTimeout, 504),
)


def call_of(service: str, request: web.Request, body: bytes) -> Call:
    """Return the call that a request asks for. Raises web.HTTPException if it asks for none."""
    args, kwargs = _arguments(request, body)
    return Call(service, request.match_info["method"], args, kwargs, _seconds(request.headers), _key(request.headers))


def as_json(value: Any) -> str:
    """Return a reply as JSON. Raises TypeError or ValueError if it cannot be."""
    return json.dumps(value, allow_nan=False)


def failure(error: Exception) -> web.Response:
    """Return what the client of a call that failed is told."""
    if isinstance(error, NoReply):
        return web.Response(status=204)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _response(status, error_as_json(error))


def error_as_json(error: BaseException) -> str:
    """The type and the text of an error; no traceback, which is not for other machines to see."""
    return json.dumps({"error": {"type": type(error).__name__, "message": text_of(error)}})


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return what the client of a request that is no call is told."""
    return _response(status, json.dumps({"error": {"type": "BadRequest", "message": message}}), headers)


def _response(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    headers = {"Retry-After": "1"} if status == 429 else headers
    return web.Response(status=status, text=text, content_type=_JSON, headers=headers)


def _arguments(request: web.Request, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    spreads = request.query.get("spread", "0")
    if spreads not in ("0", "1"):
        raise web.HTTPBadRequest(text=f"spread is {spreads!r}: give 1 to spread a list or an object over the arguments")
    if not body:
        return (), {}
    if request.content_type != _JSON:  # a page of another site could send any other type without asking
        raise web.HTTPUnsupportedMediaType(text=f"send JSON, with the header Content-Type: {_JSON}")
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is no JSON: {error}") from None
    if spreads == "0":
        return (value,), {}
    if isinstance(value, list):
        return tuple(value), {}
    if isinstance(value, dict):
        return (), value
    raise web.HTTPBadRequest(text="with spread=1 the body must be a list of arguments, or an object of named ones")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no value of JSON: send null, or a string")


def _seconds(headers: Mapping[str, str]) -> float | None:
    text = headers.get(_TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise web.HTTPBadRequest(text=f"{_TIMEOUT} is {text!r}: give the seconds that you wait, more than 0")
    return seconds


def _key(headers: Mapping[str, str]) -> str | None:
    return headers.get(_KEY)
