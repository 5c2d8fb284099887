"""Event time over files: each file has a clock of its own, so the order in which files are read loses no record."""

import json
from datetime import timedelta

import pytest

from sage_flow import TumblingWindow


def _csv(path, times):
    path.write_text("t\n" + "".join(f"{time}\n" for time in times))


def _jsonl(path, times):
    path.write_text("".join(json.dumps({"t": time}) + "\n" for time in times))


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize(("read", "write"), [("read_csv", _csv), ("read_jsonl", _jsonl)])
def test_files_whose_times_are_in_the_wrong_order_lose_no_record(mode, tmp_path, parallelism, read, write):
    write(tmp_path / "a", range(100_000, 110_000, 100))  # later than all of b
    write(tmp_path / "b", range(0, 10_000, 100))
    env = mode.environment(parallelism=parallelism)
    rows = getattr(env, read)([tmp_path / "a", tmp_path / "b"], parallelism=parallelism)
    timed = rows.assign_timestamps(lambda row: int(row["t"]), max_out_of_order=timedelta(0))
    windows = timed.key_by(lambda row: int(row["t"]) // 50_000).window(TumblingWindow(timedelta(seconds=10)))
    windows.count().map(lambda result: result.value).collect("counts")
    result = env.execute(progress=False)
    assert sorted(result.collected["counts"]) == [100, 100]
    assert not result.late_records
