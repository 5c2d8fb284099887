"""A program as users write it: no event of a user for five minutes, from a file of clicks."""

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from sage_flow import ProcessFunction, RuntimeContext, Timer

MINUTE = 60_000
START = 1_717_200_000_000
BOUND_MS = 30_000


class Click(NamedTuple):
    user: str
    page: str
    ts: int


class Silent(ProcessFunction[Click, "tuple[str, int]"]):
    def process(self, value: Click, ctx: RuntimeContext[Any]) -> None:
        ctx.timers.set("silent", after=timedelta(minutes=5))  # replaces the one before

    def on_timer(self, timer: Timer, ctx: RuntimeContext[Any]) -> Iterator[tuple[str, int]]:
        if not timer.at_end:
            yield ctx.key, timer.timestamp


def clicks_of(seed):
    """Each user clicks for a while, at most every four minutes; the records are a little out of order."""
    chosen = random.Random(seed)
    clicks = []
    for number in range(40):
        at = START + chosen.randrange(50 * MINUTE)
        for page in range(chosen.randrange(1, 8)):
            clicks.append(Click(f"user{number}", f"page{page}", at))
            at += chosen.randrange(4 * MINUTE)
    return sorted(clicks, key=lambda click: click.ts + chosen.randrange(BOUND_MS))


def silent_users(clicks):
    """Those whose last click was more than five minutes before the last watermark, and the end of these minutes."""
    last = {}
    for click in clicks:
        last[click.user] = max(last.get(click.user, click.ts), click.ts)
    watermark = max(click.ts for click in clicks) - BOUND_MS
    return sorted((user, ts + 5 * MINUTE) for user, ts in last.items() if ts + 5 * MINUTE < watermark)


@pytest.mark.parametrize("seed", [1, 2])
def test_users_who_were_silent_for_five_minutes_are_found(mode, tmp_path, seed):
    clicks = [click for click in clicks_of(seed) if click.ts >= START]
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(click._asdict()) + "\n" for click in clicks))
    env = mode.environment()
    stream = (
        env.read_jsonl(str(path))
        .map(lambda d: Click(d["user"], d["page"], d["ts"]))
        .assign_timestamps(lambda c: c.ts, max_out_of_order=timedelta(seconds=30))
    )
    silent = stream.key_by(lambda c: c.user).process(Silent)
    silent.collect("times")
    silent.map(lambda a: a[0].upper()).collect("alerts")
    result = env.execute(progress=False).collected
    expected = silent_users(clicks)
    assert 10 < len(expected) < 40
    assert sorted(user for user, _ in result["times"]) == [user for user, _ in expected]
    assert sorted(result["alerts"]) == sorted(user.upper() for user, _ in expected)
