"""A job has finished and could not publish all of its files: a later start publishes the others."""

import pytest

from sage_flow import LocalEnvironment
from sage_flow.connectors import prepared_file
from sage_flow.errors import InputError
from sage_flow.executors.simulation import SimulationExecutor


def run(folder, parallelism):
    executor = SimulationExecutor()
    env = LocalEnvironment("late", parallelism, executor=executor)
    env.enable_checkpointing(f"{folder}/kept", restore="latest")
    env.from_collection([str(n) for n in range(100)]).rebalance().write_text(
        folder / "out.txt", parallelism=parallelism
    )
    env.execute()


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_what_could_not_be_published_is_published_by_a_start_of_any_parallelism(tmp_path, monkeypatch, parallelism):
    right = prepared_file._check_length

    def check(prepared):
        if prepared.path.endswith("00001-of-00002.txt"):
            raise InputError("the disk is gone")
        right(prepared)

    with monkeypatch.context() as patched:
        patched.setattr(prepared_file, "_check_length", check)
        with pytest.raises(InputError, match="the disk is gone"):
            run(tmp_path, 2)
    assert [file.name for file in tmp_path.glob("out*")] == ["out-00000-of-00002.txt"]
    run(tmp_path, parallelism)
    files = sorted(tmp_path.glob("out*"))
    assert [file.name for file in files] == ["out-00000-of-00002.txt", "out-00001-of-00002.txt"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(lines, key=int) == [str(n) for n in range(100)]
    assert not list(tmp_path.glob(".out*"))
