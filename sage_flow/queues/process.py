"""Queues between the processes of a machine: each is a path to a socket of the process that used it first.

A descriptor names the directory of the process that made it; the name of the path in there follows from scope and
channel_id. So each process that has the descriptor knows the path. The file system decides which process serves: the
path is made in one step, as a hard link to a Unix socket that listens already. The path stays when its server ends, so
that later processes learn that the contents are gone, and do not begin with an empty queue. The directory is removed
with the process that made it. That of a job is made by the first process that needs it, and removed with the job.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import Final

from sage_flow.errors import ChannelNotReachable, QueueClosed
from sage_flow.links.address import UnixAddress
from sage_flow.links.private_directory import hold, let_go, make_private, remove_private
from sage_flow.queues.channel import this_process
from sage_flow.queues.connection import pooled_connection
from sage_flow.queues.host import QueueHost
from sage_flow.queues.methods import LiveQueue
from sage_flow.queues.opcodes import ANYBODY, VISITOR, Part
from sage_flow.queues.remote import ReachPolicy, RemoteQueue

_POLICY: Final = ReachPolicy(served=True)

_lock = threading.Lock()
_directory: str | None = None
_hosts: dict[str, QueueHost] = {}  # directory -> the host of all queues in there that this process used first


def sockets_of_this_process() -> str:
    """Return the directory (0700) for the sockets of channels whose descriptors are made here."""
    global _directory
    with _lock:
        if _directory is None:
            _directory = make_private()
        return _directory


def make_job_sockets(directory: str) -> None:
    """Make the directory if there is none. It is removed with the job, or else with the process that made it."""
    try:
        hold(directory)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another process was faster; `_serve` will hold the directory
            make_private(directory)


def end_process_queues(directory: str, *, removes: bool) -> None:
    """Close all queues in there that this process serves, for everybody. `removes`: remove the directory, too."""
    with _lock:
        host = _hosts.pop(directory, None)
    if host is not None:
        host.close()
    if removes:
        remove_private(directory)
    else:
        let_go(directory)


def reach_process_queue(directory: str, scope: str, channel_id: str, maxsize: int, part: Part = ANYBODY) -> LiveQueue:
    """Return the live queue; this process serves it if no other has. Raises: ChannelNotReachable, QueueClosed."""
    if not os.path.isdir(directory):
        raise ChannelNotReachable(
            f"queue {channel_id}: {directory} no longer exists, because the process that made its descriptor has ended"
        )
    digest = hashlib.blake2b(f"{len(scope)}:{scope}{channel_id}".encode(), digest_size=8).hexdigest()
    path = os.path.join(directory, digest)
    if not os.path.exists(path):
        if part == VISITOR:
            raise QueueClosed(f"queue {channel_id} is closed: no process serves it in {directory}")
        _serve(directory, path)
    connection = pooled_connection(UnixAddress(path), b"")
    return RemoteQueue((scope, channel_id), maxsize, connection, path, _POLICY, part)


def _serve(directory: str, path: str) -> None:
    """Serve at `path`, unless another process does."""
    with contextlib.suppress(FileNotFoundError):  # it is being removed: what follows raises that
        hold(directory)
    with _lock:
        own = os.path.join(directory, this_process())
        if directory not in _hosts:
            _hosts[directory] = QueueHost(UnixAddress(own), b"")
    try:
        os.link(own, path)
    except FileExistsError:
        return  # another process was faster: it serves
    _hosts[directory].answers_at(UnixAddress(path))


def _after_fork() -> None:
    global _directory, _lock
    _directory, _lock = None, threading.Lock()
    _hosts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
