"""One gate for watermarks, barriers and ends: what leads to what, in which order."""

import pytest

from sage_flow.errors import ProtocolError
from sage_flow.runtime.barrier import Hold, TakeSnapshot
from sage_flow.runtime.gate import AllInputsEnded, InputGate
from sage_flow.runtime.messages import Barrier, EndOfInput, Idle, Watermark
from sage_flow.runtime.watermark import Advance, BecomeIdle


def decisions(gate, channel, element):
    return list(gate.on_element(channel, element))


def test_each_element_goes_to_its_rule():
    gate = InputGate([0, 1])
    assert decisions(gate, 0, Watermark(5)) == []
    assert decisions(gate, 1, Watermark(4)) == [Advance(4)]
    assert decisions(gate, 0, Barrier(1)) == [Hold(0)]
    assert decisions(gate, 1, Barrier(1)) == [TakeSnapshot(1, (0, 1))]
    assert decisions(gate, 1, Idle()) == [Advance(5)]
    assert decisions(gate, 0, Idle()) == [BecomeIdle()]


def test_an_end_moves_time_then_completes_the_barrier_then_ends_all():
    gate = InputGate([0, 1])
    decisions(gate, 0, Watermark(5))
    decisions(gate, 0, Barrier(1))
    assert decisions(gate, 1, EndOfInput()) == [Advance(5), TakeSnapshot(1, (0,))]
    assert gate.open_channels == (0,)
    assert decisions(gate, 0, EndOfInput()) == [AllInputsEnded()]
    assert gate.open_channels == ()


def test_a_record_wakes_an_idle_input():
    gate = InputGate([0, 1])
    decisions(gate, 0, Idle())
    gate.on_record(0)
    assert decisions(gate, 1, Watermark(3)) == []


def test_frames_are_numbered_per_channel_without_a_gap_or_a_repeat():
    gate = InputGate([0, 1])
    for channel, seq in ((0, 0), (1, 0), (0, 1), (0, 2), (1, 1)):
        gate.check_sequence(channel, seq)
    for channel, seq in ((0, 2), (0, 4), (1, 0), (7, 0)):
        with pytest.raises(ProtocolError, match=f"frame {seq} on channel {channel}"):
            gate.check_sequence(channel, seq)
    gate.check_sequence(0, 3)  # a refusal moves nothing


def test_nothing_comes_behind_the_end_of_input():
    gate = InputGate([0, 1])
    gate.check_sequence(0, 0)
    decisions(gate, 0, EndOfInput())
    with pytest.raises(ProtocolError, match="after its end of input"):
        gate.check_sequence(0, 1)
    for element in (EndOfInput(), Barrier(1), Watermark(1), Idle()):
        with pytest.raises(ProtocolError):
            decisions(gate, 0, element)


def test_a_gate_without_inputs_is_open_for_nothing():
    assert InputGate([]).open_channels == ()
