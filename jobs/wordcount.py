"""The most frequent words of text files, by default of this project's own pages.

sage-flow run jobs/wordcount.py --option paths='docs/*.md' --option top=5
"""

from __future__ import annotations

if __name__ == "__main__":  # python jobs/wordcount.py = sage-flow run jobs/wordcount.py
    from sage_flow.cli import run_file

    raise SystemExit(run_file(__file__))

from dataclasses import dataclass
from pathlib import Path

from operators.documents import pages_of
from operators.ranking import first
from operators.text import words
from sage_flow import Environment, JobResult

_PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """What --option sets.

    Attributes:
        paths: files or globs; by default README.md and docs/ of the project.
        top: how many words to show.
        min_length: letters; shorter words are not counted.
    """

    paths: tuple[str, ...] = ()
    top: int = 20
    min_length: int = 4


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    own_pages = [str(_PROJECT / page) for page in pages_of(_PROJECT)]
    long_words = (
        env.read_text(options.paths or own_pages, name="lines")
        .flat_map(words, name="words")
        .filter(lambda word: len(word) >= options.min_length, name="long words")
    )
    counts = long_words.key_by(lambda word: word).count(emit="final", name="counts")
    first(counts, options.top, order=lambda pair: (-pair[1], pair[0]), name="top words").collect("top")


def report(result: JobResult, options: Options) -> None:
    """Print the words with a bar each."""
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table

    top: list[tuple[str, int]] = result.collected["top"]
    table = Table("word", "times", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for word, count in top:
        table.add_row(word, f"{count:,}", Bar(top[0][1], 0, count, width=40, color="cyan"))
    different, all_words = result.counts["counts"], result.counts["long words"]
    console = Console()
    console.print(f"{all_words:,} words of {options.min_length} letters or more, {different:,} different\n")
    console.print(table)
