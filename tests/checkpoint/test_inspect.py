"""What a storage and a checkpoint show to people, also without the classes of the job, and when files are damaged."""

import sys
import types
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

import pytest

from sage_flow import FixedDelay, LocalEnvironment
from sage_flow.checkpoint.inspect import checkpoint_of, stored_runs
from sage_flow.checkpoint.lenient import Lenient
from sage_flow.checkpoint.storage import open_storage
from sage_flow.errors import CheckpointError, CheckpointMissing, PipelineError
from sage_flow.wire import by_value

JOB_CODE = """
from dataclasses import dataclass
from enum import Enum

class Color(Enum):
    RED = 1

@dataclass
class Bid:
    price: int
    color: Color

@dataclass(frozen=True, slots=True)
class Slotted:
    price: int

class Basket(dict):
    pass

class Prices(list):
    pass
"""


def waits(value):
    import time

    time.sleep(0.001)
    return value


def remembers(value, ctx):
    ctx.state.value("last").set(value)
    return [value]


def stopped_job(storage, name="job", **options):
    """Run a job and stop it; return the path of its last checkpoint."""
    env = LocalEnvironment(name, parallelism=2, restart=FixedDelay(attempts=1))
    env.enable_checkpointing(storage, interval=timedelta(milliseconds=20), **options)
    numbers = env.from_collection(range(100_000), name="numbers").map(waits)
    numbers.key_by(lambda n: n % 5).count(name="counted").collect("rows")
    numbers.key_by(lambda n: f"key {n % 3}").process(remembers, name="remembers").for_each(abs)
    with env.submit() as job:
        while not any(info.failed is None for info in job.checkpoints()):
            job.wait(0.01)
        job.stop()
        return [info.path for info in job.checkpoints() if info.failed is None][-1]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    storage = tmp_path_factory.mktemp("storage")
    return str(storage), stopped_job(str(storage))


def test_a_checkpoint_shows_its_operators_and_the_keys_of_their_tables(stored):
    content = checkpoint_of(stored[1])
    found = {operator.name: operator for operator in content.operators()}
    assert found["counted"].keys == {"table": 5}
    assert found["remembers"].keys == {"state last": 3}
    assert (found["counted"].parallelism, found["counted"].kind) == (2, "count")
    assert found["numbers"].others["position"] == 1
    assert found["map-1"].keys == found["map-1"].others == {}
    assert content.missing_classes == []
    assert content.problems == {}


def test_the_entries_of_an_operator_are_shown_by_key(stored):
    entries = list(checkpoint_of(stored[1]).entries("counted"))
    assert sorted(entry.key for entry in entries) == ["0", "1", "2", "3", "4"]
    assert {entry.subtask for entry in entries} <= {1, 2}
    one = list(checkpoint_of(stored[1]).entries("counted", "3"))
    assert [(entry.table, entry.key) for entry in one] == [("table", "3")]
    assert int(one[0].value) > 0
    for written in ("key 1", "'key 1'"):
        assert [entry.key for entry in checkpoint_of(stored[1]).entries("remembers", written)] == ["'key 1'"]
    position = next(checkpoint_of(stored[1]).entries("numbers"))
    assert (position.table, position.key) == ("position", None)


def test_an_operator_that_is_not_there_is_named_beside_those_that_are(stored):
    with pytest.raises(PipelineError, match=r"no operator 'nobody'.*there are: numbers, "):
        list(checkpoint_of(stored[1]).entries("nobody"))


@pytest.mark.parametrize("path", ["", "/tmp", "/x/checkpoints/", "/x/checkpoints/a/b"])
def test_what_is_no_path_of_a_checkpoint_is_refused(path):
    with pytest.raises(PipelineError, match="no path of a checkpoint"):
        checkpoint_of(path)


def test_a_checkpoint_that_is_not_there_or_damaged_is_named(stored, tmp_path):
    with pytest.raises(CheckpointMissing, match="a1-n999"):
        checkpoint_of(stored[1].rpartition("/")[0] + "/a1-n999")
    damaged = tmp_path / "checkpoints" / "a1-n1"
    damaged.parent.mkdir()
    damaged.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="a1-n1"):
        checkpoint_of(str(damaged))


def test_a_damaged_chunk_is_left_out_and_told(stored, tmp_path):
    folder = stored[1].rpartition("/checkpoints/")[0]
    copy = tmp_path / "run"
    import shutil

    shutil.copytree(folder, copy)
    path = f"{copy}/checkpoints/{stored[1].rpartition('/')[2]}"
    part = next(part for part in checkpoint_of(path).metadata.parts if "counted" in part.chain)
    (copy / part.chunks[1]).write_bytes(b"nonsense")
    content = checkpoint_of(path)
    found = {operator.name: operator for operator in content.operators()}
    assert found["counted"].keys["table"] < 5
    assert found["remembers"].keys == {"state last": 3}
    assert list(content.problems) == [part.chunks[1]]


# --- a storage --------------------------------------------------------------------------------------------


def test_a_storage_shows_its_runs_and_their_checkpoints(stored, tmp_path):
    storage = str(tmp_path)
    first = stopped_job(storage, name="a/b", keep=2)
    stopped_job(storage, name="a/b")
    stopped_job(storage, name="other")
    runs = stored_runs(storage, "a/b")
    assert [(run.job, run.state) for run in runs] == [("a/b", "stopped")] * 2
    assert runs[0].checkpoints[-1].path == first
    assert 1 <= len(runs[0].checkpoints) <= 2
    assert {checkpoint.problem for run in runs for checkpoint in run.checkpoints} == {None}
    assert [run.job for run in stored_runs(storage)] == ["a/b", "a/b", "other"]


def test_a_checkpoint_that_was_not_recorded_and_a_damaged_one_are_marked(tmp_path):
    path = stopped_job(str(tmp_path))
    folder, _, name = path.rpartition("/")
    run = open_storage(folder.removesuffix("/checkpoints"))
    number = int(name.partition("-n")[2])
    run.write(f"checkpoints/a1-n{number + 1}", run.read(f"checkpoints/{name}"))
    run.write(f"checkpoints/a1-n{number + 2}", b"nonsense")
    problems = [checkpoint.problem for checkpoint in stored_runs(str(tmp_path))[0].checkpoints][-3:]
    assert problems[:2] == [None, "its job ended before it was recorded"]
    assert "no file of sage_flow" in problems[2]
    run.write("log/000000000099", b"nonsense")
    assert "its log cannot be read" in stored_runs(str(tmp_path))[0].state


def test_a_place_without_runs_says_so(tmp_path):
    with pytest.raises(PipelineError, match="no run is stored there"):
        stored_runs(str(tmp_path))
    with pytest.raises(PipelineError, match="no run of job 'x' is stored there"):
        stored_runs(str(tmp_path), "x")


# --- classes that are not there ---------------------------------------------------------------------------


@pytest.fixture
def job_module():
    """A module of the job, which is gone after the block that pickles."""
    module = types.ModuleType("vanishing_job")
    sys.modules["vanishing_job"] = module
    exec(JOB_CODE, vars(module))
    yield module
    sys.modules.pop("vanishing_job", None)


def test_objects_of_missing_classes_are_shown_by_what_is_stored(job_module):
    job = job_module
    values = [job.Bid(7, job.Color.RED), job.Slotted(8), job.Basket(a=1), job.Prices([1, 2]), {job.Color.RED: 3}, 4]
    blob = by_value.dumps_state(values)
    del sys.modules["vanishing_job"]
    lenient = Lenient()
    shown = [repr(value) for value in lenient.loads(blob)]
    assert shown[0] in ("Bid(price=7, color=Color(1))", "Bid(price=7, color=Color.RED)")
    assert shown[1:4] == ["Slotted(8)", "Basket([('a', 1)])", "Prices([1, 2])"]
    assert shown[5] == "4"
    assert {"vanishing_job.Bid", "vanishing_job.Slotted", "vanishing_job.Basket"} <= lenient.missing


def test_a_class_that_is_named_in_the_state_and_in_no_program_is_stood_in_for():
    class Local:
        def __init__(self):
            self.count = 3

    blob = by_value.dumps_state({"a": Local()})
    name = Local.__qualname__.encode()
    renamed = blob.replace(name, name[:-5] + b"Gone!")  # as in a process that has never had it
    lenient = Lenient()
    assert repr(lenient.loads(renamed)["a"]).endswith("Gone!(count=3)")
    assert len(lenient.missing) == 1


def test_a_class_whose_objects_cannot_be_made_any_more_is_stood_in_for(job_module):
    def refuses(self, state):
        raise ValueError("an older version")

    blob = by_value.dumps_state([job_module.Bid(7, None), 5])
    job_module.Bid.__setstate__ = refuses
    assert repr(Lenient().loads(blob)) == "[Bid(price=7, color=None), 5]"


def test_no_module_of_a_user_is_run_for_a_function_that_is_stored(tmp_path, monkeypatch):
    (tmp_path / "runs_a_job.py").write_text("raise SystemExit('this must not run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = types.ModuleType("runs_a_job")
    monkeypatch.setitem(sys.modules, "runs_a_job", module)
    used = module

    blob = by_value.dumps_state([lambda: used, 6])
    monkeypatch.delitem(sys.modules, "runs_a_job")
    assert Lenient().loads(blob)[1] == 6


@dataclass
class Here:
    price: int


class Kind(Enum):
    ONE = 1


def test_classes_that_are_here_come_back_as_they_are():
    lenient = Lenient()
    assert lenient.loads(by_value.dumps_state([Here(1), Kind.ONE])) == [Here(1), Kind.ONE]
    assert lenient.missing == set()
