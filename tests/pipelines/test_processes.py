"""Worker processes that die, and what a job of processes leaves behind: nothing."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

from sage_flow import JobStatus, LocalEnvironment, Service
from sage_flow.errors import ServiceUnavailable, WorkerDied
from sage_flow.executors.processes import ProcessExecutor
from sage_flow.links.link import exchange_loop


def children(pid):
    """The pids of the live processes below `pid`."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(entry.name))
    return found


def leftovers():
    """Directories of jobs, open sockets and child processes, as they are now."""
    directories = {path.name for path in pathlib.Path(tempfile.gettempdir()).glob("sage-flow-*")}
    return directories, sum(map(is_socket, os.listdir("/proc/self/fd"))), children(os.getpid())


def is_socket(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except FileNotFoundError:  # the one that listed the directory
        return False


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    exchange_loop()  # starts with the first job that is announced, and stays
    directories, sockets, processes = leftovers()
    yield
    now = leftovers()
    assert (now[0], now[2]) == (directories, processes)
    assert now[1] <= sockets  # those of a test before this one may have been closing


def environment(parallelism=1):
    return LocalEnvironment("test", parallelism, executor=ProcessExecutor())


def await_line(path):
    """Wait for another process to write a line; the test's own time limit ends it."""
    while not path.exists() or not path.read_text().endswith("\n"):
        threading.Event().wait(0.01)
    return path.read_text().split()


def noting_pid(path):
    """A function that writes its pid at its first record, then is slow for ever."""

    def function(n):
        if n == 0:
            path.with_suffix(".new").write_text(f"{os.getpid()}\n")
            path.with_suffix(".new").rename(path)
        else:
            threading.Event().wait(60)
        return n

    return function


@pytest.mark.usefixtures("nothing_left")
def test_a_job_that_finishes_leaves_nothing_behind():
    env = environment(2)
    env.from_collection(range(100)).rebalance().map(lambda n: (n, os.getpid())).collect("rows")
    rows = env.execute().collected["rows"]
    assert sorted(n for n, _ in rows) == list(range(100))
    assert len({pid for _, pid in rows} - {os.getpid()}) == 2


@pytest.mark.usefixtures("nothing_left")
def test_the_garbage_collector_of_a_worker_leaves_alone_what_was_there_before_and_ours_does_not_change():
    before = gc.get_freeze_count()
    env = environment()
    env.from_collection(range(10)).map(lambda n: gc.get_freeze_count()).collect("frozen")
    assert min(env.execute().collected["frozen"]) > 10_000
    assert gc.get_freeze_count() == before


@pytest.mark.usefixtures("nothing_left")
def test_a_job_that_fails_leaves_nothing_behind():
    env = environment(2)
    env.from_collection(range(100)).rebalance().map(lambda n: 1 // (50 - n)).collect()
    with pytest.raises(ZeroDivisionError):
        env.execute()


@pytest.mark.usefixtures("nothing_left")
def test_a_job_that_is_cancelled_leaves_nothing_behind(tmp_path):
    env = LocalEnvironment("test", executor=ProcessExecutor(), cancel_grace_s=0.2)
    env.from_collection(range(3)).rebalance().map(noting_pid(tmp_path / "pid"), parallelism=2).collect()
    with env.submit() as job:
        await_line(tmp_path / "pid")
    assert job.status is JobStatus.CANCELLED


@pytest.mark.race
@pytest.mark.usefixtures("nothing_left")
def test_a_worker_that_is_killed_ends_the_job_and_is_named(tmp_path):
    env = LocalEnvironment("flights", executor=ProcessExecutor(), cancel_grace_s=0.5)
    env.from_collection(range(3)).map(noting_pid(tmp_path / "pid"), name="victim").collect()
    env.from_collection(range(3), name="other").rebalance().map(lambda n: n, name="bystander", parallelism=2).collect()
    job = env.submit()
    (pid,) = map(int, await_line(tmp_path / "pid"))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied) as caught:
        job.result(timeout=60)
    for fragment in ("SIGKILL", f"pid {pid}", "'flights'", "victim"):
        assert fragment in str(caught.value)


class Deadly(Service):
    def process(self, value):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.race
@pytest.mark.usefixtures("nothing_left")
def test_the_caller_of_a_service_that_is_killed_does_not_wait_for_its_timeout():
    env = environment()
    env.register_service("deadly", Deadly, timeout=1000.0)
    env.from_collection([1]).map(lambda n, ctx: ctx.call_service("deadly", n)).collect()
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        env.submit().result(timeout=60)
    assert "deadly" in str(caught.value)


class Sleepy(Service):
    def process(self, value):
        time.sleep(value)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


def sleepy():
    time.sleep(1000)
    yield from ()


@pytest.mark.race
@pytest.mark.usefixtures("nothing_left")
def test_callers_outside_of_a_service_that_is_killed_are_told_at_once():
    env = LocalEnvironment("test", executor=ProcessExecutor(), cancel_grace_s=0.2)
    env.register_service("sleepy", Sleepy, concurrency=2, timeout=1000.0)
    env.from_iterable(sleepy).for_each(str)
    with env.submit() as job:
        service = job.service("sleepy")
        open_call = service.process.remote(1000)
        for call in (service.die, open_call.result, lambda: service.process(0)):
            with pytest.raises(ServiceUnavailable, match="failed in sleepy"):
                call()
        with pytest.raises(WorkerDied, match="SIGKILL"):
            job.result(timeout=60)


def run_script(tmp_path, text, *arguments, **options):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    path = os.pathsep.join([entry for entry in sys.path if entry])
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.race
def test_the_workers_of_a_driver_that_is_killed_exit(tmp_path):
    script = """
        import os, sys, threading
        from sage_flow import LocalEnvironment
        from sage_flow.executors.processes import ProcessExecutor

        env = LocalEnvironment("test", executor=ProcessExecutor())
        path = sys.argv[1]
        env.from_collection(range(2)).rebalance().for_each(
            lambda n, path=path: (open(path, "a").write(f"{os.getpid()}\\n"), threading.Event().wait(600)),
            parallelism=2,
        )
        env.execute()
    """
    with run_script(tmp_path, script, tmp_path / "pids") as driver:
        while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
            assert driver.poll() is None, driver.stderr.read()
            threading.Event().wait(0.01)
        workers = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(set(workers)) == 2
        driver.kill()
        driver.wait()
        try:
            for _ in range(1000):
                if not any(map(is_alive, workers)):
                    break
                threading.Event().wait(0.01)
            assert not [pid for pid in workers if is_alive(pid)]
        finally:
            for pid in filter(is_alive, workers):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_cannot_import_says_what_is_missing(tmp_path, monkeypatch, capfd):
    """A module that the driver has and a worker has not."""
    (tmp_path / "only_here.py").write_text("class Step:\n    def __call__(self, n):\n        return n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    env = environment()
    env.from_collection([1]).map(only_here.Step(), name="step").collect()
    (tmp_path / "only_here.py").unlink()
    monkeypatch.undo()
    try:
        with pytest.raises(Exception) as caught:
            env.submit().result(timeout=60)
    finally:
        del sys.modules["only_here"]
    assert not isinstance(caught.value, TimeoutError)
    assert "only_here" in str(caught.value)


def test_classes_of_main_are_records_exceptions_and_services(tmp_path):
    script = """
        import dataclasses, enum, sys
        from sage_flow import Function, LocalEnvironment, Service
        from sage_flow.executors.processes import ProcessExecutor

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass(frozen=True)
        class Row:
            n: int
            colour: Colour = Colour.RED

        class Refused(Exception):
            def __init__(self, row, why):
                super().__init__(why)
                self.row = row

        class Doubler(Service):
            def process(self, row):
                return Row(row.n * 2)

        class Check(Function):
            def __call__(self, row):
                if row.n == 8:
                    raise Refused(row, "too big")
                return row

        def pipeline(items):
            env = LocalEnvironment("main", 2, executor=ProcessExecutor())
            env.register_service("doubler", Doubler)
            rows = env.from_collection([Row(n) for n in items]).rebalance()
            rows = rows.map(lambda row, ctx: ctx.service(Doubler).process(row))
            rows.key_by(lambda row: row).map(Check).collect("rows")
            return env

        if __name__ == "__main__":
            rows = pipeline(range(4)).execute().collected["rows"]
            assert set(rows) == {Row(n * 2) for n in range(4)}, rows
            assert all(type(row) is Row and row.colour is Colour.RED for row in rows)
            try:
                pipeline([4]).execute()
            except Refused as error:
                assert error.row == Row(8) and type(error.row) is Row
                assert str(error) == "too big"
                print("refused")
    """
    with run_script(tmp_path, script) as done:
        stdout, stderr = done.communicate(timeout=60)
    assert stdout == "refused\n", stderr
    assert not list(tmp_path.glob("sage-flow-*"))


def test_ctrl_c_ends_the_job_and_goes_on_as_keyboard_interrupt(tmp_path):
    script = """
        import os, sys, threading
        from sage_flow import LocalEnvironment
        from sage_flow.executors.processes import ProcessExecutor
        env = LocalEnvironment("test", executor=ProcessExecutor() if sys.argv[2] == "processes" else None)
        path = sys.argv[1]

        def count():
            n = 0
            while True:
                if n == 1000:
                    open(path, "w").write("running\\n")
                yield n
                n += 1

        env.from_iterable(count).for_each(lambda n: None)
        try:
            env.execute()
        except KeyboardInterrupt:
            print("interrupted")
    """
    for executor in ("threads", "processes"):
        sign = tmp_path / executor
        with run_script(tmp_path, script, sign, executor, start_new_session=True) as driver:
            await_line(sign)
            driver.send_signal(signal.SIGINT)
            stdout, stderr = driver.communicate(timeout=60)
        assert stdout == "interrupted\n", stderr
    assert not list(tmp_path.glob("sage-flow-*"))
