"""Which of several readers gets the objects themselves, and when the others' copies are made."""

import pytest
from fake_port import FakePort, bench

from sage_flow import PipelineService
from sage_flow.runtime.messages import Request


@pytest.fixture(name="pickled")
def channels_that_pickle(monkeypatch):
    """Channels of fake ports whose readers get pickles; a test adds their numbers before it makes its bench."""
    found = set()
    monkeypatch.setattr(FakePort, "shares_objects", lambda self, channel: channel not in found)
    return found


def stepped(env):
    """A step that is not fused with what it reads."""
    return env.from_collection([]).union(env.from_collection([])).map(lambda row: row, name="step")


def two_readers(env):
    step = stepped(env)
    step.for_each(print)
    step.for_each(print)


def broadcast(env):
    step = stepped(env)
    step.broadcast().for_each(print, parallelism=2)


@pytest.mark.parametrize("build", [two_readers, broadcast])
@pytest.mark.parametrize(
    ("pickles", "gets_itself"),
    [
        ((False, False), (True, False)),
        ((False, True), (False, True)),
        ((True, False), (True, False)),
        ((True, True), (True, True)),
    ],
)
def test_the_objects_themselves_go_to_those_that_pickle_them_or_to_one_that_does_not(
    pickled, build, pickles, gets_itself
):
    pickled |= {channel for channel, does in zip(bench(build, "step").outs, pickles, strict=True) if does}
    made = bench(build, "step")
    record = {"parts": [1]}
    made.give(made.ins[0], record)
    sent = [made.port.records(channel) for channel in made.outs]
    assert sent == [[record], [record]]
    assert tuple(records[0] is record for records in sent) == gets_itself


def test_all_copies_are_made_before_the_first_reader_can_change_anything():
    """Whoever gets a frame changes it at once, while the others' frames wait for credit."""

    def build(env):
        step = stepped(env)
        step.broadcast().for_each(print, parallelism=2)
        step.for_each(print)
        step.union(step).for_each(print)

    made = bench(build, "step")
    assert len(made.outs) == 5
    seen = []

    def change(frame):
        seen.extend(row["n"] for row in frame.records)
        for row in frame.records:
            row["n"] = "changed"

    made.port.before_emit = change
    made.give(made.ins[0], {"n": 1}, {"n": 2})
    assert sorted(seen) == [1] * 5 + [2] * 5


def test_what_records_of_a_frame_share_their_copies_share_too():
    made = bench(two_readers, "step")
    part = []
    output = made.subtask.runner.outputs[1]  # by hand: how many records a slice has is a matter of time
    for _ in "ab":
        output.add({"part": part})
    output.make_own()
    first, second = output.records
    assert first["part"] is second["part"] is not part


def test_a_record_that_leaves_a_services_pipeline_twice_is_copied_before_it_leaves():
    def build(env):
        def body(requests):
            step = requests.map(lambda row: row, name="step")
            return step.rebalance().map(lambda row: row, parallelism=2).union(step.rebalance().map(str, parallelism=2))

        env.register_service("body", PipelineService(body, reply="many"))
        env.from_collection([]).collect("nothing")

    made = bench(build, "body/step")
    record = {"n": 1}
    seen = []
    made.port.before_emit = lambda frame: (seen.append(dict(frame.records[0])), frame.records[0].update(n="changed"))
    made.subtask.on_message(Request(9, 1, 5.0, "process", (record,), {}, 5.0))
    made.run()
    assert seen == [{"n": 1}, {"n": 1}]


def test_the_text_of_a_chain_does_not_say_who_else_reads():
    def one_reader(env):
        stepped(env).for_each(print, parallelism=2)

    lines = [bench(build, "step").subtask.runner.entry().source for build in (one_reader, two_readers)]
    assert lines[1] == lines[0].replace("            o0(v0)\n", "            o0(v0)\n            o1(v0)\n").replace(
        "o0=o0", "o0=o0, o1=o1"
    )
