"""The proof: any process may die at any moment, and the answer does not change.

A seed makes a pipeline, a schedule and faults; the oracle is the same pipeline without any. The job is started one or
several times: stopped with a checkpoint or ended by a power failure, it goes on from what is stored, perhaps with other
numbers of subtasks. `prove(seed)` returns what was wrong, if anything was.
"""

import argparse
import logging
import math
import random
import time
import warnings
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import lru_cache
from unittest.mock import patch

import world as worlds
from faulty_storage import faulty_storages
from proof_files import FILE_KINDS, Files, faulty_files
from proof_plans import Recipe
from world import Crash, Faults, Freeze, PowerCut, ProofExecutor, StorageFaults, World

from sage_flow import FixedDelay, JobStatus, LocalEnvironment
from sage_flow.checkpoint import coordinator
from sage_flow.checkpoint import storage as storages
from sage_flow.executors.simulation import ProcessDeath
from sage_flow.runtime import cut_writing
from sage_flow.runtime.messages import Closing, Finished, Progress, Snapshotted

__all__ = ["Outcome", "Seed", "main", "numbers", "prove"]

SEEDS_OF_A_RECIPE = 4
FAMILIES = ("bounded", "files", "endless")
"""Of pipelines; the last two have processes that are frozen, too."""
FAMILY = 1_000_000
"""Seeds of a family: its first one is a multiple of this."""
_NOT_PUBLISHED = "not all of its output could be published"
OWN = 1000
"""Processes: more than there are subtasks, so that each has its own."""
_FINE_STEPS = {"_SMALL": 0, "_MOST_CHANGES": 20.0, "_FIRST_STEP": 1, "_MOST_STEPS": 1, "_MERGED": 2}
"""Of cuts, so that also the small tables of the proof are stored by their changes, and between records."""
LIMIT_S = 120.0  # real seconds; more means that it hangs
_POINTS = (
    "prepare",
    "prepared",
    "snapshot",
    "commit",
    "committed",
    "recover",
    "abort",
    "sink opens",
    "storage write",
    "storage write done",
    "storage create",
    "storage create done",
    "storage read",
)
_FILE_POINTS = tuple(
    f"file {what}{done}" for what in ("open", "sync", "rename", "publish", "remove") for done in ("", " done")
)


@dataclass(frozen=True)
class Start:
    """One start of the job."""

    parallelism: int
    sources: int
    processes: int
    interval_ms: int
    timeout_ms: int
    faults: Faults
    deaths: tuple[ProcessDeath, ...] = ()


@dataclass(frozen=True)
class Seed:
    """What a number stands for."""

    number: int
    recipe: Recipe
    starts: tuple[Start, ...]

    @classmethod
    def of(cls, number):
        draw = random.Random(f"seed {number}")
        family = FAMILIES[number // FAMILY]
        recipe = Recipe.of(number % FAMILY // SEEDS_OF_A_RECIPE, family)
        count = draw.choice([1, 1, 2, 3])
        may_rescale = draw.random() < 0.7 and recipe.shape != "ends"
        starts = []
        for index in range(count):
            start = _draw_start(draw, is_last=index == count - 1 and family != "endless")
            if family != "bounded":
                start = _with_more_faults(start, random.Random(f"more of {number} {index}"), family)
            if starts and not may_rescale:
                start = Start(starts[0].parallelism, starts[0].sources, start.processes, *_rest_of(start))
            starts.append(start)
        return cls(number, recipe, tuple(starts))


def _rest_of(start):
    return start.interval_ms, start.timeout_ms, start.faults, start.deaths


def _draw_start(draw, *, is_last):
    length = draw.choice([200, 500, 1500])  # steps in which things go wrong
    crashes = tuple(
        Crash(draw.choice(["any", "subtask", "writer", "driver", "recorder"]), *_draw_moment(draw, length))
        for _ in range(draw.choice([0, 1, 1, 2, 4]))
    )
    points = tuple((draw.choice(_POINTS), draw.randrange(1, 8)) for _ in range(draw.choice([0, 0, 1, 3])))
    deaths = ()
    if draw.random() < 0.2:
        after = draw.choice([None, Progress, Snapshotted, Closing, Finished])
        told_first = draw.choice(["connection", "process", "nobody"])
        deaths = (ProcessDeath((1,), after, told_first, draw.random()),)
    ending = {} if is_last else {draw.choice(["cut_at", "stop_at"]): _draw_moment(draw, length + 200)}
    faults = Faults(
        crashes,
        points,
        _draw_storage_faults(draw),
        frozenset(draw.sample(range(1, 10), k=draw.choice([0, 0, 0, 1, 2]))),
        **ending,
    )
    return Start(
        parallelism=draw.choice([1, 2, 2, 3]),
        sources=draw.choice([1, 2, 3]),
        processes=draw.choice([OWN, OWN, 2, 3]),
        interval_ms=draw.choice([1, 3, 10, 30]),
        timeout_ms=draw.choice([20, 60, 10_000, 10_000, 10_000]),
        faults=faults,
        deaths=deaths,
    )


def _with_more_faults(start, draw, family):
    """Processes are frozen, too, and die while they write files."""
    frozen = tuple(
        Freeze(draw.choice(["subtask", "driver"]), *_draw_moment(draw, 500), misses=draw.choice([0, 1, 1, 2, 5]))
        for _ in range(draw.choice([0, 1, 1, 2]))
    )
    points = [(draw.choice(_FILE_POINTS), draw.randrange(1, 15)) for _ in range(draw.choice([0, 0, 1, 2]))]
    most_steps = 3000 if family == "endless" else math.inf
    faults = replace(start.faults, frozen=frozen, points=(*start.faults.points, *points), most_steps=most_steps)
    return replace(start, faults=faults)


def _draw_moment(draw, length):
    """A step, or so many steps after a checkpoint was recorded, which is when there is something to lose."""
    after = draw.choice([0, 1, 1, 2, 3])
    return (draw.randrange(draw.choice([12, 200])) if after else draw.randrange(20, length)), after


def _draw_storage_faults(draw):
    if draw.random() < 0.5:
        return StorageFaults(is_slow=draw.choice([0.0, 0.3]))
    begin = draw.random() * 0.2
    span = (begin, begin + draw.random() * draw.choice([0.1, 3.0]))
    return StorageFaults(
        is_slow=draw.choice([0.0, 0.1, 0.5]),
        gone=draw.choice([(0.0, 0.0), span]),
        full=draw.choice([(0.0, 0.0), span]),
        lost_answer=draw.choice([0.0, 0.1, 0.3]),
        late=draw.choice([0.0, 0.0, 0.1, 0.2]),
        late_s=draw.choice([0.01, 0.2, 3.0]),
        lag_s=draw.choice([0.0, 0.0, 0.02, 0.3]),
    )


# -- one seed ------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a seed has come to. `wrong`: what differs from the oracle; empty if nothing does."""

    seed: Seed
    wrong: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)

    def __str__(self):
        lines = [f"seed {self.seed.number}: {self.seed.recipe}"]
        lines += [f"  {line}" for line in self.story[:25]]
        if len(self.story) > 50:
            lines.append(f"  ... {len(self.story) - 50} more")
        lines += [f"  {line}" for line in self.story[25:][-25:]]
        lines += [f"  WRONG: {wrong}" for wrong in self.wrong[:8]]
        return "\n".join([*lines, f"  again: python tests/prove --seed {self.seed.number}"])


def prove(number):
    """Run a seed; return its outcome."""
    seed = Seed.of(number)
    outcome = Outcome(seed)
    world = World(f"proof-{number}", number, fault_free(seed.recipe))
    outcome.story = world.story
    rows = None
    with _in(world):
        for index, start in enumerate(seed.starts):
            rows = _run(outcome, world, start, index)
            if world.violations or outcome.wrong:
                break
        else:
            if rows is None or seed.recipe.is_endless:
                rows = _run(outcome, world, _calm(seed.starts[-1], seed.recipe), len(seed.starts))
        outcome.wrong += world.violations
        if not outcome.wrong:
            outcome.wrong += _differences(seed, rows, world)
    return outcome


def _calm(start, recipe):
    """The same without faults. The user stops a job that has no end."""
    calm = replace(start, faults=Faults(stops_when_settled=recipe.is_endless), deaths=())
    return replace(calm, interval_ms=30, timeout_ms=10_000) if recipe.is_endless else calm


@lru_cache(maxsize=64)
def fault_free(recipe):
    """The rows of each sink if nothing goes wrong."""
    world = World("fault-free", 0)
    with _in(world):
        env = LocalEnvironment("proof", parallelism=2, executor=_executor(world, 0))
        if recipe.is_endless or "parts" in recipe.sinks:
            env.enable_checkpointing(f"memory://{world.name}", interval=timedelta(milliseconds=30))
        world.begin(Faults(stops_when_settled=recipe.is_endless))
        recipe.write(env, 2)
        result = env.submit().result(timeout=LIMIT_S)
        return _rows(recipe, result.collected, world)


@contextmanager
def _in(world):
    worlds.WORLD = world
    world.files = Files(world)
    logging.getLogger("sage_flow").addFilter(_hushed)
    try:
        with faulty_storages(), faulty_files(), patch.multiple(cut_writing, **_FINE_STEPS), _checkpoints_soon():
            yield
    finally:
        world.files.close()
        logging.getLogger("sage_flow").removeFilter(_hushed)
        storages._memories.pop(world.name, None)


def _checkpoints_soon():
    """After a checkpoint that has failed the next one begins while the job still lives."""
    return patch.object(coordinator, "_FIRST_BACK_OFF_S", 0.003)


def _hushed(record):
    worlds.WORLD.tell(f"log: {record.getMessage()[:200]}")
    return False


def _executor(world, seed, **options):
    executor = ProofExecutor(seed, clock=world.clock, **options)
    executor.world = world
    return executor


def _run(outcome, world, start, index):
    """Start the job once; return the collected rows if it has ended, with a result."""
    faults = start.faults
    world.begin(faults)
    world.tell(f"start {index + 1}: {_told_start(start)}")
    executor = _executor(world, world.seed * 10 + index, processes=start.processes, deaths=start.deaths)
    env = LocalEnvironment("proof", start.parallelism, executor=executor, restart=FixedDelay(attempts=60, delay_s=0.01))
    env.enable_checkpointing(
        f"memory://{world.name}",
        interval=timedelta(milliseconds=start.interval_ms),
        timeout=timedelta(milliseconds=start.timeout_ms),
        restore="latest",
    )
    outcome.seed.recipe.write(env, start.sources)
    job = env.submit()
    result = _result(outcome, world, job)
    world.scheduler.has_ended.wait(LIMIT_S)
    if world.is_cut:
        world.files.lose()
    _count(outcome, executor)
    outcome.counts["checkpoints"] = len(world.ledger.recorded_entries())
    world.tell(f"it is {job.status}, step {world.scheduler._steps}")
    if world.since_begin > 3600:
        outcome.wrong.append(f"it took {world.since_begin:.0f} s of virtual time")
    if result is None:
        return None
    _check_seen(outcome, world, result.collected, job.status)
    end = JobStatus.STOPPED if faults.stops_when_settled else JobStatus.FINISHED
    return result.collected if job.status is end else None


def _result(outcome, world, job):
    """The result of a job; None if it has none."""
    try:
        return job.result(timeout=LIMIT_S)
    except PowerCut:
        return None
    except TimeoutError as hang:
        outcome.wrong.append(f"it hangs: {hang}")
        job._execution._scheduler.interrupt(_cut)
        return None
    except BaseException as error:
        # If its tries to publish are used up, the user lets the next start do it.
        if not any(_NOT_PUBLISHED in note for note in getattr(error, "__notes__", ())):
            outcome.wrong.append(f"the job has failed: {type(error).__name__}: {error}")
        return None


def _cut():
    raise PowerCut


def _count(outcome, executor):
    outcome.counts["steps"] += len(executor.trace)
    for line in executor.trace:
        for word in ("CheckpointComplete", "AbortCheckpoint", "crash"):
            if word in line:
                outcome.counts[word] += 1


def _check_seen(outcome, world, collected, status):
    """What others have seen of the collected rows was never taken back."""
    for sink, rows in world.seen.items():
        if sink not in collected:
            outcome.counts["results without rows"] += 1
        elif collected[sink][: len(rows)] != rows:
            outcome.wrong.append(
                f"rows of {sink!r} were shown and taken back ({status}): {rows}, then {collected[sink]}"
            )


def _rows(recipe, collected, world):
    found = {kind: world.files.rows(kind) for kind in recipe.sinks if kind in FILE_KINDS}
    found |= {kind: world.ledger.rows(kind) for kind in recipe.sinks if kind not in found}
    return found | ({"collect": collected["collect"]} if "collect" in recipe.sinks else {})


def _is_ordered(seed, kind):
    """Whether the rows of a split come in its order. With another parallelism, several have written them at the end."""
    is_same = len({start.parallelism for start in seed.starts}) == 1
    return seed.recipe.is_ordered(kind) and (is_same or kind != "end")


def _differences(seed, collected, world):
    if collected is None:
        yield "the job has not finished"
        return
    for kind, rows in _rows(seed.recipe, collected, world).items():
        wanted, got = Counter(world.expected[kind]), Counter(rows)
        if wanted != got:
            yield f"{kind}: missing {_told(wanted - got)}, too many {_told(got - wanted)}"
        elif _is_ordered(seed, kind) and _by_split(rows) != _by_split(world.expected[kind]):
            yield f"{kind}: the order within a split is not kept"
    if staged := world.ledger.left_behind(world.ledger.staged):
        yield f"left behind, prepared and not published: {staged[:3]}"
    if files := world.ledger.left_behind(world.ledger.files) + world.files.left_behind():
        yield f"left behind: files {files[:3]}"


def _told(rows):
    return f"{rows.total()} rows, as {list(rows.elements())[:3]}" if rows else "none"


def _by_split(rows):
    found = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


# -- many seeds ----------------------------------------------------------------------------------------------


def _told_start(start):
    """A start, without what is as usual."""
    faults = [
        f"{f.name}={getattr(start.faults, f.name)}"
        for f in fields(Faults)
        if getattr(start.faults, f.name) != f.default
    ]
    processes = "a process for each" if start.processes == OWN else f"{start.processes} processes"
    numbers = f"{start.parallelism} subtasks, {start.sources} of sources, {processes}"
    every = f"a checkpoint every {start.interval_ms} ms, at most {start.timeout_ms} ms"
    return ", ".join([numbers, every, *faults, *map(str, start.deaths)])


def numbers(first, count, families=FAMILIES):
    """Seeds of these families in turn."""
    for number in range(first, first + count):
        index, family = divmod(number, len(families))
        yield FAMILIES.index(families[family]) * FAMILY + index


def main(arguments=None):
    """`python tests/prove`: run seeds, tell what is wrong, and how to run it again."""
    parser = argparse.ArgumentParser(prog="python tests/prove", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one alone, with its story")
    parser.add_argument("--family", choices=FAMILIES, help="of pipelines; by default all, in turn")
    parser.add_argument("--most", type=int, default=5, help="stop after so many that fail")
    options = parser.parse_args(arguments)
    logging.getLogger("sage_flow.checkpoints").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # coroutines of processes that have died are never awaited
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if options.seed is not None:
        outcome = prove(options.seed)
        print(outcome)
        return bool(outcome.wrong)
    failed, counts, began = 0, Counter(), time.monotonic()
    families = FAMILIES if options.family is None else [options.family]
    for number in numbers(options.first, options.seeds, families):
        outcome = prove(number)
        counts += outcome.counts
        counts["seeds"] += 1
        if outcome.wrong:
            print(outcome, flush=True)
            failed += 1
            if failed >= options.most:
                break
    print(f"{failed} of {counts['seeds']} seeds failed; {dict(counts)}; {time.monotonic() - began:.0f} s")
    return bool(failed)
