"""Every benchmark runs, and compares what is equal. Times are not looked at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import checkpoints, nexmark, recovery, serving
from benchmarks.__main__ import main
from benchmarks.case import Case, Figure
from benchmarks.cases import CASES
from benchmarks.child import digest, measure
from benchmarks.measure import Measured, Reading, ResultsDiffer, Spread, measure_case
from benchmarks.table import BEGIN, END, replaced, rows_of, tables

PAGE = Path(__file__).parent.parent / "benchmarks/README.md"
IN_FRESH_PROCESSES = ("chain", "call", "processes", "memory-range")  # one of each shape, and the one that forks
ONE_SIZE_IS_ENOUGH = {f"ray-array-{size}{owner}" for size in ("100k", "16m", "128m") for owner in ("", "-own")}
"""Cases that differ from `ray-array-1m` and `ray-array-1m-own` by their size only; `make soak` runs them."""


def case(figure: Figure = Figure.SPEED, bar: float | None = None, clock: str = "cpu") -> Case:
    return Case("some", "what", 10, 2, lambda n, folder: n, abs, abs, figure, bar, clock=clock, rounds=3)


def reading(seconds: float, peak_mb: float = 25.0) -> Reading:
    return Reading(seconds * 2, seconds, peak_mb, None, None, "digest")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.soak] if name in ONE_SIZE_IS_ENOUGH else [])
        for name in CASES
        if name not in IN_FRESH_PROCESSES
    ],
)
def test_the_engine_gives_what_the_loop_gives(name, tmp_path):
    case = CASES[name]
    digests = set()
    for name, side in (("hand", case.hand), ("flow", case.flow)):
        folder = tmp_path / name
        folder.mkdir()
        digests.add(measure(side, case.prepare(case.quick_size, folder))["digest"])
    assert len(digests) == 1


def test_the_command_runs_cases_in_fresh_processes_and_prints_their_tables(capsys):
    assert main(["--quick", *IN_FRESH_PROCESSES]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^\| `([\w-]+)` \|", printed, re.MULTILINE) == ["chain", "processes", "call", "memory-range"]


@pytest.mark.parametrize("arguments", [["no-such-case"], ["--write", "--quick"]])
def test_what_makes_no_sense_is_refused_before_anything_runs(arguments):
    assert main(arguments) == 2


def test_results_that_differ_are_not_compared(monkeypatch):
    different = {side: Reading(1.0, 1.0, 25.0, None, None, side) for side in ("hand", "flow")}
    monkeypatch.setattr("benchmarks.measure.run_child", lambda name, side, size: {side: different[side]})
    with pytest.raises(ResultsDiffer, match="some"):
        measure_case(case(), quick=True)


def test_a_digest_tells_results_and_files_apart(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("1")
    other.write_text("2")
    assert digest([1, 2]) == digest([1, 2]) != digest([2, 1])
    assert digest(path) != digest(other)


def test_the_ratio_is_the_median_of_the_pairs():
    measured = Measured(
        case(), 10, [reading(1.0), reading(8.0), reading(3.0)], [reading(2.0), reading(8.0), reading(4.0)]
    )
    assert measured.ratio("cpu") == Spread(0.75, 0.5, 1.0)
    measured.case = case(Figure.TIMES)
    assert measured.ratio("cpu") == Spread(4 / 3, 1.0, 2.0)


@pytest.mark.parametrize(
    ("figure", "bar", "verdict"),
    [
        (Figure.SPEED, 0.5, "≥ 50 % by CPU: met"),
        (Figure.SPEED, 0.51, "≥ 51 % by CPU: **missed**"),
        (Figure.TIMES, 2.0, "≤ 2.0 x by CPU: met"),
        (Figure.TIMES, 1.9, "≤ 1.90 x by CPU: **missed**"),
        (Figure.GROWTH, 1.2, "≤ 1.20 x: met"),
        (Figure.GROWTH, 1.19, "≤ 1.19 x: **missed**"),
        (Figure.SPEED, None, ""),
    ],
)
def test_a_bar_is_the_least_speed_or_the_most_time_or_growth(figure, bar, verdict):
    hand, flow, tenth = [reading(1.0)] * 3, [reading(2.0, peak_mb=30.0)] * 3, [reading(1.0)] * 3
    table = tables([Measured(case(figure, bar), 10, hand, flow, tenth)])
    assert table.splitlines()[-1].split("|")[-2].strip() == verdict


def test_a_quick_run_says_nothing_about_a_bar():
    table = tables([Measured(case(bar=0.5), 2, [reading(1.0)], [reading(9.0)])])
    assert "missed" not in table


def test_rows_of_other_cases_are_kept_in_the_order_of_all():
    one, two = case(), case()
    two = Case(**{**vars(two), "name": "other"})
    first = tables([Measured(one, 10, [reading(1.0)], [reading(9.0)])])
    kept = rows_of(f"{BEGIN}{first}{END}")
    both = tables([Measured(two, 10, [reading(1.0)], [reading(2.0)])], kept, [two, one])
    assert [line.split("|")[1].strip() for line in both.splitlines()[4:]] == ["`other`", "`some`"]
    assert first.splitlines()[-1] in both


def test_only_what_is_between_the_markers_is_replaced():
    page = f"before {BEGIN} old {END} after"
    assert replaced(page, "new") == f"before {BEGIN}\n\nnew\n{END} after"
    with pytest.raises(ValueError, match="measured"):
        replaced("no markers", "new")


def test_the_page_has_a_place_for_the_tables_and_names_every_case_with_a_bar():
    page = PAGE.read_text(encoding="utf-8")
    replaced(page, "")
    for name, one in CASES.items():
        if one.bar is not None and not name.startswith("memory-"):
            assert f"| `{name}` |" in page


def test_a_row_of_the_recoveries_has_medians_and_says_whether_their_bar_is_met():
    found = [recovery.Recovery(0.1, 1.0), recovery.Recovery(0.2, 3.0), recovery.Recovery(0.3, 1.5)]
    assert recovery.row("kept", found, 2.0) == (
        "| kept | 3 | **0.20 s** (0.10 - 0.30) | **1.50 s** (1.00 - 3.00) | ≤ 2 s: met |"
    )
    assert recovery.row("new", found, 1.0).endswith("| ≤ 1 s: missed |")
    assert recovery.row("new", found, None).endswith("|  |")


def test_the_command_for_nexmark_prints_a_line_for_each_query(capsys):
    assert nexmark.main(["--events", "500", "q5", "q8"]) == 0
    assert re.findall(r"^(q\d+) +[\d,]+$", capsys.readouterr().out, re.MULTILINE) == ["q5", "q8"]


def test_the_command_for_nexmark_refuses_an_unknown_query(capsys):
    with pytest.raises(SystemExit):
        nexmark.main(["q6"])
    assert "no query q6; there are q0, q1" in capsys.readouterr().err


def test_a_row_of_served_models_has_both_sides_and_says_whether_the_bar_is_met():
    found = [serving.Serving(500.0, 9000.0), serving.Serving(400.0, 8000.0), serving.Serving(600.0, 8500.0)]
    rate = serving.row("rate", found, "{:.0f}/s".format, 15.0, more_is_better=True)
    assert rate == "| rate | 500/s | 8500/s | **17** | ≥ 15: met |"
    assert serving.row("time", found, str, 0.5, more_is_better=False).endswith("| ≤ 0.5: missed |")


@pytest.mark.parametrize("one", [recovery, serving])
def test_the_page_has_a_place_for_what_is_measured_on_ray(one):
    written = replaced(PAGE.read_text(encoding="utf-8"), "| the table |\n", one.BEGIN, one.END)
    assert f"{one.BEGIN}\n\n| the table |\n\n{one.END}" in written


def test_a_figure_of_checkpoints_says_whether_its_bar_is_met():
    figure = checkpoints.CheckpointFigure("restore", 1.0412, "x", 1.67, "3 times")
    assert str(figure) == "| restore | **1.04 x** | 3 times | ≤ 1.67 x: met |"
    assert str(figure._replace(value=2.0)).endswith("missed |")
