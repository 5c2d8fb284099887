"""Files that two operators of a job cannot share."""

import re

import pytest

from sage_flow import LocalEnvironment
from sage_flow.errors import PipelineError


def refused(env):
    with pytest.raises(PipelineError) as caught:
        env.submit()
    return str(caught.value)


@pytest.fixture
def env():
    return LocalEnvironment("test")


@pytest.fixture
def numbers(env):
    return env.from_collection([1, 2, 3]).map(str)


def test_two_sinks_on_one_path_are_refused_by_name_and_line(env, numbers, tmp_path):
    numbers.write_text(tmp_path / "out.txt", name="first")
    numbers.write_jsonl(tmp_path / "out.txt", name="second")
    path = re.escape(str(tmp_path / "out.txt"))
    assert re.match(
        r"'first' \(.*test_file_conflicts\.py:\d+\) and 'second' \(.*test_file_conflicts\.py:\d+\)"
        rf" both write {path}: give one of them another path, or write the union",
        refused(env),
    )


def test_one_file_is_one_path_however_it_is_written(env, numbers, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    numbers.write_text(tmp_path / "link" / "out.txt")
    numbers.write_text("real/../real/out.txt")
    assert "both write" in refused(env)


def test_a_link_and_what_it_points_to_are_one_path(env, numbers, tmp_path):
    (tmp_path / "link.txt").symlink_to("out.txt")
    numbers.write_text(tmp_path / "out.txt")
    numbers.write_text(tmp_path / "link.txt")
    assert "both write" in refused(env)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 3), (2, 2)])
def test_parts_of_two_sinks_do_not_share_a_name(first, second, env, numbers, tmp_path):
    numbers.write_text(tmp_path / "out.txt", parallelism=first)
    numbers.write_text(tmp_path / "out.txt", parallelism=second)
    assert "both write" in refused(env)


def test_a_path_that_is_the_name_of_a_part_is_refused(env, numbers, tmp_path):
    numbers.write_text(tmp_path / "out.txt", parallelism=2)
    numbers.write_text(tmp_path / "out-00001-of-00002.txt")
    assert "both write" in refused(env)


def test_sinks_on_other_paths_and_on_devices_are_let_through(env, numbers, tmp_path):
    numbers.write_text(tmp_path / "a.txt")
    numbers.write_text(tmp_path / "b.txt")
    numbers.write_text("/dev/null")
    numbers.write_jsonl("/dev/null")
    env.execute()
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text() == "1\n2\n3\n"


def test_a_sink_does_not_write_what_the_job_reads(env, tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("a\n")
    (tmp_path / "link.txt").symlink_to("data.txt")
    env.read_text(data, name="in").write_text(tmp_path / "link.txt", name="out")
    assert re.match(r"'out' \(.*\) writes .*link\.txt, which 'in' \(.*\) reads: write to another name", refused(env))


def test_the_output_of_the_last_run_is_not_read_as_input_of_the_next(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")

    def run():
        env = LocalEnvironment("test")
        env.read_text(tmp_path / "*.txt").write_text(tmp_path / "all.txt")
        env.execute()

    run()
    with pytest.raises(PipelineError, match=r"all\.txt, which 'text-1' .* reads"):
        run()
    assert (tmp_path / "all.txt").read_text() == "a\n"
