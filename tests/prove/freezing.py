"""Processes of the simulation that stand still, are taken for dead, and go on when others have taken their place.

A frozen process keeps what it has: its threads, and what had arrived at it. If the driver is frozen, so are all of its
subtasks, and what is under way between them; when they go on they are a whole attempt beside the one that has followed
it. They reach the storage and the sinks' places as before. The processes of the other attempt they do not reach: a
connection is only made between processes of the same attempt (`wire/handshake.py`).
"""

import copy
import threading
from dataclasses import dataclass, field

from sage_flow.executors.scheduler import Deadlock, Scheduler

__all__ = ["FreezingScheduler", "Group"]

_AFTERWARDS = 600
"""Steps that those who come back may take when the job is over."""


@dataclass(eq=False)
class Group:
    """What was frozen together.

    `deliver` gives a message to a member; None: they have no connections. `returns`: with which checkpoint they go on.
    """

    attempt: int
    returns: int
    deliver: object
    activations: list = field(default_factory=list)
    paths: dict = field(default_factory=dict)
    has_returned: bool = False

    def receive(self, target, message, others):
        """A message of this group has arrived at an address. `others`: deliver to who has the addresses now."""
        if self.deliver is not None:
            self.deliver(target, message)


@dataclass(frozen=True)
class _Inside:
    """An address, as the members of a group understand it."""

    group: Group
    address: int


class FreezingScheduler(Scheduler):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._groups = []
        self._group_of = {}  # by activation
        self._freezing = None
        self._receiving = None  # the group that receives a message just now
        self._left = _AFTERWARDS
        self.has_ended = threading.Event()

    def group_of(self, activation):
        """The group of an activation that was frozen; None for all others."""
        return self._group_of.get(activation)

    def alive(self, is_wanted):
        """The names of activations that were never frozen, and live."""
        return [a.name for a in self._activations if not a.is_over and a not in self._group_of and is_wanted(a.name)]

    # -- freezing and coming back ---------------------------------------------------------------------------

    def freeze(self, name, returns):
        """Freeze the process of this activation. For everybody else it has died."""
        simulation = self.on_crash.__self__
        is_driver = name == "driver"
        processes = simulation._processes if is_driver else None  # there are none between two attempts
        group = Group(self._world.note_frozen(), returns, None if processes is None else processes.deliver)
        self._world.tell(f"step {self._steps}: {name} is frozen until checkpoint {returns} of this start")
        if is_driver:
            group.paths = {key: path for key, path in self._paths.items() if not isinstance(path.target, _Inside)}
            self._give_own_log(simulation.job)
        self._freezing = group
        try:
            self.on_crash(name)
        finally:
            self._freezing = None
        self._groups.append(group)

    @staticmethod
    def _give_own_log(job):
        """Another process reads the log by itself."""
        lead = job._lead
        lead._log = copy.copy(lead._log)
        lead._log._entries, lead._log._deleted = dict(lead._log._entries), set(lead._log._deleted)

    def thaw(self, recorded):
        """Let those go on that are to come back now."""
        for group in [g for g in self._groups if not g.has_returned and g.returns <= recorded]:
            self._thaw(group)

    def _thaw(self, group):
        group.has_returned = True
        self._world.tell(f"step {self._steps}: what was frozen of attempt {group.attempt} comes back")
        self._activations += (back := [a for a in group.activations if not a.is_over])
        for activation in back:
            if activation.deadline is not None and activation.deadline <= self.now:
                activation.waits_for = None
        for (sender, target), path in group.paths.items():
            path.target = _Inside(group, target)
            self._paths[sender, path.target] = path

    def run(self, deliver, is_over):
        def receive(target, message):
            if not isinstance(target, _Inside):
                deliver(target, message)
                return
            self._receiving = target.group
            try:
                target.group.receive(target.address, message, deliver)
            finally:
                self._receiving = None

        try:
            super().run(receive, lambda: is_over() and not self._goes_on())
        except Deadlock:
            if not is_over():
                raise
        finally:
            self._end_frozen()
            self.has_ended.set()

    def _goes_on(self):
        """The job is over: whether somebody comes back now who could still do harm."""
        for group in [g for g in self._groups if not g.has_returned]:
            self._thaw(group)
        self._left -= 1
        return self._left > 0 and any(not a.is_over for a in self._group_of)

    # -- what activations do, in their group ----------------------------------------------------------------

    def _group_here(self):
        return self._receiving or self._group_of.get(self._running_here())

    def spawn(self, name, run):
        group = self._group_here()
        super().spawn(name, run)
        if group is not None:
            self._join(self._activations[-1], group)

    def _join(self, activation, group):
        activation.name = f"frozen {activation.name}"  # nobody takes it for that of the other attempt
        self._group_of[activation] = group
        group.activations.append(activation)

    def send(self, sender, target, message):
        group = self._group_here()
        super().send(sender, target if group is None else _Inside(group, target), message)

    def is_under_way(self, sender, target):
        group = self._group_here()
        return super().is_under_way(sender, target if group is None else _Inside(group, target))

    def crash(self, is_victim):
        group = self._group_here()
        for victim in [a for a in self._activations if not a.is_over and not a.crashes]:
            if self._group_of.get(victim) is not group or not is_victim(victim.name.removeprefix("frozen ")):
                continue
            if self._freezing is not None:
                self._activations.remove(victim)
                self._join(victim, self._freezing)
            else:
                victim.crashes = True
                self._crashing.append(victim)

    def forget(self, kept=""):
        others = [a for a in self._activations if a in self._group_of]
        paths = {key: path for key, path in self._paths.items() if isinstance(path.target, _Inside)}
        super().forget(kept)
        self._activations += [a for a in others if a not in self._activations]
        self._paths.update(paths)

    def _end_frozen(self):
        for activation in [a for a in self._group_of if not a.is_over]:
            activation.crashes = True
            self._crashing.append(activation)
        self._end_crashing()
