"""The log and the leader in every interleaving of a small job, and what each of their rules is for."""

import pytest
from job_model import Bounds, Model

from sage_flow.runtime.leader import Leader

SMALL = Bounds()
RESTARTS = Bounds(checkpoints=0, restarts=1)
HALF_COMMITS = Bounds(leaders=1, restarts=1, cancels=True, half_commits=True)
ALONE = Bounds(leaders=1, restarts=1, checkpoints=2)


class Remembers(Leader):
    """Restores what the log said when it was first read."""

    _first = ()

    def on_read(self, history):
        self._first = self._first or (history.done,)
        return super().on_read(history)

    def _restore_point(self, history):
        return history.final or self._first[0]


class RestoresOlder(Leader):
    """Takes the checkpoint before, as if the last one could not be read."""

    def _restore_point(self, history):
        return history.final


class NeverFenced(Leader):
    """Writes whatever is behind its own attempt."""

    def _is_fenced(self, history):
        return False


@pytest.mark.parametrize(
    "bounds", [SMALL, RESTARTS, HALF_COMMITS], ids=["two leaders", "that restart", "a commit that stops half way"]
)
def test_no_interleaving_loses_a_row_or_gives_it_twice(bounds):
    found = Model(bounds=bounds).search()
    assert (found.fault, found.path) == (None, [])
    assert found.states > 1_000


@pytest.mark.parametrize(
    ("rule", "faults", "bounds"),
    [
        ("a prepared handle is not aborted with its checkpoint", {"rows lost"}, SMALL),
        ("a prepared handle is not aborted at a cancel", {"rows lost"}, SMALL),
        ("a checkpoint names all handles that are not published", {"rows lost"}, ALONE),
        ("a checkpoint is not aborted once it was tried", {"rows lost", "unreadable", "rows twice"}, SMALL),
    ],
)
def test_a_sink_that_does_not_keep_to_a_rule_is_found(rule, faults, bounds):
    assert Model({rule}, bounds).search().fault in faults


@pytest.mark.parametrize(
    ("make_leader", "faults"),
    [
        (Remembers, {"rows twice", "rows lost"}),
        (RestoresOlder, {"rows twice"}),
        (NeverFenced, {"rows twice", "two leaders fence each other", "decided, and yet not published"}),
    ],
)
def test_a_leader_that_does_not_keep_to_a_rule_is_found(make_leader, faults):
    assert Model(make_leader=make_leader, bounds=SMALL).search().fault in faults
