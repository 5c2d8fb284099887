"""The command line: `sage-flow` and its commands, and `run_file`, by which a job file runs as a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_flow.cli.program import main, run_file

__all__ = ["main", "run_file"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: parts of the engine need `cli.console`, and not the parser of commands.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sage_flow.cli import program

    return getattr(program, name)
