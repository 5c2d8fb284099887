"""Ray's job API: how a job file goes to a cluster with its folder, and is followed from outside.

The job server runs a shell command - the *entrypoint* - as a driver on the cluster, in a copy of the working
directory, and keeps what it prints.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sage_flow._version import __version__
from sage_flow.cli.console import FAILED, tell
from sage_flow.errors import ClusterError, PipelineError
from sage_flow.executors.ray.answers import ANSWER_S, ClusterSilent
from sage_flow.executors.ray.tokens import TOKEN_CURE, is_refusal, use_own_token

__all__ = ["JobServer", "Submission", "entrypoint", "is_http", "shipped"]

EXCLUDES: Final = (
    ".git",
    ".venv",
    ".venv-*",
    "__pycache__",
    "*.egg-info",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
)
"""What does not travel, at any depth; nor does what a .gitignore names."""

_PACKERS: Final = tuple(f"ray._private.runtime_env.{module}" for module in ("packaging", "working_dir"))

_VERSION: Final = "sage_flow"  # in the metadata of what we submit
_COMMAND: Final = "sage_flow_command"

_NEVER_IMPORTED: Final = {"test", "this", "antigravity"}  # by a library

_DIAL_S: Final = 5.0
_POLL_S: Final = 0.3
_TOLD: Final = 500  # characters of an error of the server


@dataclass(frozen=True)
class Submission:
    """What became of one: `status` in Ray's words, the exit code of its driver.

    `name`: of its job; None if it was not sent by `sage-flow submit`. Times are seconds since the epoch.
    """

    status: str
    code: int
    message: str
    id: str = ""
    name: str | None = None
    started: float = 0.0
    ended: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether its driver has ended."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class JobServer:
    """The job server of a cluster, at "http://HOST:8265". Methods raise ClusterError where it does not do it."""

    def __init__(self, address: str) -> None:
        """Raises PipelineError for an address of another kind; ClusterError if nobody answers."""
        self.address = address
        _check_address(address)
        _check_somebody_listens(address)
        try:
            self._client = self._ask(_client, address)
        except _WrongToken:
            if not use_own_token(urlsplit(address).hostname or ""):
                raise
            self._client = self._ask(_client, address)

    def submit(self, entrypoint: str, metadata: dict[str, str], runtime_env: dict[str, Any] | None = None) -> str:
        """Start it; return the id of the submission."""
        found: str = self._ask(
            self._client.submit_job, entrypoint=entrypoint, metadata=metadata, runtime_env=runtime_env
        )
        return found

    def follow(self, submission_id: str, show: Callable[[str], None]) -> Submission:
        """Give `show` what it prints, until it is over; return what became of it."""

        async def read() -> None:
            async for text in self._client.tail_job_logs(submission_id):
                show(text)

        self._ask(lambda: asyncio.run(read()))
        return self.wait(submission_id)

    def wait(self, submission_id: str) -> Submission:
        """Wait until it is over."""
        while not (found := self.look(submission_id)).is_over:
            time.sleep(_POLL_S)
        return found

    def look(self, submission_id: str) -> Submission:
        """Where it is."""
        return _submission(self._ask(self._client.get_job_info, submission_id))

    def submissions(self) -> list[Submission]:
        """Those it knows; commands that were run there on behalf of others are none."""
        found = self._ask(self._client.list_jobs)
        return [_submission(info) for info in found if info.submission_id and _COMMAND not in (info.metadata or {})]

    def log(self, submission_id: str) -> str:
        """What it has printed so far."""
        found: str = self._ask(self._client.get_job_logs, submission_id)
        return found

    def stop(self, submission_id: str) -> Submission:
        """End it, if it runs, as by SIGTERM; return what became of it."""
        if not self.look(submission_id).is_over:
            self._ask(self._client.stop_job, submission_id)
        return self.wait(submission_id)

    def forget(self, submission_id: str) -> None:
        """End it, if it runs, and let the server forget it."""
        self.stop(submission_id)
        self._ask(self._client.delete_job, submission_id)

    def _ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Its result; Ray's errors of the job API, and those of HTTP under it, become ours."""
        import requests
        from ray.exceptions import RayError  # a token that is missing or wrong

        try:
            return question(*args, **kwargs)
        except BrokenPipeError:  # who reads what we show has had enough
            raise
        except requests.exceptions.Timeout:
            raise ClusterSilent(f"the job server at {self.address}", ANSWER_S) from None
        except (RuntimeError, ValueError, OSError, RayError) as error:
            text = str(error)
            if is_refusal(text):
                raise _WrongToken(f"the job server at {self.address} rejected this client: {TOKEN_CURE}") from None
            told = _telling(text) or type(error).__name__
        raise ClusterError(f"the job server at {self.address} rejected the request: {told}")


class _WrongToken(ClusterError):
    """It wants a token, or another one."""


def _client(address: str) -> Any:
    """Ray's client of a job server, with a limit for each silence of the server; Ray's own has none."""
    from ray.job_submission import JobSubmissionClient

    from sage_flow.executors.ray.logs import api_server

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": ANSWER_S, **kwargs})

    _silence_ray()  # what is imported now has set its own level
    with api_server(address):
        return Client(address)


def is_http(address: str) -> bool:
    """Whether this is the address of a job server."""
    return address.startswith(("http://", "https://"))


def shipped(working_dir: str) -> dict[str, Any]:
    """The runtime environment that takes this folder along. Raises PipelineError if it is none."""
    if not os.path.isdir(working_dir):
        raise PipelineError(f"--working-dir {working_dir}: no such folder")
    hiding = hiding_files(working_dir)
    if hiding:
        tell(
            f"sage-flow: warning: Ray's processes look for modules in {working_dir} before the standard library, where"
            f" {', '.join(hiding)} may take the place of its modules: rename, or send another folder with --working-dir"
        )
    _silence_ray()
    return {"working_dir": os.path.abspath(working_dir), "excludes": list(EXCLUDES)}


def hiding_files(folder: str) -> list[str]:
    """The files and packages in a folder that have the name of a module of the standard library."""
    modules = (*Path(folder).glob("*.py"), *(file.parent for file in Path(folder).glob("*/__init__.py")))
    return sorted(file.name for file in modules if file.stem in sys.stdlib_module_names - _NEVER_IMPORTED)


def entrypoint(jobfile: str, working_dir: str, arguments: Sequence[str]) -> str:
    """The shell command that runs a job file in a copy of the folder. Raises PipelineError if it is not in there."""
    path = Path(jobfile).resolve()
    folder = Path(working_dir).resolve()
    if not path.is_relative_to(folder):
        raise PipelineError(
            f"{jobfile} is not in the folder that is shipped, {folder}: name the project's with --working-dir"
        )
    command = ["python", "-m", "sage_flow.cli", "run", path.relative_to(folder).as_posix(), "--ray", *arguments]
    return shlex.join(command)


def metadata_of(name: str, command: str | None = None) -> dict[str, str]:
    """What the job server keeps with a submission. `command`: it runs no job, but this command of `sage-flow`."""
    return {"job_name": name, _VERSION: __version__, **({} if command is None else {_COMMAND: command})}


def _submission(info: Any) -> Submission:
    status = info.status.value
    code = info.driver_exit_code
    if code is None:
        code = 0 if status == "SUCCEEDED" else FAILED
    message = (info.message or "").split(", last available logs")[0]  # they can be had apart
    metadata = info.metadata or {}
    return Submission(
        status,
        code if code >= 0 else FAILED,
        message,
        info.submission_id or "",
        metadata.get("job_name") if _VERSION in metadata else None,
        (info.start_time or 0) / 1000,
        info.end_time / 1000 if info.end_time else None,
    )


def _silence_ray() -> None:
    """It tells of every file that does not travel, and of every connection that ends."""
    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", *_PACKERS):
        logging.getLogger(name).setLevel(logging.ERROR)


def _check_address(address: str) -> None:
    if is_http(address) and urlsplit(address).hostname:
        return
    raise PipelineError(
        f"{address!r} is not the address of a job server: give http://HOST:8265, the address of Ray's dashboard"
        " (`sage-flow run --ray --address` takes the others)"
    )


def _check_somebody_listens(address: str) -> None:
    """Ray itself would try for minutes."""
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _DIAL_S).close()
    except ValueError as error:
        raise PipelineError(f"{address!r} is not an address: {error}") from None
    except OSError as error:
        raise ClusterError(
            f"no server answers at {address}: {error}; Ray's job server runs if the head was started with its"
            " dashboard, and is reachable from other machines with --dashboard-host=0.0.0.0"
        ) from None


def _telling(text: str) -> str:
    """What a message says, without the traceback of the server in it."""
    lines = [line.strip() for line in text.split("Traceback")[0].splitlines()]
    return " ".join(filter(None, lines))[:_TOLD] or text.strip()[-_TOLD:]
