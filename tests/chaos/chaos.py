"""Kills processes of jobs on Ray with kill -9, every few seconds, and compares what they publish with a run in peace.

`python tests/chaos --minutes 60 [--seed N]`, or `make chaos MINUTES=60`; `test_chaos.py` has the short form.

The victims: a process of subtasks, the job's master, and the raylet of a node, with all that runs there.
"""

import io
import math
import os
import random
import signal
import time
import zipfile
from csv import DictReader, DictWriter
from datetime import timedelta
from pathlib import Path

import ray
from chaos_jobs import JOBS

from sage_flow import ExponentialDelay, JobStatus, LocalEnvironment, RemoteEnvironment
from sage_flow.errors import SageFlowError

__all__ = ["VICTIMS", "check_job", "expected"]

VICTIMS = ("subtask", "subtask", "master", "subtask", "raylet")
PAUSE_S = 1.0
"""Between two batches of a source: a job takes about half a minute in peace, so several kills fall into it."""
PATIENCE_S = 300
FLIGHTS = 15_000
THIRD_IP = "127.0.0.4"


def write_input(folder):
    from jobs.flights import packaged_flights

    with (
        zipfile.ZipFile(packaged_flights()) as archive,
        archive.open("flights.csv") as file,
        (folder / "flights.csv").open("w", newline="") as out,
    ):
        rows = DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
        writer = DictWriter(out, rows.fieldnames)
        writer.writeheader()
        for _ in range(FLIGHTS):
            writer.writerow(next(rows))


def lines_of(folder):
    files = sorted(path for path in folder.iterdir() if path.name.startswith("rows"))
    return sorted(line for file in files for line in file.read_text("utf-8").splitlines())


def expected(name, folder):
    """The lines of the job where nobody is killed, in one process and without checkpoints."""
    folder.mkdir()
    write_input(folder)
    env = LocalEnvironment(f"{name}-in-peace", parallelism=2)
    JOBS[name](env, folder, 0)
    env.execute(progress=False)
    return lines_of(folder)


class Killer:
    """Kills one process after another. `story` says what it did."""

    def __init__(self, job, cluster, rng, victims, most):
        self.job, self.cluster, self.rng, self.victims, self.most = job, cluster, rng, victims, most
        self.story = []
        self.kills = 0
        self._third = None

    def run(self):
        began = time.monotonic()
        while not self.job.status.is_final:
            time.sleep(self.rng.uniform(1.5, 4.0))
            if time.monotonic() - began > PATIENCE_S:
                raise TimeoutError(f"the job does not end; {self.told()}")
            if self.job.status is JobStatus.RUNNING and self.kills < self.most:
                self._kill(self.victims[self.kills % len(self.victims)], time.monotonic() - began)
        if self._third is not None:
            self.cluster.cluster.remove_node(self._third, allow_graceful=False)

    def _kill(self, victim, when):
        try:
            if victim == "raylet":
                self._kill_raylet()
            elif victim == "master":
                master = ray.get_actor(f"{self.job.id}/master", namespace=self.cluster.namespace)
                os.kill(ray.get(master.pid.remote(), timeout=10), signal.SIGKILL)
            else:
                os.kill(self.rng.choice([s.pid for s in self.job.subtasks() if s.pid]), signal.SIGKILL)
        except (ray.exceptions.RayError, SageFlowError, ProcessLookupError, ValueError, IndexError) as error:
            self.story.append(f"{when:.1f} s: no {victim} to kill: {type(error).__name__}")
            return  # it restarts just now, or has finished
        self.kills += 1
        self.story.append(f"{when:.1f} s: killed a {victim}")

    def _kill_raylet(self):
        """Kill that of a third node, which gets its share of the next attempts, and start another one."""
        if self._third is not None:
            self.cluster.cluster.remove_node(self._third, allow_graceful=False)
        self._third = self.cluster.add_node(THIRD_IP, num_cpus=4)

    def told(self):
        return "; ".join(self.story)


def check_job(name, cluster, folder, seed, lines, victims=VICTIMS, most=math.inf):
    """Run a job while its processes are killed, up to `most` times. Returns how often; raises AssertionError."""
    folder.mkdir()
    write_input(folder)
    env = RemoteEnvironment(
        f"chaos-{name}",
        parallelism=2,
        restart=ExponentialDelay(initial_s=0.1, max_s=0.5),
        detached=True,
        lease_s=5.0,
    )
    env.enable_checkpointing(folder / "checkpoints", interval=timedelta(milliseconds=500))
    JOBS[name](env, folder, PAUSE_S)
    job = env.submit()
    killer = Killer(job, cluster, random.Random(seed), victims, most)
    try:
        killer.run()
        job.result(timeout=PATIENCE_S)
    finally:
        if not job.status.is_final:
            job.cancel("the chaos is over")
    found = lines_of(folder)
    assert found == lines, (
        f"{name} with seed {seed}: {len(found)} lines where {len(lines)} are right; {killer.told()};"
        f" missing {sorted(set(lines) - set(found))[:3]}, too many {sorted(set(found) - set(lines))[:3]}"
    )
    return killer.kills


def run(minutes, seed, folder, cluster):
    """Job after job until the time is over. Prints a line for each."""
    folder = Path(folder)
    right = {name: expected(name, folder / f"right-{name}") for name in JOBS}
    until, kills, number = time.monotonic() + 60 * minutes, 0, 0
    while time.monotonic() < until:
        for name in JOBS:
            number += 1
            killed = check_job(name, cluster, folder / f"{number}-{name}", seed + number, right[name])
            kills += killed
            print(f"{number}: {name} with seed {seed + number}: {killed} kills, right", flush=True)
    print(f"{number} jobs, {kills} kills: all right")
