"""The jobs of this user that run on this machine: finds them, asks them for their state, and ends them.

Every job announces itself in a private directory of the user (0700) by a socket and a file with its name, its process
and the key of the socket. It removes both at its end; what a killed process has left is removed by the next process
that finds it.

A job runs if its socket listens. Its process id proves nothing: after a restart of a container it belongs to another
process, and in another container that shares the directory it means another process, or none.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sage_flow.errors import ChannelNotReachable, PipelineError
from sage_flow.runtime.coordinator import JobStatus

if TYPE_CHECKING:
    from sage_flow.job import JobHandle
    from sage_flow.links.link import Link

__all__ = ["RunningJob", "announced", "failure_of", "find_job", "jobs_called", "running_jobs"]

_NAME = "inspect"
_ANSWER_S = 5.0
_FILE, _SOCKET, _PART = ".json", ".sock", ".part"
_OLD_S = 60.0  # seconds; a job announces itself in less time
_ACCEPTED = "accepted"

_REFUSED = "refused"
_CHECKPOINTS = "checkpoints"
_STACKS = "stacks"
_LOOK, _OUTCOME = "look", "outcome"

Order = Literal["drain", "stop", "cancel"]


@dataclass(frozen=True)
class RunningJob:
    """A job that runs, as its announcement says."""

    name: str
    pid: int
    path: str
    key: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name!r} (process {self.pid})"

    def ask(self) -> dict[str, Any]:
        """Return its `JobHandle.statistics()`, and `queues`: those whose contents are in its process.

        Raises: ChannelNotReachable if it does not answer.
        """
        with self._asked("statistics") as answers:
            answer: dict[str, Any] = self._next(answers)
        return answer

    def stacks(self) -> dict[str, list[dict[str, Any]]]:
        """Return its `JobHandle.stacks()`. Raises ChannelNotReachable if it does not answer."""
        with self._asked(_STACKS) as answers:
            answer: dict[str, Any] = self._next(answers)
        found: dict[str, list[dict[str, Any]]] = answer[_STACKS]
        return found

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the fields of its `JobHandle.checkpoints()`. Raises ChannelNotReachable if it does not answer."""
        with self._asked(_CHECKPOINTS) as answers:
            answer: dict[str, Any] = self._next(answers)
        infos: list[dict[str, Any]] = answer[_CHECKPOINTS]
        return infos

    def look(self) -> dict[str, Any]:
        """Return its `status`, `metrics`, `statistics`, and `stops`: whether it can stop with a last checkpoint.

        Raises: ChannelNotReachable if it does not answer.
        """
        with self._asked(_LOOK) as answers:
            answer: dict[str, Any] = self._next(answers)
        return answer

    def outcome(self) -> tuple[str, str]:
        """Wait for its end; return its status and what failed, "" if nothing did.

        Raises: ChannelNotReachable if its process ends before it says so.
        """
        with self._asked(_OUTCOME) as answers:
            told = answers.get()
        if told is None:
            raise ChannelNotReachable(f"job {self.name!r} (process {self.pid}) ended without telling its outcome")
        status, failure = told
        return str(status), str(failure)

    def end(self, order: Order, on_accepted: Callable[[], object] = lambda: None) -> JobStatus:
        """Drain, stop or cancel it, wait until it is over, and return its status.

        `on_accepted` is called when it has begun.

        Raises: ChannelNotReachable if it does not answer, or ends without reporting the outcome; PipelineError if it
        cannot do that, such as stop without checkpoints.
        """
        with self._asked(order) as answers:
            answer = self._next(answers)
            if isinstance(answer, dict) and _REFUSED in answer:
                raise PipelineError(answer[_REFUSED])
            if answer != _ACCEPTED:
                raise ChannelNotReachable(f"job {self.name!r} (process {self.pid}) does not support {order!r}")
            on_accepted()
            told = answers.get()
        if told is None:
            raise ChannelNotReachable(
                f"job {self.name!r} (process {self.pid}) accepted {order!r}, but ended, or stopped waiting for the"
                " job, before it reported the outcome"
            )
        return JobStatus(told)

    @contextlib.contextmanager
    def _asked(self, question: str) -> Iterator[queue.SimpleQueue[Any]]:
        """Send a question; the block gets the answers, and None when the connection has ended."""
        from sage_flow.links.address import UnixAddress
        from sage_flow.links.dialing import dial

        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        link = dial(
            UnixAddress(self.path),
            self.key,
            _NAME,
            on_message=lambda link, answer, size: answers.put(answer),
            on_closed=lambda link, reason: answers.put(None),
            connect_timeout_s=_ANSWER_S,
        )
        try:
            link.send(question)
            yield answers
        finally:
            link.close()

    def _next(self, answers: queue.SimpleQueue[Any]) -> Any:
        try:
            answer = answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            answer = None
        if answer is None:
            raise ChannelNotReachable(f"job {self.name!r} (process {self.pid}) does not answer")
        return answer


@contextlib.contextmanager
def announced(job: JobHandle) -> Iterator[None]:
    """Let others of this user find the job, ask it and end it while the block runs."""
    from sage_flow.links.address import UnixAddress
    from sage_flow.links.listener import Listener
    from sage_flow.queues.here import queues_here

    path = _directory() / f"{os.getpid()}-{os.urandom(4).hex()}"  # process ids repeat in containers
    key = secrets.token_bytes(32)

    ending: list[threading.Thread] = []

    def answer(link: Link, question: str) -> None:
        with contextlib.suppress(ConnectionError):  # the process that asked has ended
            if question == _LOOK:
                stops = job._execution.stores_checkpoints
                told = {"status": str(job.status), "metrics": job.metrics(), "statistics": job.statistics()}
                link.send({**told, "stops": stops})
            elif question == _CHECKPOINTS:
                link.send({_CHECKPOINTS: [asdict(info) for info in job.checkpoints()]})
            elif question == _STACKS:
                link.send({_STACKS: job.stacks()})
            else:
                link.send({**job.statistics(), "queues": queues_here()})

    def end(link: Link, order: Order) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                {"drain": job.drain, "stop": job.stop, "cancel": job.cancel}[order](wait=False)
            except PipelineError as error:
                link.send({_REFUSED: str(error)})
                return
            link.send(_ACCEPTED)
            job.wait()
            link.send(str(job.status))

    def await_outcome(link: Link) -> None:
        job.wait()
        with contextlib.suppress(ConnectionError):  # the process that asked has ended
            link.send((str(job.status), failure_of(job)))

    def on_message(link: Link, message: Any, size: int) -> None:
        # To ask the job is to wait for its subtasks, which this thread must not.
        if message in get_args(Order):
            thread = threading.Thread(target=end, args=(link, message), name=f"ends {job.name}", daemon=True)
            ending.append(thread)
        elif message == _OUTCOME:
            thread = threading.Thread(target=await_outcome, args=(link,), name=f"outcome of {job.name}", daemon=True)
            ending.append(thread)
        else:
            thread = threading.Thread(target=answer, args=(link, message), name=f"answer of {job.name}", daemon=True)
        thread.start()

    listener = Listener(UnixAddress(str(path.with_suffix(_SOCKET))), key, _NAME, on_message=on_message)
    file = path.with_suffix(_FILE)
    try:
        _write_whole(file, json.dumps({"name": job.name, "pid": os.getpid(), "key": key.hex()}))
        yield
    finally:
        file.unlink(missing_ok=True)
        if job.is_over:
            for thread in ending:  # let them report the end to the programs that asked for it
                thread.join(_ANSWER_S)
        listener.close()


def failure_of(job: JobHandle) -> str:
    """What has ended a job that is over, as commands print it; "" if it did not fail."""
    from sage_flow.runtime.failure import describe

    if job.status is not JobStatus.FAILED:
        return ""
    try:
        job.result()
    except BaseException as error:  # whatever user code has raised
        return "\n".join(describe(error))
    return ""


def _write_whole(file: Path, content: str) -> None:
    """Write a file under a temporary name and rename it, so that no process reads half of it."""
    part = file.with_suffix(_PART)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(content)
    part.rename(file)


def running_jobs() -> list[RunningJob]:
    """Return the jobs that are announced and that can be asked, oldest first.

    Raises: ChannelNotReachable if the directory is not ours alone.
    """
    directory = _directory()
    _remove_ends(directory)
    found = []
    for file in sorted(directory.glob(f"*{_FILE}"), key=_age):
        path = str(file.with_suffix(_SOCKET))
        if not _listens(path):
            file.unlink(missing_ok=True)
            Path(path).unlink(missing_ok=True)
        elif (job := _announcement(file, path)) is not None:
            found.append(job)
    return found


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # its job is ending
        return 0.0


def _announcement(file: Path, path: str) -> RunningJob | None:
    """Return the job that a file announces; None if the file is gone, or no announcement."""
    try:
        told = json.loads(file.read_bytes())
        return RunningJob(str(told["name"]), int(told["pid"]), path, bytes.fromhex(told["key"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _listens(path: str) -> bool:
    """Whether a process has the socket, running or stopped, here or in another container."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # above all BlockingIOError: its queue of connections is full
            return True
    return True


def _remove_ends(directory: Path) -> None:
    """Remove sockets and partial files of processes that were killed before they had announced their job."""
    for path in directory.iterdir():
        is_end = path.suffix in (_SOCKET, _PART) and not path.with_suffix(_FILE).exists()
        if is_end and time.time() - _age(path) > _OLD_S and not _listens(str(path.with_suffix(_SOCKET))):
            path.unlink(missing_ok=True)


def find_job(wanted: str | None = None) -> RunningJob:
    """Return the running job of this name or process id; without one, the only job that runs.

    Raises: PipelineError that lists the jobs that run.
    """
    matching = jobs_called(wanted)
    if len(matching) == 1:
        return matching[0]
    running = ", ".join(map(str, running_jobs())) or "none"
    if not matching:
        what = "no job runs" if wanted is None else f"no job {wanted!r} runs"
        raise PipelineError(
            f"{what} on this machine for this user; running: {running} (a job on a Ray cluster is found with --address)"
        )
    raise PipelineError(f"several jobs run, say which by name or process id: {running}")


def jobs_called(wanted: str | None) -> list[RunningJob]:
    """Return the running jobs of this name or process id; without one, all."""
    return [job for job in running_jobs() if wanted in (None, job.name, str(job.pid))]


def _directory() -> Path:
    """Return the directory in which this user's jobs announce themselves; make it. Raises ChannelNotReachable."""
    from sage_flow.links.address import check_private

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    directory = base / (f"sage_flow-{os.geteuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
    except OSError as error:
        raise ChannelNotReachable(
            f"cannot create {directory}, where jobs announce themselves: {error.strerror}; set XDG_RUNTIME_DIR or"
            " TMPDIR to a directory of your own"
        ) from None
    check_private(str(directory))  # not in the handler of FileExistsError, which is not the cause of what this raises
    return directory
