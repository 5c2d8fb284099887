"""jobs/wordcount.py against collections.Counter."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from sage_flow import LocalEnvironment
from sage_flow.cli import main
from sage_flow.cli.jobfile import load_job

JOB = Path(__file__).parents[2] / "jobs" / "wordcount.py"
TEXT = "The cat, the dog and the bird.\nA dog's life; and a cat-like CAT!\n"


@pytest.fixture(autouse=True)
def _search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def top_words(env, *given):
    job = load_job(JOB)
    job.build_pipeline(env, job.options(given))
    return env.execute(progress=False).collected["top"]


@pytest.mark.on_ray
def test_the_most_frequent_words_come_first(mode, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    found = top_words(mode.environment(), f"paths={tmp_path}/a.txt", "top=4", "min_length=3")
    assert found == [("the", 3), ("and", 2), ("cat", 2), ("bird", 1)]


def test_several_files_and_globs_are_one_text(tmp_path):
    for name in ("a.txt", "b.txt", "c.md", "d.log"):
        (tmp_path / name).write_text("word\n")
    env = LocalEnvironment()
    assert top_words(env, f"paths={tmp_path}/*.txt, {tmp_path}/c.md", "top=1") == [("word", 3)]


def test_short_words_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    by_default = {word for word, _ in top_words(LocalEnvironment(), f"paths={tmp_path}/a.txt")}
    assert by_default == {"bird", "dog's", "life", "cat-like"}


def test_by_default_it_reads_the_pages_of_the_project():
    pages = [JOB.parents[1] / "README.md", *(JOB.parents[1] / "docs").rglob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages).lower()
    counts = Counter(word for word in re.findall(r"[a-zäöüß'’-]+", text) if word in ("sage", "pipeline", "which"))
    found = dict(top_words(LocalEnvironment(), "top=100000"))
    assert len(pages) >= 2
    assert found["pipeline"] >= 5
    assert found["which"] == counts["which"] > 0


def test_the_report_shows_words_and_totals(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["run", str(JOB), "--option", "paths=a.txt", "--option", "top=2", "--option", "min_length=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 words of 3 letters or more, 8 different"
    assert lines[3].split() == ["the", "3", "█" * 40]
    assert [line.split()[:2] for line in lines[3:]] == [["the", "3"], ["and", "2"]]


def test_a_path_that_names_nothing_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(JOB), "--option", "paths=none*.txt"]) == 2
    assert capsys.readouterr().err.startswith("InputError: none*.txt: no such file")
