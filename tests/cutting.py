"""Cuts the subtasks of whole jobs while they run: each goes on as a fresh one with what its operators have kept.

Subtasks of services and those with a sink are left as they are, and a source stays the same object.
"""

import pickle
import random

from sage_flow.functions import Sink
from sage_flow.runtime.subtask import ChainSubtask
from sage_flow.splits import SplitEnd

__all__ = ["cut_subtasks"]


def cut_subtasks(monkeypatch, seed):
    """Cut each subtask of the jobs of this process again and again. Returns a list with the chain of each cut."""
    rng, cuts = random.Random(seed), []
    make, advance = ChainSubtask.__init__, ChainSubtask.advance

    def remember(self, plan, subtask, port, cutter=None):
        make(self, plan, subtask, port, cutter)
        functions = [function for operator in subtask.chain.operators for function in operator.functions]
        if subtask.chain.service is None and not any(isinstance(function, Sink) for function in functions):
            self.made_of = plan, subtask, port

    def cut_and_advance(self):
        may_be_cut = hasattr(self, "made_of") and not self._is_finishing and self.can_be_cut
        if may_be_cut and rng.random() < 0.5:
            _begin_anew(self)
            cuts.append(self.made_of[1].chain.name)
        return advance(self)

    monkeypatch.setattr(ChainSubtask, "__init__", remember)
    monkeypatch.setattr(ChainSubtask, "advance", cut_and_advance)
    return cuts


def _begin_anew(old):
    parts = pickle.loads(
        pickle.dumps({b.operator.name: b.parts() for b in old.runner.operators if b.functions != [old.source]})
    )
    fresh = ChainSubtask(*old.made_of)
    if old.source is not None:
        fresh.runner.operators[0] = fresh._head = old._head
        fresh.source = old.source
    for bound in fresh.runner.operators[old.source is not None :]:
        bound.open()
    fresh._expect_splits()
    fresh._lifecycle = old._lifecycle
    fresh._lifecycle._opened = [
        bound
        if bound.operator.name not in {b.operator.name for b in fresh.runner.operators}
        else next(b for b in fresh.runner.operators if b.operator.name == bound.operator.name)
        for bound in old._lifecycle._opened
    ]
    for name, counts in vars(old.runner.counters).items():
        if isinstance(counts, list):
            getattr(fresh.runner.counters, name)[:] = counts
    fresh.restore(parts)
    for time in fresh._time._assigned():
        for split in [split for split in time._clocks if split not in parts[time._operator.name].splits]:
            time.on_signal(SplitEnd(split))
    for bound in old.runner.operators[old.source is not None :]:
        bound.close()
    fresh._inputs, fresh._is_drained = old._inputs, old._is_drained
    old.__dict__.update(fresh.__dict__)
