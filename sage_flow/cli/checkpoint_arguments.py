"""The options of `sage-flow run` and `submit` for checkpoints: durations, and what they change in the job's own."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from sage_flow.checkpoint.options import LATEST, CheckpointOptions
from sage_flow.cli.console import tell
from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    from sage_flow.environment import Environment

__all__ = [
    "add_checkpoint_options",
    "apply_checkpoints",
    "check_reachable",
    "duration",
    "passed_on",
    "told_checkpoints",
]

_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000}
_LOG: Final = "sage_flow.checkpoints"


def duration(text: str) -> timedelta:
    """Read a duration of the command line. Raises ArgumentTypeError.

    >>> str(duration("10s")), str(duration("500ms")), str(duration("1.5m"))
    ('0:00:10', '0:00:00.500000', '0:01:30')
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h)\s*", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write a number and its unit, as 500ms, 10s, 2m, 1h")
    milliseconds = Fraction(match[1]) * _UNITS[match[2]]
    if milliseconds != int(milliseconds) or milliseconds == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of milliseconds, at least 1ms")
    return timedelta(milliseconds=int(milliseconds))


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Of `run` and of `submit`."""
    group = parser.add_argument_group("checkpoints", "They take the place of what the job file says of checkpoints.")
    group.add_argument("--checkpoints", metavar="URL", help="store checkpoints below this path or URL")
    group.add_argument(
        "--checkpoint-interval", type=duration, metavar="TIME", help="from one to the next: 500ms, 10s, 2m; default 10s"
    )
    group.add_argument(
        "--restore",
        metavar="latest|PATH",
        help="go on with the latest run of the job, or begin with the checkpoint of this path",
    )
    group.add_argument(
        "--allow-dropped",
        action="store_true",
        help="restore also if the job does not have an operator any more whose state is stored",
    )


def apply_checkpoints(env: Environment, arguments: argparse.Namespace) -> None:
    """Let the options change what the job has said. Raises PipelineError if they do not fit together."""
    own = env._options.checkpoints
    asked = _asked(arguments)
    if not asked:
        return
    if own is None and "storage" not in asked:
        option = _first_option(arguments)
        raise PipelineError(
            f"{option} is for jobs with checkpoints, and job {env.name!r} has none: say where to store them, by"
            " --checkpoints URL or by env.enable_checkpointing(...) in the job file"
        )
    values = {**_values(own), **asked}
    if arguments.allow_dropped and values.get("restore") is None:
        raise PipelineError("--allow-dropped says how to restore: it needs --restore latest, or --restore PATH")
    env.enable_checkpointing(**values)


def passed_on(arguments: argparse.Namespace) -> list[str]:
    """The same options for `sage-flow run` on the cluster."""
    words = []
    if arguments.checkpoints is not None:
        words += ["--checkpoints", arguments.checkpoints]
    if arguments.checkpoint_interval is not None:
        milliseconds = arguments.checkpoint_interval // timedelta(milliseconds=1)
        words += ["--checkpoint-interval", f"{milliseconds}ms"]
    if arguments.restore is not None:
        words += ["--restore", arguments.restore]
    return words + ["--allow-dropped"] * arguments.allow_dropped


def check_reachable(arguments: argparse.Namespace) -> None:
    """Raises PipelineError for a path that means another folder for each submission."""
    for option, place in (("--checkpoints", arguments.checkpoints), ("--restore", arguments.restore)):
        if place is None or (option == "--restore" and place == LATEST):
            continue
        if "://" not in place and not os.path.isabs(os.path.expanduser(place)):
            raise PipelineError(
                f"{option} {place}: each submission runs in a folder of its own, so give an absolute path, which all"
                " nodes of the cluster have, or a URL"
            )


@contextlib.contextmanager
def told_checkpoints(*, is_quiet: bool) -> Iterator[None]:
    """Print which run of its job a job begins or goes on with."""
    log = logging.getLogger(_LOG)
    before, handler = (log.level, log.propagate), _Teller()
    if not is_quiet:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"sage-flow: {record.getMessage()}")


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {
        "storage": arguments.checkpoints,
        "interval": arguments.checkpoint_interval,
        "restore": arguments.restore,
        "allow_dropped": arguments.allow_dropped or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _first_option(arguments: argparse.Namespace) -> str:
    return next(word for word in passed_on(arguments) if word.startswith("--"))


def _values(own: CheckpointOptions | None) -> dict[str, Any]:
    """The arguments of `enable_checkpointing` that the job has given."""
    if own is None:
        return {}
    return {
        "storage": own.storage,
        "interval": _time(own.interval_s),
        "timeout": _time(own.timeout_s),
        "min_pause": _time(own.min_pause_s),
        "tolerable_failures": own.tolerable_failures,
        "keep": own.keep,
        "restore": own.restore,
        "allow_dropped": own.allow_dropped,
    }


def _time(seconds: float) -> timedelta:
    return timedelta(milliseconds=round(1000 * seconds))
