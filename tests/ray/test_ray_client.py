"""A driver that is connected by `ray://`, from outside the cluster's network: what it asks for goes by the master."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
from ray_head import HEAD_IP, RayHead
from ray_head import ray_head as ray_head

pytestmark = pytest.mark.slow

PATIENCE_S = 90

JOBS = """
    import sys

    import ray

    from sage_flow import IDLE, RemoteEnvironment, Service, Source, connect

    ADDRESS = sys.argv[1]


    class Double(Service):
        def process(self, number):
            return Pair(2 * number)

        def fail(self, number):
            raise ValueError(f"no {number}")


    class Pair:  # of __main__: it travels by value, and comes home
        def __init__(self, number):
            self.number = number


    class Endless(Source):
        def next_batch(self):
            return IDLE


    def rows_of_a_job():
        env = RemoteEnvironment("rows", 2, address=ADDRESS)
        env.register_service("double", Double)
        numbers = env.from_collection(range(1000))
        numbers.map(lambda n, ctx: ctx.call_service("double", n)).key_by(lambda pair: pair.number % 3).collect("rows")
        rows = env.execute(progress=False).collected["rows"]
        assert all(type(row) is Pair for row in rows)
        print("rows", sum(row.number for row in rows))


    def calls_of_a_service():
        env = RemoteEnvironment("served", address=ADDRESS)
        env.register_service("double", Double)
        env.from_source(Endless()).for_each(print)
        with env.submit() as job:
            double = job.service("double")
            print("call", double.process(4).number)
            print("calls", [future.result().number for future in [double.process.remote(n) for n in range(5)]])
            try:
                double.fail(3)
            except ValueError as error:
                print("error", error)
            again = connect(ADDRESS).job("served")
            print("statuses", job.status, again.status, len(again.subtasks()))
            print("again", again.service("double").process(5).number)
            job.cancel()
            print("end", job.wait())


    def an_error_of_a_job():
        env = RemoteEnvironment("bad", address=ADDRESS)
        env.from_collection([0]).map(lambda n: 1 // n, name="divide").collect()
        try:
            env.execute(progress=False)
        except ZeroDivisionError as error:
            print("failure", any("'divide'" in note for note in error.__notes__))


    rows_of_a_job()
    assert ray.util.client.ray.is_connected()
    calls_of_a_service()
    an_error_of_a_job()
"""


def test_jobs_and_services_of_a_client_driver(ray_head: RayHead, tmp_path):
    program = tmp_path / "jobs.py"
    program.write_text(JOBS.replace("\n    ", "\n"))
    await_port(ray_head.client)
    code, out, err = run(ray_head, str(program))
    assert code == 0, err
    told = [line for line in out.splitlines() if line and not line.startswith(("(", "\x1b"))]
    assert told == [
        f"rows {2 * sum(range(1000))}",
        "call 8",
        "calls [0, 2, 4, 6, 8]",
        "error no 3",
        "statuses RUNNING RUNNING 2",
        "again 10",
        "end CANCELLED",
        "failure True",
    ]


def run(head: RayHead, program: str) -> tuple[int, str, str]:
    """Run a program with the address of the client server; again, if that did not get a server going for it."""
    for _ in range(4):  # Ray gives its servers, one per client, a fixed time to start
        process = head.start(sys.executable, program, head.client, cwd=os.path.dirname(program))
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        if "Starting Ray client server failed" not in err:
            break
    return process.returncode, out, err


def await_port(address: str) -> None:
    """Ray starts its client server late."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((HEAD_IP, int(address.rpartition(":")[2])), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, "Ray's client server does not start"
            time.sleep(0.2)
