"""Run benchmarks and print their tables: `python -m benchmarks [--quick | --write] [CASE ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.measure import ResultsDiffer, measure_case
from benchmarks.table import replaced, rows_of, tables

__all__ = ["main"]

_PAGE = Path(__file__).parent / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if a result was not that of the hand-written loop."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    if options.write and options.quick:
        print("--write takes runs that count: not --quick", file=sys.stderr)
        return 2
    try:
        measured = [measure_case(CASES[name], quick=options.quick, report=_report) for name in options.cases or CASES]
    except ResultsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    text = f"{_machine()}\n\n{tables(measured)}"
    print(text)
    if options.write:
        page = _PAGE.read_text(encoding="utf-8")
        text = f"{_machine()}\n\n{tables(measured, rows_of(page), CASES.values())}"
        _PAGE.write_text(replaced(page, text), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("cases", metavar="CASE", nargs="*", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="each case small and once: shows that it works, no more")
    parser.add_argument("--write", action="store_true", help="put the rows into the tables of benchmarks/README.md")
    return parser


def _machine() -> str:
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    return f"Measured with {implementation} on {platform.system()}, {os.cpu_count()} cores."


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
