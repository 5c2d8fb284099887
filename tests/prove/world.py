"""What one seed has besides its job: the schedule of faults, the storage, the places where rows become visible.

The engine's simulation decides which activation runs; a world adds what goes wrong. It is asked before each step
(`before_step`), and by the storage and the sinks of the job wherever a process could die or be delayed (`point`).
"""

import math
import random
import sys
from collections import Counter
from dataclasses import dataclass, field

from freezing import FreezingScheduler
from ledger import Ledger

from sage_flow.executors.scheduler import SimulatedCondition
from sage_flow.executors.simulation import SimulationExecutor, VirtualClock

__all__ = ["Crash", "Faults", "Freeze", "PowerCut", "ProofExecutor", "StorageFaults", "World", "current"]

_IN_DRIVER = ("driver", "checkpoint ")
_HELPERS = ("#checkpoints", " event loop")
_BYSTANDERS = ("supervisor", "end of process")
_LOOK_EVERY = 7  # steps
_SETTLED_S = 0.3


class PowerCut(BaseException):
    """Every process of the job has died at once."""


@dataclass(frozen=True)
class Crash:
    """The process of a party dies at its first turn from `step` on.

    `after`: the steps count from when so many checkpoints of this start were recorded.

    `party`: "subtask", "writer" (of snapshots), "driver", "recorder" (of checkpoints), or "any".
    """

    party: str
    step: int
    after: int = 0

    def hits(self, name):
        is_recorder, is_writer = name.startswith("checkpoint "), name.endswith("#checkpoints")
        match self.party:
            case "driver":
                return name == "driver"
            case "recorder":
                return is_recorder
            case "writer":
                return is_writer
            case "subtask":
                return not is_writer and not name.startswith((*_IN_DRIVER, *_BYSTANDERS))
        return not name.startswith(_BYSTANDERS)


@dataclass(frozen=True)
class Freeze:
    """The process of a party stands still, is taken for dead, and goes on once others have recorded some checkpoints.

    `party`: "subtask", or "driver" with all subtasks. `step`, `after`: when, as of a `Crash`. `misses`: how many
    checkpoints are recorded meanwhile.
    """

    party: str
    step: int
    after: int = 0
    misses: int = 1

    def hits(self, name):
        return Crash(self.party, 0).hits(name) and not name.endswith(_HELPERS)


@dataclass(frozen=True)
class StorageFaults:
    """What the storage does wrong, each with a probability for one operation; times are virtual seconds.

    `is_slow`: operations take time. `gone`: from when to when nothing can be reached. `full`: metadata cannot be
    written between these times, as if the disk had become full after the chunks. `lost_answer`: it was stored, but the
    caller hears that it was not, or that somebody else was first. `late`: the caller hears that it failed, and it is
    stored up to `late_s` seconds later. `lag_s`: so long a list does not show a new entry of the log.
    """

    is_slow: float = 0.0
    gone: tuple[float, float] = (0.0, 0.0)
    full: tuple[float, float] = (0.0, 0.0)
    lost_answer: float = 0.0
    late: float = 0.0
    late_s: float = 0.1
    lag_s: float = 0.0


@dataclass(frozen=True)
class Faults:
    """Everything that goes wrong in one start of a job.

    `points`: what is done when a process dies: the name of the point, and how often it was passed. `commits_fail`: of
    the tries to commit, by their number. `cut_at`, `stop_at`: when the power fails or the user stops the job, as the
    `step` and `after` of a `Crash`. `stops_when_settled`: the user stops a job without end once it gives nothing more.
    `most_steps`: after these the power fails, as a job without end may find no way to stop. `frozen`: processes that
    stand still, are taken for dead, and go on later.
    """

    crashes: tuple[Crash, ...] = ()
    points: tuple[tuple[str, int], ...] = ()
    storage: StorageFaults = StorageFaults()
    commits_fail: frozenset = frozenset()
    cut_at: tuple[int, int] | None = None
    stop_at: tuple[int, int] | None = None
    stops_when_settled: bool = False
    most_steps: float = math.inf
    frozen: tuple[Freeze, ...] = ()


@dataclass
class World:
    """Of one seed. `name` is that of its storage. `expected`: the rows of its sinks in the end, None if it finds them.

    `splits`: of all sources. `quiet`: those that have given all their records. `frozen_attempts`: those of which a
    process was frozen.
    """

    name: str
    seed: int
    expected: dict | None = None
    faults: Faults = Faults()
    violations: list = field(default_factory=list)
    story: list = field(default_factory=list)
    scheduler: FreezingScheduler | None = None
    execution: object = None
    passed: Counter = field(default_factory=Counter)
    seen: dict = field(default_factory=dict)
    late: list = field(default_factory=list)
    listed_at: dict = field(default_factory=dict)
    splits: set = field(default_factory=set)
    quiet: set = field(default_factory=set)
    frozen_attempts: set = field(default_factory=set)
    files: object = None

    def __post_init__(self):
        self.random = random.Random(f"world {self.seed}")
        self.clock = VirtualClock()
        self.ledger = Ledger(self)
        self.begin(Faults())

    def begin(self, faults):
        """Another start of the job."""
        self.faults, self.passed = faults, Counter()
        self.execution = None
        self.clock.advance(10.0)  # longer than any list lags
        self._began = self.now
        self._crashes, self._freezes = list(faults.crashes), list(faults.frozen)
        self._recorded_at = []
        self.is_cut = False
        self._stopped = None  # who was told to stop the job
        self._moved_at = self.now
        self.quiet.clear()
        self.scheduler = None

    @property
    def now(self):
        return self.clock.now()

    @property
    def since_begin(self):
        """Since the job was started."""
        return self.now - self._began

    @property
    def is_fault_free(self):
        """Whether nothing goes wrong, and nothing is looked at."""
        return self.expected is None

    @property
    def storage_faults(self):
        """While the job runs; before it has begun, its user would only hear that the storage does not work."""
        return StorageFaults() if self.execution is None else self.faults.storage

    def tell(self, what):
        what = what.replace("\n", " ")
        self.story.append(f"{self.now:9.4f} {what}")

    def violate(self, what):
        self.violations.append(what)
        self.tell(f"VIOLATION: {what}")

    # -- in the scheduler -----------------------------------------------------------------------------------

    def before_step(self, scheduler):
        step = scheduler._steps
        is_cut = self.faults.cut_at is not None and self._is_due(*self.faults.cut_at, step)
        if is_cut or step >= self.faults.most_steps:
            self.tell(f"step {step}: the power fails")
            self.is_cut = True
            raise PowerCut
        if self._can_stop and (self._stopped is not None or self._is_time_to_stop(step)):
            self._stopped = self.execution._lead
            self.tell(f"step {step}: the user stops the job")
            self.execution.stop()
        for crash in [c for c in self._crashes if self._is_due(c.step, c.after, step)]:
            if alive := scheduler.alive(crash.hits):
                self._crashes.remove(crash)
                scheduler._crash_at[self.random.choice(alive)] = 0
        for freeze in [f for f in self._freezes if self._is_due(f.step, f.after, step)]:
            if (alive := scheduler.alive(freeze.hits)) and self.can_freeze:
                self._freezes.remove(freeze)
                scheduler.freeze(self.random.choice(alive), len(self._recorded_at) + freeze.misses)
        scheduler.thaw(len(self._recorded_at))
        self.store_late()
        if step % _LOOK_EVERY == 0:
            self.look()

    @property
    def can_freeze(self):
        """Whether an attempt runs: whoever came back before it had begun would begin it, which is not simulated."""
        return self.execution is not None and self.execution._lead._attempt is not None

    @property
    def _can_stop(self):
        """Whether a driver leads the job that was not told to stop."""
        execution = self.execution
        return execution is not None and not execution.is_over and execution._lead is not self._stopped

    def note_frozen(self):
        attempt = self.execution._lead._leader.attempt
        self.frozen_attempts.add(attempt)
        return attempt

    def _is_time_to_stop(self, step):
        if self.faults.stops_when_settled:
            return self.splits == self.quiet and self.now - self._moved_at > _SETTLED_S
        return self.faults.stop_at is not None and self._is_due(*self.faults.stop_at, step)

    def note_recorded(self):
        """A checkpoint of this start is in the log."""
        self._recorded_at.append(0 if self.scheduler is None else self.scheduler._steps)

    def _is_due(self, offset, after, step):
        if after > len(self._recorded_at):
            return False
        return step >= offset + (self._recorded_at[after - 1] if after else 0)

    def store_late(self):
        """What the storage has been slow to store arrives."""
        for write in [w for w in self.late if w[0] <= self.now]:
            self.late.remove(write)
            write[1]()

    def look(self):
        """Note which collected rows others can see."""
        if self.execution is None or self.execution._current is None:
            return
        for sink, rows in self.execution.collected().items():
            if len(rows) > len(self.seen.get(sink, ())):
                self.seen[sink] = rows

    # -- in the activations ---------------------------------------------------------------------------------

    def note_quiet(self, split, is_quiet):
        """Whether a split of a source without end has given all its records."""
        if not is_quiet:
            self._moved_at = self.now
            self.quiet.discard(split)
        elif split not in self.quiet:
            self._moved_at = self.now
            self.quiet.add(split)

    def point(self, what, after_s=0.0):
        """A place where the process of the calling activation may be delayed, or die."""
        scheduler = self.scheduler
        me = None if scheduler is None else scheduler._running_here()
        if me is None:
            return
        is_frozen = scheduler.group_of(me) is not None  # and goes on: it dies in the end
        if not is_frozen:
            self.passed[what] += 1
        if not is_frozen and (what, self.passed[what]) in self.faults.points:
            scheduler._crash_at[me.name] = 0
            scheduler._give_back(me)
        elif after_s:
            SimulatedCondition(scheduler).wait(after_s)
        else:
            scheduler.maybe_yield(0.4)


class ProofScheduler(FreezingScheduler):
    def __init__(self, seed, crash_at, clock, world):
        super().__init__(seed, crash_at, clock)
        self._world = world
        world.scheduler = self

    def _step(self, deliver):
        self._world.before_step(self)
        super()._step(deliver)

    def _note(self, what):
        super()._note(what)
        if what.startswith("crash "):
            self._world.tell(f"step {self._steps}: {what}")


class ProofExecutor(SimulationExecutor):
    """The simulation of a world."""

    world: World

    def new_scheduler(self):
        return ProofScheduler(self.seed, self.crash_at, self.clock, self.world)

    def start(self, plan, options):
        execution = self.world.execution = super().start(plan, options)
        return execution


def current():
    """The world of the job that runs: what sinks and storage, which the engine copies, find it by."""
    return sys.modules[__name__].WORLD


WORLD = None
