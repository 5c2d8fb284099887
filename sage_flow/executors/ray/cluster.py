"""The connection of this process to Ray: made if there is none; one that was there before is never ended."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from sage_flow.errors import ClusterError
from sage_flow.executors.ray.answers import ANSWER_S, ClusterSilent, answered
from sage_flow.executors.ray.tokens import TOKEN_CURE, is_refusal, is_this_machine, token_headers, use_own_token

__all__ = ["check_answers", "connect_to_ray", "is_client", "this_submission", "try_again"]

_DIAL_S: Final = 5.0
_CLIENT_S: Final = 2 * ANSWER_S  # for a connection by ray://, for which the cluster starts a process
_CLIENT_TRIES: Final = 3
_ITS_PROCESS_DIED: Final = "Starting Ray client server failed"  # as Ray's error tells it
_CLIENT_QUESTION: Final = "/ray.rpc.RayletDriver/ClusterInfo"
_WORD: Final = re.compile(r"^(?:ray://)?(\[[^\]]+\]|[^:/]+):(\d+)$")


def connect_to_ray(address: str, runtime_env: dict[str, Any] | None = None) -> None:
    """Connect to the cluster at `address`, unless this process is connected.

    `address`: "auto" (the cluster of this machine, or that of RAY_ADDRESS), "local" (one in this process, which ends
    with it), "host:port", or "ray://host:port".

    Raises: ClusterError if no cluster answers there within `ANSWER_S` seconds ("ray://": twice as long), if it is of
    another version or requires a token, or if this process is connected to a cluster that is not the one at
    "host:port".
    """
    import ray

    if ray.is_initialized():
        _check_same_cluster(address)
        return
    options: dict[str, Any] = {"address": address}  # also "local": without one Ray takes any cluster that it finds
    if runtime_env is not None:
        options["runtime_env"] = runtime_env
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # otherwise actors run at a low priority
        options["include_dashboard"] = False
    try:
        where = None if address == "local" else check_answers(address)
        connect = partial(ray.init, logging_level=logging.WARNING, **options)
        if where is not None and where.startswith("ray://") and runtime_env is None:
            # Ray waits for its client server without a limit. With a folder to upload it may take long: no limit then.
            with _without_warnings("ray._private.worker"):  # that it cannot set signal handlers outside the main thread
                answered(partial(try_again, connect), f"the Ray client server at {where!r}", _CLIENT_S)
        else:
            connect()
    except ConnectionError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r}: start one with `ray start --head`, or give"
            f' address="local" for one in this process ({_gist(error)})'
        ) from None
    except RuntimeError as error:
        if "version" in str(error).lower():
            raise ClusterError(f"the cluster at {address!r} runs another version: {_one_line(error)}") from None
        raise


def try_again(connect: Callable[[], object]) -> None:
    """Connect by `ray://`. The cluster starts a process for each connection, which may die while it starts: try again.

    Raises what `connect` raises for another reason, or the third time.
    """
    for _ in range(_CLIENT_TRIES - 1):
        try:
            connect()
            return
        except ConnectionError as error:
            if _ITS_PROCESS_DIED not in str(error):
                raise
    connect()


@contextmanager
def _without_warnings(logger: str) -> Iterator[None]:
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(before)


def check_answers(address: str) -> str:
    """Send the cluster at `address` a short request, which Ray itself would try for minutes; return its real address.

    If the cluster is on this machine and rejects the request without a token, the token of this user is used from then
    on.

    Raises: ClusterError if there is no answer, or a refusal; ConnectionError if no cluster runs on this machine.
    """
    where = _resolved(address)
    host = _check_somebody_listens(where)
    ask = _ask_client_server if where.startswith("ray://") else _ask_gcs
    refused = ask(where)
    if refused is not None and use_own_token(host):
        refused = ask(where)
    if refused is not None:
        raise ClusterError(f"the cluster at {where!r} rejected this client: {TOKEN_CURE}")
    return where


def _resolved(address: str) -> str:
    """Return the address that "auto" stands for; any other one stays. Raises ConnectionError if no cluster runs."""
    if address != "auto":
        return address
    if (told := os.environ.get("RAY_ADDRESS")) and told != "auto":
        return told
    from ray._private.services import canonicalize_bootstrap_address

    found: str | None = canonicalize_bootstrap_address("auto")
    if found is None:
        raise ConnectionError("no Ray runs on this machine")
    return found


def _ask_gcs(where: str) -> str | None:
    """Return why the GCS rejects the token, None if it accepts the request. Raises ClusterError."""
    from ray.exceptions import RayError

    raylet: Any = importlib.import_module("ray._raylet")

    def ask() -> None:
        raylet.GcsClient(address=where).internal_kv_get(b"", b"sage_flow", timeout=ANSWER_S)

    try:
        answered(ask, f"the cluster at {where!r}")
    except RayError as error:
        if is_refusal(str(error)):
            return _one_line(error)
        raise ClusterError(f"the server at {where!r} does not answer as a Ray cluster: {_one_line(error)}") from None
    return None


def _ask_client_server(where: str) -> str | None:
    """The same for a server of `ray://`."""
    import grpc
    from ray.core.generated import ray_client_pb2

    ping = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING).SerializeToString()
    token = tuple((name.lower(), value) for name, value in token_headers().items())
    with grpc.insecure_channel(where.removeprefix("ray://")) as channel:
        try:
            channel.unary_unary(_CLIENT_QUESTION)(ping, timeout=ANSWER_S, metadata=token)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return str(error.details())
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ClusterSilent(f"the Ray client server at {where!r}", ANSWER_S) from None
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ClusterError(
                    f"the server at {where!r} does not answer as a Ray client server: {error.details()}"
                ) from None
    return None


def this_submission() -> str | None:
    """Return the id of the submission of Ray's job API whose driver this process is, None if it is none."""
    told = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")  # the only place where Ray tells it
    if told is None:
        return None
    found: str | None = (json.loads(told).get("metadata") or {}).get("job_submission_id")
    return found


def is_client() -> bool:
    """Whether this process is connected by `ray://`, and so cannot reach sockets inside the cluster."""
    import ray

    return bool(ray.util.client.ray.is_connected())


def _check_same_cluster(address: str) -> None:
    import ray

    if _WORD.match(address) is None or address.startswith("ray://") or is_client():
        return
    here = ray.get_runtime_context().gcs_address
    if not same_server(address, here):
        raise ClusterError(
            f"this process is connected to the cluster at {here!r} already, and cannot go to {address!r}"
        )


def same_server(one: str, other: str) -> bool:
    """Whether two addresses reach the same port of the same host, by whatever names and addresses the host has.

    Ray names a cluster by the address of its node, also if it was reached by 127.0.0.1.

    >>> same_server("127.0.0.1:6379", "localhost:6379"), same_server("127.0.0.1:6379", "localhost:6380")
    (True, False)
    >>> same_server("127.0.0.1:6379", "192.0.2.1:6379")
    False
    """
    first, second = _WORD.match(one), _WORD.match(other)
    if first is None or second is None or first[2] != second[2]:
        return one == other
    hosts = first[1].strip("[]"), second[1].strip("[]")
    return hosts[0] == hosts[1] or all(map(is_this_machine, hosts)) or bool(_addresses(hosts[0]) & _addresses(hosts[1]))


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def _check_somebody_listens(where: str) -> str:
    """Return the host. Ray itself would try for minutes."""
    if where.startswith(("http://", "https://")):
        raise ClusterError(f"{where!r} is the address of a job server: `sage-flow submit` sends a job there")
    match = _WORD.match(where)
    if match is None:
        raise ClusterError(f'{where!r} is not an address of Ray: use "auto", "local", "host:port" or "ray://host:port"')
    host, port = match[1].strip("[]"), int(match[2])
    try:
        socket.create_connection((host, port), _DIAL_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no server answers at {where!r}: {error}") from None
    return host


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _gist(error: BaseException) -> str:
    """Return the first line of an error, and the last one if the first announces a traceback."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {others[-1]}" if first.endswith(":") and others else first
