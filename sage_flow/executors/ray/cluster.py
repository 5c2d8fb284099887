"""The connection of this process to Ray: made if there is none, never ended if it was there before."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from typing import Any, Final

from sage_flow.errors import ClusterError

__all__ = ["connect_to_ray", "is_client", "this_submission"]

_DIAL_S: Final = 5.0
_WORD: Final = re.compile(r"^(?:ray://)?(\[[^\]]+\]|[^:/]+):(\d+)$")


def connect_to_ray(address: str, runtime_env: dict[str, Any] | None = None) -> None:
    """Connect to the cluster at `address`, unless this process is connected.

    `address`: "auto" (the cluster of this machine, or that of RAY_ADDRESS), "local" (one in this process, which ends
    with it), "host:port", or "ray://host:port".

    Raises: ClusterError if nobody answers there, it is a Ray of another version, or this process is connected to
    another cluster than this "host:port".
    """
    import ray

    if ray.is_initialized():
        _check_same_cluster(address)
        return
    if address not in ("auto", "local"):
        _check_somebody_listens(address)
    options: dict[str, Any] = {"address": address}  # "local", too: without it Ray takes any cluster that it finds
    if runtime_env is not None:
        options["runtime_env"] = runtime_env
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # else actors yield to everything else of the machine
        options["include_dashboard"] = False
    try:
        ray.init(logging_level=logging.WARNING, **options)
    except ConnectionError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r}: start one with `ray start --head`, or give"
            f' address="local" for one in this process ({_gist(error)})'
        ) from error
    except RuntimeError as error:
        if "version" in str(error).lower():
            raise ClusterError(f"the cluster at {address!r} runs another version: {_one_line(error)}") from error
        raise


def this_submission() -> str | None:
    """The id of the submission of Ray's job API that runs this process as its driver, if one does."""
    told = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")  # Ray says it there, and nowhere else
    if told is None:
        return None
    found: str | None = (json.loads(told).get("metadata") or {}).get("job_submission_id")
    return found


def is_client() -> bool:
    """Whether this process is connected by `ray://`, through which none of our sockets reach."""
    import ray

    return bool(ray.util.client.ray.is_connected())


def _check_same_cluster(address: str) -> None:
    import ray

    if _WORD.match(address) is None or address.startswith("ray://") or is_client():
        return
    here = ray.get_runtime_context().gcs_address
    if address != here:
        raise ClusterError(
            f"this process is connected to the cluster at {here!r} already, and cannot go to {address!r}"
        )


def _check_somebody_listens(address: str) -> None:
    """Ray itself would try for minutes."""
    match = _WORD.match(address)
    if match is None:
        raise ClusterError(f'{address!r} is no address of Ray: give "auto", "local", "host:port" or "ray://host:port"')
    host, port = match[1].strip("[]"), int(match[2])
    try:
        socket.create_connection((host, port), _DIAL_S).close()
    except OSError as error:
        raise ClusterError(f"nobody answers at {address!r}: {error}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _gist(error: BaseException) -> str:
    """The first line of what may be many; the last one, too, if that announces a traceback."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {others[-1]}" if first.endswith(":") and others else first
