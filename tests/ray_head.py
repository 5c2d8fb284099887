"""A Ray head with its dashboard and job server, as a program of its own, for tests of the command line."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD_IP = "127.0.0.2"
_START_S = 120.0
_END_S = 30.0


@dataclass
class RayHead:
    """`address`: of the GCS; `url`: of the job server. Only who has `environment` gets in: it holds Ray's token."""

    address: str
    url: str
    environment: dict[str, str] = field(repr=False)
    client: str = ""
    """Address of Ray's client server."""
    gcs: int = 0
    """Its process."""

    def start(self, *command: str, cwd: Path | str) -> subprocess.Popen[str]:
        """Start a program that can reach it."""
        return subprocess.Popen(
            command, cwd=cwd, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def sage_flow(self, *arguments: str, cwd: Path | str, timeout: float = 120) -> tuple[int, str, str]:
        """Run a command of `sage-flow`; return its exit code, output and errors."""
        process = self.start(sys.executable, "-m", "sage_flow.cli", *arguments, cwd=cwd)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def ray_head() -> Iterator[RayHead]:
    """A head of four CPUs."""
    with started_head() as head:
        yield head


@contextlib.contextmanager
def started_head(*, token_in_file: bool = False) -> Iterator[RayHead]:
    """`token_in_file`: nothing in the environment speaks of tokens, as after Ray has made one for itself."""
    with tempfile.TemporaryDirectory(prefix="sfh-", ignore_cleanup_errors=True) as folder:  # sockets: a short path
        port, dashboard, client = free_port(), free_port(), free_port()
        environment = ray_environment(folder)
        token = environment["RAY_AUTH_TOKEN"]
        if token_in_file:
            del environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN"]
            (Path(folder) / ".ray").mkdir()
            (Path(folder) / ".ray" / "auth_token").write_text(token)
        head = RayHead(
            f"{HEAD_IP}:{port}",
            f"http://127.0.0.1:{dashboard}",
            environment,
            f"ray://{HEAD_IP}:{client}",
        )
        command = [
            *("ray", "start", "--head", "--block", "--temp-dir", folder, "--num-cpus", "4"),
            *("--port", str(port), "--node-ip-address", HEAD_IP, "--object-store-memory", str(80 << 20)),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--include-dashboard", "true"),
            *("--dashboard-agent-listen-port", str(free_port()), "--ray-client-server-port", str(client)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
        ]
        with ended_with_block(command, head.environment, folder) as process:
            await_http(head, token)
            head.gcs = child_named("gcs_server", process.pid)
            yield head


def child_named(name: str, parent: int) -> int:
    """The process of this name that this one has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            pid, _, rest = stat.read_text().partition(" (")
            command, _, fields = rest.rpartition(") ")
            if command == name[:15] and int(fields.split()[1]) == parent:
                return int(pid)
    raise AssertionError(f"process {parent} has no child {name}")


@contextlib.contextmanager
def ended_with_block(command: list[str], environment: dict[str, str], folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ray start --block`, and end it, and what it started."""
    with open(os.path.join(folder, "start.log"), "ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_http(head: RayHead, token: str) -> None:
    """Wait for the job server."""
    request = urllib.request.Request(f"{head.url}/api/version", headers={"Authorization": f"Bearer {token}"})
    until = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def of_driver(log: str) -> str:
    """A driver's log without the lines of actors that Ray puts in between."""
    return "".join(line for line in log.splitlines(keepends=True) if " pid=" not in line)


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ray_environment(folder: str) -> dict[str, str]:
    """That of the processes of a cluster and of those who may use it. `folder`: their home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **kept,
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HOME": folder,  # Ray keeps tokens there
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
