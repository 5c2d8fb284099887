"""Counts the visits of each page, slowly enough to be killed meanwhile: the job of docs/fault-tolerance.md.

sage-flow run jobs/visits.py --checkpoints kept --checkpoint-interval 500ms
"""

from __future__ import annotations

if __name__ == "__main__":  # python jobs/visits.py = sage-flow run jobs/visits.py
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

import time
from dataclasses import dataclass

from operators.ranking import first
from sage_flow import Environment, JobResult

_PAGES = ("home", "search", "cart", "help", "about", "news", "jobs")


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        visits: how many there are.
        per_second: how fast they come.
        out: the file with one line for each visit: the page, and how often it was visited so far.
    """

    visits: int = 20_000
    per_second: int = 2_500
    out: str = "visits.csv"


@dataclass(frozen=True)
class Paced:
    """Passes records on, at most so many in a second."""

    per_second: int

    def __call__(self, number: int) -> int:
        time.sleep(1 / self.per_second)
        return number


def page_of(number: int) -> str:
    """The page of a visit; some are visited more often than others.

    >>> page_of(0), page_of(10)
    ('home', 'help')
    """
    return _PAGES[number * number % 97 % len(_PAGES)]


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    numbers = env.from_collection(range(options.visits), name="visits")
    pages = numbers.map(Paced(options.per_second), name="paced").map(page_of, name="pages")
    by_page = pages.key_by(lambda page: page)
    by_page.count(name="so far").write_csv(options.out, fieldnames=["page", "visits"])
    counts = by_page.count(emit="final", name="counts")
    first(counts, 3, order=lambda pair: (-pair[1], pair[0]), name="top pages").collect("top")


def report(result: JobResult, options: Options) -> None:
    """Print the pages that were visited most."""
    top: list[tuple[str, int]] = result.collected["top"]
    print("most visited:", ", ".join(f"{page} {visits:,}" for page, visits in top))
