"""The jobs of this user that run on this machine: how they are found, and asked what they are doing.

Every job announces itself in a directory of the user's own (0700): a socket, and a file that says its name,
its process and the key of the socket. Both are gone when the job has ended; what a killed process left is
removed by who finds it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import secrets
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_flow.errors import ChannelNotReachable, PipelineError

if TYPE_CHECKING:
    from sage_flow.channels.link import Link
    from sage_flow.job import JobHandle

__all__ = ["RunningJob", "announced", "find_job", "running_jobs"]

_NAME = "inspect"
_ANSWER_S = 5.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class RunningJob:
    """A job that runs, as its announcement says."""

    name: str
    pid: int
    path: str
    key: bytes = field(repr=False)

    def ask(self) -> dict[str, Any]:
        """Return its `JobHandle.statistics()`, and `queues`: those whose contents are in its process.

        Raises: ChannelNotReachable if it does not answer.
        """
        from sage_flow.channels.link import dial
        from sage_flow.channels.transport import UnixAddress

        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        link = dial(
            UnixAddress(self.path),
            self.key,
            _NAME,
            on_message=lambda link, answer, size: answers.put(answer),
            on_closed=lambda link, reason: answers.put(None),
            connect_timeout_s=_ANSWER_S,
        )
        try:
            link.send("statistics")
            answer = answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            answer = None
        finally:
            link.close()
        if answer is None:
            raise ChannelNotReachable(f"job {self.name!r} (process {self.pid}) does not answer")
        return answer


@contextlib.contextmanager
def announced(job: JobHandle) -> Iterator[None]:
    """Let others find and ask the job while the block runs."""
    from sage_flow.channels.listener import Listener
    from sage_flow.channels.queues_here import queues_here
    from sage_flow.channels.transport import UnixAddress

    path = _directory() / f"{os.getpid()}-{next(_numbers)}"
    key = secrets.token_bytes(32)

    def answer(link: Link) -> None:
        with contextlib.suppress(ConnectionError):  # who asked has gone
            link.send({**job.statistics(), "queues": queues_here()})

    def on_message(link: Link, message: Any, size: int) -> None:
        # Asking the job waits for its subtasks, which this thread must not.
        threading.Thread(target=answer, args=(link,), name=f"answer of {job.name}", daemon=True).start()

    listener = Listener(UnixAddress(f"{path}.sock"), key, _NAME, on_message=on_message)
    file = path.with_suffix(".json")
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump({"name": job.name, "pid": os.getpid(), "key": key.hex()}, opened)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        listener.close()


def running_jobs() -> list[RunningJob]:
    """Return the jobs that are announced and whose process is alive, oldest first."""
    found = []
    for file in sorted(_directory().glob("*.json"), key=lambda file: file.stat().st_mtime):
        try:
            told = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):  # it ends, or begins, just now
            continue
        if _is_alive(told["pid"]):
            path = str(file.with_suffix(".sock"))
            found.append(RunningJob(told["name"], told["pid"], path, bytes.fromhex(told["key"])))
        else:
            file.unlink(missing_ok=True)
            file.with_suffix(".sock").unlink(missing_ok=True)
    return found


def find_job(wanted: str | None = None) -> RunningJob:
    """Return the running job of this name or process id; without one, the only job that runs.

    Raises: PipelineError that lists the jobs that run.
    """
    jobs = running_jobs()
    matching = [job for job in jobs if wanted in (None, job.name, str(job.pid))]
    if len(matching) == 1:
        return matching[0]
    running = ", ".join(f"{job.name!r} (process {job.pid})" for job in jobs) or "none"
    if not matching:
        what = "no job runs" if wanted is None else f"no job {wanted!r} runs"
        raise PipelineError(f"{what} on this machine for this user; running: {running}")
    raise PipelineError(f"several jobs run, say which by name or process id: {running}")


def _directory() -> Path:
    """Where this user's jobs announce themselves; made if it is not there."""
    from sage_flow.channels.transport import check_private

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    directory = base / (f"sage_flow-{os.geteuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    check_private(str(directory))
    return directory


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's by now
        return False
    return True
