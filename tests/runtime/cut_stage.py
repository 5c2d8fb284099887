"""All subtasks of one operator on benches: records go to them by their keys, and they may be cut and restored."""

import pickle

from fake_port import Bench, plan_of

from sage_flow.keys import group_to_subtask, key_group
from sage_flow.runtime.messages import Control, Data, EndOfInput, Watermark
from sage_flow.runtime.parts import share_of
from sage_flow.runtime.subtask import GoOn

__all__ = ["Clock", "End", "Rec", "Stage", "Tasks", "Time", "by_key"]


class Rec:
    """A record of a key, for one side of the operator."""

    def __init__(self, key, value, timestamp=0, side=0):
        self.key, self.value, self.timestamp, self.side = key, value, timestamp, side

    def __repr__(self):
        return f"Rec({self.key!r}, {self.value!r}, {self.timestamp}, {self.side})"


Time = Watermark
"""On all inputs."""


class Clock:
    """So many seconds pass."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __repr__(self):
        return f"Clock({self.seconds})"


class Tasks:
    """All coroutines that were started run to their ends."""

    def __repr__(self):
        return "Tasks()"


class End:
    """The end of all inputs."""

    def __repr__(self):
        return "End()"


class Stage:
    """`write(env, parallelism)` writes a pipeline in which the operator `op` reads what other subtasks send."""

    def __init__(self, write, parallelism):
        plan = plan_of(lambda env: write(env, parallelism))
        self.write = write
        self.parallelism = parallelism
        self.max_parallelism = plan.max_parallelism
        self.benches = [Bench(plan, "op", index) for index in range(parallelism)]
        self.channels = {c.id: c for c in plan.channels}
        for bench in self.benches:
            bench.port.while_suspended = lambda bench=bench: self._run_tasks(bench)
        self.dealt = 0

    def give(self, event):
        """Do what an event says, and let all subtasks go on until there is nothing to do."""
        if isinstance(event, Rec):
            self._deal(event)
        for bench in self.benches:
            if isinstance(event, Clock):
                bench.port.clock.advance(event.seconds)
            elif isinstance(event, Tasks):
                self._finish_tasks(bench)
            elif isinstance(event, (Time, End)):
                self._deliver_control(bench, EndOfInput() if isinstance(event, End) else event)
            bench.run()

    def _deal(self, record):
        edge = next(self.channels[c].edge for c in self.benches[0].ins if self._side(c) == record.side)
        benches = self.benches
        if edge.key is not None:
            group = key_group(record.key, self.max_parallelism)
            benches = [self.benches[group_to_subtask(group, self.parallelism, self.max_parallelism)]]
        elif str(edge.partitioning) != "broadcast":
            benches = [self.benches[self.dealt % self.parallelism]]
            self.dealt += 1
        for bench in benches:
            channel = next(c for c in bench.ins if self._side(c) == record.side)
            value = (record.key, record.value)
            values = [*[record.key] * (edge.key is not None), value, *[record.timestamp] * edge.timed]
            packed = values[0] if len(values) == 1 else tuple(values)
            bench.subtask.on_message(Data(channel, self._seq(bench, channel), [packed], None, 1))

    def _side(self, channel):
        return self.channels[channel].edge.side

    @staticmethod
    def _seq(bench, channel):
        bench._next[channel] += 1
        return bench._next[channel] - 1

    def _deliver_control(self, bench, element):
        for channel in bench.ins:
            if isinstance(element, EndOfInput) or self.channels[channel].edge.timed:
                bench.subtask.on_message(Control(channel, self._seq(bench, channel), element))

    @staticmethod
    def _run_tasks(bench):
        for task in bench.port.tasks:
            if not task.done():
                task.finish()

    def _finish_tasks(self, bench):
        while not all(task.done() for task in bench.port.tasks):
            self._run_tasks(bench)
            bench.run()

    def begin_end(self, steps):
        """The end of all inputs; so many steps, and then as many as it takes until a snapshot may be taken."""
        for bench in self.benches:
            self._finish_tasks(bench)
            self._deliver_control(bench, EndOfInput())
            taken = 0
            while isinstance(bench.subtask.advance(), GoOn):
                taken += 1
                if taken >= steps and bench.subtask.can_be_cut:
                    break

    def parts(self):
        """What the operators of each subtask keep, as a snapshot has it."""
        assert all(bench.subtask.can_be_cut for bench in self.benches)
        return [pickle.loads(pickle.dumps(bench.subtask.parts())) for bench in self.benches]

    def take_over(self, stage, *, alike=False):
        """Go on where all subtasks of another stage were."""
        everything = stage.parts()
        for index, bench in enumerate(self.benches):
            shares = {
                name: share_of(
                    [of_one[name] for of_one in everything], index, self.parallelism, self.max_parallelism, alike=alike
                )
                for name in everything[0]
            }
            bench.port.clock.advance(stage.benches[0].port.now() - bench.port.now())
            bench.subtask.restore(shares)
            bench.run()
        self.dealt = stage.dealt
        for bench in stage.benches:
            for task in bench.port.tasks:
                task.drop()

    def outputs(self):
        """What the subtasks have sent, one after another."""
        return [record for bench in self.benches for record in bench.port.records()]


def by_key(outputs, key_of):
    """The outputs of each key, in their order."""
    found = {}
    for output in outputs:
        found.setdefault(key_of(output), []).append(output)
    return found
