"""Cases of late, early, idle and negative event time with the windows that are right for them, in every mode.

`late_cases.json` has the steps of each case (events, watermarks that a partition declares, idleness) and what must come
of them. A case of cadence "per_event" holds if the watermark follows each record; one of cadence "any" holds whenever
it moves.
"""

import json
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest
from cutting import cut_subtasks

from sage_flow import LocalEnvironment, SessionWindow, SlidingWindow, TumblingWindow
from sage_flow.aggregates import Count, Max, Min, Sum
from sage_flow.testing import MODES, Event, SplitIdle, SplitWatermark, TestSource

CASES = {case["name"]: case for case in json.loads((Path(__file__).parent / "late_cases.json").read_text())}


def milliseconds(number):
    return timedelta(milliseconds=number)


def window_of(params):
    match params["op"]:
        case "tumbling":
            return TumblingWindow(milliseconds(params["size"]), offset=milliseconds(params.get("offset", 0)))
        case "sliding":
            return SlidingWindow(
                milliseconds(params["size"]),
                milliseconds(params["slide"]),
                offset=milliseconds(params.get("offset", 0)),
            )
        case "session":
            return SessionWindow(milliseconds(params["gap"]), touching=params["session_touch"])


def steps_of(case):
    for kind, *step in case["input"]:
        match kind, step:
            case "e", [key, value, ts, *partition]:
                yield Event((key, value, ts), str(*partition or [0]))
            case "wm", [timestamp, partition]:
                yield SplitWatermark(timestamp, str(partition))
            case "idle", [partition]:
                yield SplitIdle(str(partition))


class Partitions(TestSource):
    """A script with as many partitions as the case says, also those that have no step."""

    def __init__(self, case):
        super().__init__(list(steps_of(case)))
        self.partitions = [str(number) for number in range(case["params"].get("partitions", 1))]

    def splits_read(self):
        return self.partitions


def value_of(record):
    return record[1]


def run(env, case, *, every_record, parallelism=None):
    params = case["params"]
    timed = env.from_source(Partitions(case)).assign_timestamps(
        lambda record: record[2], max_out_of_order=milliseconds(params["bound"]), every_record=every_record
    )
    windows = timed.key_by(lambda record: record[0]).window(
        window_of(params), allowed_lateness=milliseconds(params["lateness"])
    )
    results = windows.aggregate(
        count=Count(), sum=Sum(value_of), min=Min(value_of), max=Max(value_of), parallelism=parallelism
    )
    results.collect("results")
    results.late_records().collect("late")
    return env.execute(progress=False)


def check(case, result, *, keeps_order):
    rows = [(r.key, r.start, r.end, r.value) for r in result.collected["results"]]
    last = {}
    for key, start, end, value in rows:
        if case["params"]["op"] == "session":  # a merged session supersedes those that it was made of
            for other in [o for o in last if o[0] == key and start <= o[1] and o[2] <= end]:
                del last[other]
        last[key, start, end] = value
    final = sorted([*window, v["count"], v["sum"], v["min"], v["max"]] for window, v in last.items())
    assert final == sorted(case["expected"]["final"])
    assert sorted(map(list, result.collected["late"])) == sorted(case["expected"]["late"])
    assert sum(result.late_records.values()) == len(case["expected"]["late"])
    if keeps_order and "firings" in case["expected"]:
        firings = [[key, start, end, v["count"], v["sum"]] for key, start, end, v in rows]
        assert in_order(firings) == in_order(case["expected"]["firings"])


def in_order(firings):
    """The firings, those of one window by their keys: which of them comes first is open."""
    groups = groupby(firings, key=lambda firing: firing[1:3])
    return [sorted(group, key=repr) for _, group in groups]


@pytest.mark.parametrize("name", CASES)
def test_a_case_holds_with_a_watermark_behind_each_record(mode, name):
    result = run(mode.environment(), CASES[name], every_record=True, parallelism=2)
    check(CASES[name], result, keeps_order=False)


@pytest.mark.parametrize("name", CASES)
def test_the_windows_fire_in_the_order_of_the_case(name):
    result = run(MODES[0].environment(), CASES[name], every_record=True)
    check(CASES[name], result, keeps_order=True)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["cadence"] == "any"])
def test_what_does_not_depend_on_the_cadence_holds_with_any(mode, name):
    result = run(mode.environment(), CASES[name], every_record=False)
    check(CASES[name], result, keeps_order=False)


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_case_holds_whenever_its_subtasks_are_cut_and_restored(name, parallelism, monkeypatch):
    for seed in range(3):
        cuts = cut_subtasks(monkeypatch, seed)
        result = run(LocalEnvironment("cut", parallelism), CASES[name], every_record=True)
        check(CASES[name], result, keeps_order=parallelism == 1)
        monkeypatch.undo()
        assert cuts or not CASES[name]["input"]
