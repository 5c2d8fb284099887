"""Checks of the options by which users say how to reach a server and how long to try."""

from __future__ import annotations

from typing import Any

_LONGEST_S = 1e9  # thirty years; sockets take no infinite timeout


def check_key(key: bytes | None) -> bytes:
    """Return `key`, or no bytes for None. Raises: TypeError, ValueError; their texts do not show the key."""
    if key is None:
        return b""
    if not isinstance(key, bytes):
        raise TypeError(f"key is a {type(key).__name__}: give bytes")
    if not key:
        raise ValueError("key is empty: give bytes, or None for no key")
    return key


def check_server(host: Any, port: Any) -> None:
    """Raises: ValueError if no server can have this host and port."""
    if not isinstance(host, str) or not host:
        raise ValueError(f"host is {host!r}: give a name or an address")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"port is {port!r}: give one of 1 to 65535")


def check_patience(name: str, timeout_s: Any, retry_count: Any) -> None:
    """Raises: ValueError. `name` is the user's name for `timeout_s`."""
    if not isinstance(timeout_s, (int, float)) or not 0 < timeout_s < _LONGEST_S:
        raise ValueError(f"{name} is {timeout_s!r}: give seconds, more than 0")
    if isinstance(retry_count, bool) or not isinstance(retry_count, int) or retry_count < 0:
        raise ValueError(f"retry_count is {retry_count!r}: give an int, 0 or more")
