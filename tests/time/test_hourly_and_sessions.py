"""Two programs on files: hourly counts with late records, and sessions of clicks."""

import csv
import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import NamedTuple
from zoneinfo import ZoneInfo

from sage_flow import SessionWindow, TumblingWindow, to_timestamp

HOUR_MS = 3_600_000


class Click(NamedTuple):
    user: str
    page: str
    ts: int


def test_hourly_counts_in_local_time_with_late_records(mode, tmp_path):
    zone = ZoneInfo("America/New_York")
    begin = datetime(2013, 3, 9, 20, tzinfo=zone)  # over the night in which clocks are set forward
    times = [(begin.astimezone(timezone.utc) + timedelta(minutes=7 * n)).astimezone(zone) for n in range(200)]
    rows = [("JFK" if n % 3 else "LGA", time.strftime("%Y-%m-%d %H:%M:%S")) for n, time in enumerate(times)]
    rows.append(("JFK", rows[0][1]))  # a day late
    path = tmp_path / "flights.csv"
    path.write_text("origin,time_hour\n" + "".join(f"{origin},{time}\n" for origin, time in rows))
    env = mode.environment(parallelism=1)  # with more, which records are late depends on when an empty input ends
    flights = env.read_csv(str(path)).assign_timestamps(
        lambda row: to_timestamp(row["time_hour"], tz="America/New_York"),
        max_out_of_order=timedelta(hours=1),
        every_record=True,
    )
    hourly = flights.key_by(lambda row: str(row["origin"])).window(TumblingWindow(timedelta(hours=1))).count()
    hourly.write_csv(str(tmp_path / "hourly.csv"))
    hourly.late_records().map(lambda row: row["origin"]).write_jsonl(str(tmp_path / "late.jsonl"))
    env.execute(progress=False)
    with (tmp_path / "hourly.csv").open(newline="") as file:
        found = {(row["key"], int(row["start"])): int(row["value"]) for row in csv.DictReader(file)}
    stamps = [int(time.timestamp() * 1000) for time in times]
    expected = Counter(("JFK" if n % 3 else "LGA", stamp // HOUR_MS * HOUR_MS) for n, stamp in enumerate(stamps))
    assert found == expected
    assert json.loads((tmp_path / "late.jsonl").read_text()) == "JFK"


def test_sessions_of_named_tuples_are_written_by_field(mode, tmp_path):
    clicks = [Click("ab"[n % 2], f"/{n}", 1_700_000_000_000 + n * (60_000 if n < 50 else 3_000_000)) for n in range(60)]
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(click._asdict()) + "\n" for click in clicks))
    env = mode.environment()
    read = env.read_jsonl(str(path)).map(lambda d: Click(d["user"], d["page"], d["ts"]))
    timed = read.assign_timestamps(lambda c: c.ts, max_out_of_order=timedelta(seconds=30))
    sessions = timed.key_by(lambda c: c.user).window(SessionWindow(timedelta(minutes=30))).to_list()
    sessions.map(lambda s: (s.key, s.start_time, len(s.value), s.value[-1].page)).collect("sessions")
    sessions.write_jsonl(str(tmp_path / "sessions.jsonl"))
    result = env.execute(progress=False)
    by_user = {user: [click for click in clicks if click.user == user] for user in "ab"}
    expected = []
    for user, mine in by_user.items():
        begun = [n for n, click in enumerate(mine) if n == 0 or click.ts - mine[n - 1].ts >= 1_800_000]
        for first, end in zip(begun, [*begun[1:], len(mine)], strict=True):
            start = datetime.fromtimestamp(mine[first].ts / 1000, timezone.utc)
            expected.append((user, start, end - first, mine[end - 1].page))
    assert sorted(result.collected["sessions"]) == sorted(expected)
    written = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert all(set(session["value"][0]) == {"user", "page", "ts"} for session in written)
    assert len(written) == len(expected)
