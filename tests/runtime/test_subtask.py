"""One subtask, driven by hand: what arrives, what leaves, in what order."""

from typing import ClassVar

import pytest
from fake_port import (
    EndOfInput,
    bench,
    two_inputs_two_readers,  # noqa: F401 - a fixture
)

from sage_flow import END, IDLE, Function, Sink, Source
from sage_flow.errors import PipelineError, ProtocolError
from sage_flow.runtime.messages import Commit, Data, Drain
from sage_flow.runtime.subtask import Done, WaitForMessage, WaitForSource

# --- records ----------------------------------------------------------------------------------------------


def test_records_go_through_the_chain_to_every_reader(made):
    a, b = made.ins
    made.give(a, 1, 2)
    made.give(b, 3)
    assert [made.port.records(channel) for channel in made.outs] == [[1, 2, 3], [1, 2, 3]]


def test_a_long_frame_is_worked_off_in_slices_and_its_credit_returned_at_its_end(made):
    a, _ = made.ins
    made.deliver(a, *range(100), cost=777)
    made.subtask.advance()
    made.subtask.advance()
    assert 0 < len(made.port.records(made.outs[0])) < 100
    assert made.port.consumed_frames == []
    assert made.run() == WaitForMessage()
    assert made.port.records(made.outs[0]) == list(range(100))
    assert made.port.consumed_frames == [(a, 777)]


def test_no_frame_is_longer_than_1024_records():
    made = bench(
        lambda env: (
            env.from_collection([])
            .union(env.from_collection([]))
            .map_batches(lambda batch: batch * 1000, batch_size=5, name="step")
            .rebalance()
            .for_each(print, parallelism=2)
        ),
        "step",
    )
    made.give(made.ins[0], *range(5))
    assert max(len(frame.records) for frame in made.port.sent) <= 1024
    assert len(made.port.records()) == 5000


@pytest.mark.parametrize("seq", [0, 2])
def test_a_repeat_or_a_gap_in_the_sequence_is_refused(made, seq):
    a, _ = made.ins
    made.give(a, 1)
    with pytest.raises(ProtocolError, match=f"frame {seq} on channel {a}, where 1 was due"):
        made.subtask.on_message(Data(a, seq, [2]))


def test_an_unknown_channel_is_refused(made):
    with pytest.raises(ProtocolError, match="channel 99"):
        made.subtask.on_message(Data(99, 0, [2]))


def test_records_behind_the_end_of_input_are_refused_also_when_both_come_at_once(made):
    a, _ = made.ins
    made.deliver(a, EndOfInput())
    with pytest.raises(ProtocolError, match="end of input"):
        made.give(a, 1)


def test_an_end_of_input_that_comes_twice_is_refused(made):
    a, _ = made.ins
    made.deliver(a, EndOfInput())
    with pytest.raises(ProtocolError, match="end of input"):
        made.give(a, EndOfInput())


def test_a_message_that_is_not_for_a_chain_is_refused(made):
    made.subtask.on_message(Commit())
    with pytest.raises(ProtocolError, match="Commit"):
        made.run()


# --- the end ----------------------------------------------------------------------------------------------


def test_the_end_is_forwarded_when_all_inputs_have_ended_behind_the_last_records(made):
    a, b = made.ins
    made.give(a, 1)
    assert made.give(a, EndOfInput()) == WaitForMessage()
    made.deliver(b, 2)
    assert made.give(b, EndOfInput()) == Done()
    for channel in made.outs:
        assert made.port.story(channel) == [1, 2, EndOfInput()]


def test_what_was_held_back_comes_before_the_end():
    def build(env):
        both = env.from_collection([]).union(env.from_collection([]))
        sums = both.map_batches(lambda batch: [sum(batch)], batch_size=10, name="sums")
        final = sums.key_by(lambda n: n % 2).count(emit="final", name="final").map(lambda pair: pair, name="last")
        final.for_each(print)
        final.for_each(print)

    made = bench(build, "sums")
    a, b = made.ins
    made.give(a, 1, 2, 3)
    made.give(a, EndOfInput())
    assert made.port.sent == []
    made.give(b, EndOfInput())
    assert made.port.story(made.outs[0]) == [(0, 1), EndOfInput()]
    assert made.counts() == {"sums": 1, "final": 1, "last": 1}


class Ledger(Sink):
    story: ClassVar = []

    def open(self, ctx):
        Ledger.story.append("open")

    def write(self, value):
        Ledger.story.append(value)

    def close(self):
        Ledger.story.append("close")

    def commit(self):
        Ledger.story.append("commit")

    def abort(self):
        Ledger.story.append("abort")


@pytest.mark.parametrize(("outcome", "end"), [("commit", "publish"), ("abort", "take_back")])
def test_a_sink_is_committed_or_aborted_after_it_is_closed_once(monkeypatch, outcome, end):
    monkeypatch.setattr(Ledger, "story", [])
    made = bench(
        lambda env: env.from_collection([]).union(env.from_collection([])).add_sink(Ledger(), name="ledger"), "ledger"
    )
    made.give(made.ins[0], 1)
    made.subtask.close()
    made.subtask.close()  # a second time does nothing
    getattr(made.subtask.sinks, end)()
    assert Ledger.story == ["open", 1, "close", outcome]


class Fragile(Function):
    closed: ClassVar = []

    def __init__(self, name):
        self.name = name

    def __call__(self, value):
        return value

    def close(self):
        Fragile.closed.append(self.name)
        raise ValueError(self.name)


def test_all_that_was_opened_is_closed_and_the_first_error_is_told(monkeypatch):
    monkeypatch.setattr(Fragile, "closed", [])

    def build(env):
        both = env.from_collection([]).union(env.from_collection([]))
        both.map(Fragile("a"), name="a").map(Fragile("b"), name="b").for_each(print)

    made = bench(build, "a")
    with pytest.raises(ValueError) as caught:
        made.subtask.close()
    assert sorted(Fragile.closed) == ["a", "b"]
    assert str(caught.value) == Fragile.closed[0]
    assert f"operator  {Fragile.closed[0]!r}" in caught.value.__notes__[0]


# --- sources ----------------------------------------------------------------------------------------------


class Scripted(Source):
    def __init__(self, *script):
        self.script = list(script)

    def next_batch(self):
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item


def from_source(*script):
    def build(env):
        stream = env.from_source(Scripted(*script), name="source")
        stream.for_each(print)
        stream.for_each(print)

    return bench(build, "source")


def test_a_source_is_asked_until_its_end():
    made = from_source([1, 2], IDLE, [3], END)
    assert made.run() == WaitForSource()
    assert made.port.story(made.outs[0]) == [1, 2]
    assert made.run() == Done()
    assert made.port.story(made.outs[0]) == [1, 2, 3, EndOfInput()]
    assert made.counts() == {"source": 3}


@pytest.mark.parametrize("steps", range(4))
def test_a_source_that_is_drained_ends_behind_what_it_gave(steps):
    made = from_source([1], [2, 3], IDLE, [4], END)
    for _ in range(steps):
        made.subtask.advance()
    made.subtask.on_message(Drain())
    assert made.run() == Done()
    assert made.port.story(made.outs[0]) == [[], [1], [1], [1, 2, 3]][steps] + [EndOfInput()]


def test_a_drain_after_the_end_changes_nothing():
    made = from_source([1], END)
    made.run()
    made.subtask.on_message(Drain())
    assert made.run() == Done()
    assert made.port.story(made.outs[0]) == [1, EndOfInput()]


def test_only_sources_are_drained(made):
    made.subtask.on_message(Drain())
    with pytest.raises(ProtocolError, match="a chain cannot take a Drain"):
        made.run()


def test_falsy_records_are_records():
    made = from_source([None, 0, "", [], False], END)
    made.run()
    assert made.port.records(made.outs[0]) == [None, 0, "", [], False]


@pytest.mark.parametrize("wrong", [None, (1, 2), iter([1])])
def test_a_source_that_gives_no_list_is_told_what_to_give(wrong):
    with pytest.raises(PipelineError, match=r"next_batch\(\) of 'source' .* must return a list, IDLE or END"):
        from_source(wrong).run()


def test_a_source_that_raises_is_named():
    with pytest.raises(OSError) as caught:
        from_source([1], OSError("gone")).run()
    assert caught.value.__notes__[0].startswith("operator  'source' (source), subtask 1 of 1, job 'job'")


def test_slices_are_short_where_records_are_slow():
    made = bench(
        lambda env: (
            env.from_collection([]).union(env.from_collection([])).map(lambda n: slowly(n), name="step").for_each(print)
        ),
        "step",
    )

    def slowly(n):
        made.port.clock.advance(0.1)
        return n

    made.deliver(made.ins[0], *range(40))
    made.subtask.advance()  # takes the frame
    counts = []
    for _ in range(3):
        made.subtask.advance()
        counts.append(made.counts()["step"])
    assert counts == [1, 2, 3]


# --- what was emitted before a call ------------------------------------------------------------------------


class Echo:
    def process(self, value):
        return value


@pytest.mark.parametrize(("answers_at_once", "sent_before"), [(False, [1, 2]), (True, [1])])
def test_what_was_emitted_before_a_call_is_sent_if_the_reply_does_not_come_at_once(answers_at_once, sent_before):
    """The first record is a slice of its own, at whose end it is sent."""

    def build(env):
        env.register_service("echo", Echo)

        def ask(n, ctx):
            return ctx.call_service("echo", n) if n == 3 else n

        both = env.from_collection([]).union(env.from_collection([]))
        step = both.map(ask, name="ask")
        step.for_each(print)
        step.for_each(print)

    made = bench(build, "ask")
    made.port.answers_at_once = answers_at_once
    sent_at_call = []
    made.port.answer = lambda service, method, args: sent_at_call.append(made.port.records(made.outs[0])) or "reply"
    made.give(made.ins[0], 1, 2, 3, 4)
    assert sent_at_call == [sent_before]
    assert made.port.records(made.outs[0]) == [1, 2, "reply", 4]
