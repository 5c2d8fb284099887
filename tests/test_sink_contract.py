"""What a sink of a user promises at a checkpoint if it overrides nothing."""

import pytest

from sage_flow import Sink


class Counting(Sink):
    def __init__(self):
        self.count = 0

    def write(self, value):
        self.count += 1

    def snapshot(self):
        return self.count


def test_a_sink_without_a_snapshot_keeps_nothing_and_has_nothing_to_restore():
    sink = Sink()
    assert sink.prepare(1) is None
    assert sink.snapshot() is None
    for kept in ([], [None], [None, None]):
        sink.restore(kept)
    assert not sink.needs_checkpoints


def test_a_sink_with_a_snapshot_must_say_how_it_is_restored():
    sink = Counting()
    sink.write("a")
    with pytest.raises(NotImplementedError, match=r"Counting has a snapshot\(\) and must implement restore\(kept\)"):
        sink.restore([sink.snapshot()])
