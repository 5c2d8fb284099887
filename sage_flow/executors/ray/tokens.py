"""Ray's authentication token: to which clusters it is presented, and the error if it is missing.

Ray presents the token in `~/.ray/auth_token` to the cluster that it finds on this machine, but not to an address that
is given, because any server that listens there would get it; and to its job server only under RAY_AUTH_MODE=token. But
the same cluster answers at "auto", at "host:port" and at "http://...". So the rule here is about machines: an existing
token is presented to a cluster on this machine that rejects a connection without one, and to no other.
"""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any, Final

__all__ = ["TOKEN_CURE", "is_refusal", "is_this_machine", "token_headers", "use_own_token"]

_MODE: Final = "RAY_AUTH_MODE"

TOKEN_CURE: Final = (
    "the cluster requires Ray's token: `export RAY_AUTH_MODE=token`, with the token of the cluster in"
    " ~/.ray/auth_token, in RAY_AUTH_TOKEN, or in a file that RAY_AUTH_TOKEN_PATH names"
)
"""What to do about a token that is missing or wrong."""


def use_own_token(host: str) -> bool:
    """Present the token of this user from now on, if `host` is this machine; return whether that is new.

    It is not if RAY_AUTH_MODE is set, or if there is no token.
    """
    if os.environ.get(_MODE) is not None or not is_this_machine(host):
        return False
    raylet: Any = importlib.import_module("ray._raylet")
    if not hasattr(raylet, "AuthenticationTokenLoader"):  # a Ray that has no tokens yet
        return False
    if not raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return False
    os.environ[_MODE] = "token"
    raylet.Config.initialize("")  # it has cached the mode
    return True


def token_headers() -> dict[str, str]:
    """The headers that present the token; none if this process presents no token."""
    try:
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
    except ImportError:
        return {}
    headers: dict[str, str] = get_auth_headers_if_auth_enabled({})
    return headers


def is_refusal(text: str) -> bool:
    """Whether an error of Ray is about its token.

    >>> is_refusal("RPC error: InvalidAuthToken: Authentication token is missing or incorrect")
    True
    >>> is_refusal("Request failed with status code 401: Unauthorized: Missing authentication token")
    True
    >>> is_refusal("connection refused")
    False
    """
    return "authentication token" in text.lower()


def is_this_machine(host: str) -> bool:
    """Whether an address of this machine has this name.

    >>> is_this_machine("127.0.0.1"), is_this_machine("192.0.2.1"), is_this_machine("no such host")
    (True, False, False)
    """
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_can_bind(family, address) for family, _, _, _, address in found)


def _can_bind(family: int, address: tuple[object, ...]) -> bool:
    """Whether this process can bind a port at the address, which is so only for addresses of this machine."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
