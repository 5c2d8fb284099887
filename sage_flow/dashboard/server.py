"""Serves the page on a port of this machine."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

from sage_flow.errors import PipelineError

__all__ = ["serve_page"]

_HERE = "127.0.0.1"
_LAST_PORT = 65_535
_CURE = "pip install nicegui"


def serve_page(jobs: Any, port: int, on_open: Callable[[str], object], ends: threading.Event | None = None) -> None:
    """Serve the page until Ctrl-C, or until `ends` is set. `jobs`: see `watcher.Jobs`.

    `on_open` is called with the address, token and all, when it can be opened. With port 0 it is a free one.

    Raises PipelineError if the port is in use, or NiceGUI is not installed.
    """
    listening = _listen(port)
    try:
        import nicegui  # noqa: F401 - whether it is there
        import uvicorn
        from fastapi import FastAPI
    except ImportError as error:
        listening.close()
        raise PipelineError(f"the page needs packages that are not installed ({error.name}): {_CURE}") from error
    from sage_flow.dashboard.door import Door
    from sage_flow.dashboard.page import add_page
    from sage_flow.dashboard.watcher import Watcher

    port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
    watcher = Watcher(jobs)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_page(app, watcher)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(Door(app, token, port), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    if ends is not None:
        threading.Thread(target=_end_when, args=(ends, server), name="end of the page", daemon=True).start()
    watcher.start()
    on_open(f"http://{_HERE}:{port}/?token={token}")
    server.run(sockets=[listening])


def _end_when(ends: threading.Event, server: Any) -> None:
    ends.wait()
    server.should_exit = True


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= _LAST_PORT:
        raise PipelineError(f"there is no port {port}: a port is a number from 0 to {_LAST_PORT}")
    try:
        return socket.create_server((_HERE, port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use" if error.errno == errno.EADDRINUSE else "may not be used by this user"
        raise PipelineError(f"port {port} {why}: choose another one by --port, or 0 for any free one") from error
