"""`sage-flow checkpoints` and `sage-flow inspect`: what a job tells of its checkpoints, and what a storage holds."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sage_flow.cli.console import FAILED, OK, fail, tell
from sage_flow.cli.inspection import duration_of, text_table

if TYPE_CHECKING:
    from sage_flow.checkpoint.inspect import CheckpointContent, OperatorContent, StoredCheckpoint, StoredRun

__all__ = ["add_checkpoint_commands", "told_by_job"]

_RUNS: Final = 10
"""Of each job so many of the latest are shown."""

_CHECKPOINTS: Final = """\
Without --checkpoints it asks a job that runs. With it, it reads what is stored below this place, also of jobs that do
not run; JOB is then the name of a job, and without it all are shown.

example:
  sage-flow checkpoints flights
  sage-flow checkpoints --checkpoints /data/checkpoints
"""

_INSPECT: Final = """\
PATH is what `sage-flow checkpoints` shows for --restore. Nothing of the job is needed here: values of classes that this
process cannot import are shown by their fields.

example:
  sage-flow inspect /data/checkpoints/flights/20261128T123000-1a2b3c4d/checkpoints/a1-n7 --operator count-1 --key JFK
"""


# -- arguments -----------------------------------------------------------------------------------------------


def add_checkpoint_commands(commands: Any, add_inspection: Any) -> None:
    """Both commands. `add_inspection` adds one that asks a running job."""
    checkpoints: argparse.ArgumentParser = add_inspection(
        commands, "checkpoints", "show the latest checkpoints of a job, and why those failed that did"
    )
    checkpoints.add_argument("--checkpoints", metavar="URL", help="read what is stored below this path or URL")
    checkpoints.epilog = _CHECKPOINTS
    checkpoints.formatter_class = argparse.RawDescriptionHelpFormatter
    ask = checkpoints.get_default("command")
    checkpoints.set_defaults(command=lambda arguments: _checkpoints(arguments, ask))
    inspect: argparse.ArgumentParser = commands.add_parser(
        "inspect",
        help="show what a checkpoint keeps: operators, keys, values",
        description="Show what a checkpoint keeps: operators, tables and sizes; with --operator keys and values.",
        epilog=_INSPECT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("path", metavar="PATH", help="of the checkpoint, or its URL")
    inspect.add_argument("--operator", metavar="NAME", help="show the entries of this operator")
    inspect.add_argument(
        "--key", metavar="KEY", help="of --operator: those of this key, written as str or repr show it"
    )
    inspect.add_argument("--limit", type=int, default=20, metavar="N", help="of --operator: at most N; default 20")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    inspect.set_defaults(command=_inspect)


# -- checkpoints ---------------------------------------------------------------------------------------------


def _checkpoints(arguments: argparse.Namespace, ask: Any) -> int:
    if arguments.checkpoints is None:
        code: int = ask(arguments)
        return code
    from sage_flow.checkpoint.inspect import stored_runs

    try:
        runs = stored_runs(arguments.checkpoints, arguments.job)
    except Exception as error:
        return fail(error, in_use=True)
    if arguments.json:
        print(json.dumps([_run_as_dict(run) for run in runs], indent=2))
        return OK
    print("\n\n".join(_texts_of(runs)))
    return OK


def told_by_job(arguments: argparse.Namespace, infos: Sequence[dict[str, Any]], **whose: Any) -> str:
    """What `sage-flow checkpoints JOB` prints. `infos`: fields of `CheckpointInfo`; `whose`: what finds the job."""
    if arguments.json:
        return json.dumps({"job": whose, "checkpoints": infos}, indent=2)
    name, *others = whose.items()
    title = f"checkpoints of job {name[1]!r} ({', '.join(f'{what} {value}' for what, value in others)})"
    if not infos:
        return f"{title}\n\nnone yet, or it makes none"
    rows = [
        (
            f"{info['checkpoint']}",
            f"{info['attempt']}",
            _when(info["began"]),
            _size(info["size"]),
            duration_of(info["took_s"]),
            duration_of(info["alignment_s"]),
            duration_of(info["pause_s"]),
            _outcome(info),
        )
        for info in infos
    ]
    titles = (
        "number",
        "attempt",
        "began",
        "size",
        "duration",
        "alignment",
        "pause",
        "path to restore, or why it failed",
    )
    return f"{title}\n\n{text_table(titles, rows, left=0, is_last_text=True)}"


def _outcome(info: dict[str, Any]) -> str:
    if info["failed"] is None:
        return info["path"] or "not kept any more"
    slowest = f" ({info['slowest']})" if info["slowest"] else ""
    return f"failed: {info['failed']}{slowest}"


def _texts_of(runs: Sequence[StoredRun]) -> Iterable[str]:
    """A table per run, the latest last."""
    for job, of_job in itertools.groupby(runs, key=lambda run: run.job):
        several = list(of_job)
        if len(several) > _RUNS:
            yield f"job {job!r}: {len(several) - _RUNS} earlier runs are not shown"
        for run in several[-_RUNS:]:
            title = f"job {run.job!r}, run {run.name}: {run.state}"
            rows = [_stored_row(checkpoint) for checkpoint in run.checkpoints]
            titles = ("number", "attempt", "stored", "size", "duration", "alignment", "pause", "path to restore")
            yield (
                f"{title}\n\n{text_table(titles, rows, left=0, is_last_text=True)}"
                if rows
                else f"{title}\n\nno checkpoint"
            )


def _stored_row(stored: StoredCheckpoint) -> tuple[str, ...]:
    about = stored.path if stored.problem is None else f"{stored.path}: {stored.problem}"
    found = stored.metadata
    if found is None:
        return (*["-"] * 7, about)
    return (
        f"{found.checkpoint}",
        f"{found.attempt}",
        _when(found.created_ms),
        _size(found.size),
        duration_of(found.took_ms / 1000),
        duration_of(found.alignment_ms / 1000),
        duration_of(found.pause_ms / 1000),
        about,
    )


def _run_as_dict(run: StoredRun) -> dict[str, Any]:
    shown = ("checkpoint", "attempt", "created_ms", "size", "took_ms", "alignment_ms", "pause_ms")
    return {
        "job": run.job,
        "run": run.name,
        "state": run.state,
        "checkpoints": [
            {
                **({} if c.metadata is None else {name: getattr(c.metadata, name) for name in shown}),
                "path": c.path,
                "problem": c.problem,
            }
            for c in run.checkpoints
        ],
    }


# -- inspect -------------------------------------------------------------------------------------------------


def _inspect(arguments: argparse.Namespace) -> int:
    from sage_flow.checkpoint.inspect import checkpoint_of
    from sage_flow.errors import PipelineError

    try:
        if arguments.key is not None and arguments.operator is None:
            raise PipelineError("--key says whose value to show: it needs --operator NAME, too")
        content = checkpoint_of(arguments.path)
        shown = _operators(content, arguments) if arguments.operator is None else _entries(content, arguments)
    except Exception as error:
        return fail(error, in_use=True)
    print(shown)
    if content.missing_classes:
        tell(
            f"sage-flow: this process does not have {', '.join(content.missing_classes)}: their objects are shown by"
            " what is stored of them"
        )
    for file, problem in content.problems.items():
        tell(f"sage-flow: {file} is left out: {problem}")
    return FAILED if content.problems else OK


def _operators(content: CheckpointContent, arguments: argparse.Namespace) -> str:
    operators, found = content.operators(), content.metadata
    subtasks: list[dict[str, Any]] = [
        {
            "subtask": f"{' -> '.join(part.chain)}[{part.index + 1}/{part.parallelism}]",
            "size": part.size,
            "finished": part.is_finished,
        }
        for part in found.parts
    ]
    if arguments.json:
        about = {name: getattr(found, name) for name in ("job", "run", "attempt", "checkpoint", "created_ms", "size")}
        kept = [dataclasses.asdict(operator) for operator in operators]
        return json.dumps({**about, "operators": kept, "subtasks": subtasks}, indent=2)
    title = (
        f"checkpoint {found.checkpoint} of job {found.job!r}, attempt {found.attempt} of run {found.run},"
        f" {_when(found.created_ms)}, {_size(found.size)}"
    )
    rows = [(o.name, o.kind or "-", f"{o.parallelism}", _kept(o)) for o in operators]
    first = text_table(("operator", "kind", "subtasks", "keeps"), rows, left=2, is_last_text=True)
    parts = [(s["subtask"], _size(s["size"]), "finished" if s["finished"] else "") for s in subtasks]
    second = text_table(("subtask", "size", ""), parts, left=1, is_last_text=True)
    rows_told = f"\n\ncollected rows: {len(found.rows)} files" if found.rows else ""
    return f"{title}\n\n{first}\n\n{second}{rows_told}"


def _kept(operator: OperatorContent) -> str:
    keys = [f"{table}: {count:,} key{'s' * (count != 1)}" for table, count in operator.keys.items()]
    return ", ".join(keys + [f"{what}: {count:,}" for what, count in operator.others.items()]) or "-"


def _entries(content: CheckpointContent, arguments: argparse.Namespace) -> str:
    limit = max(0, arguments.limit)
    found = list(itertools.islice(content.entries(arguments.operator, arguments.key), limit + 1))
    shown, has_more = found[:limit], len(found) > limit
    if arguments.json:
        return json.dumps({"entries": [dataclasses.asdict(entry) for entry in shown], "has_more": has_more}, indent=2)
    if not found:
        whose = "" if arguments.key is None else f" for key {arguments.key}"
        return f"{arguments.operator!r} keeps nothing{whose}"
    rows = [(str(entry.subtask), entry.table, entry.key or "-", entry.value) for entry in shown]
    table = text_table(("subtask", "table", "key", "value"), rows, left=3, is_last_text=True)
    return table + (f"\n... more than {limit}; --limit shows more of them" if has_more else "")


# -- words ---------------------------------------------------------------------------------------------------


def _when(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))


def _size(size: int) -> str:
    """Bytes as people read them.

    >>> _size(999), _size(12_345), _size(7_800_000)
    ('999 B', '12.3 kB', '7.8 MB')
    """
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"
