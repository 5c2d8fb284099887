"""What is wrong in a program of keyed streams is refused where it stands, with its line."""

from datetime import timedelta

import pytest

from sage_flow import CoProcessFunction, ProcessFunction, TumblingWindow
from sage_flow.errors import PipelineError
from sage_flow.testing import stream_of


class Process(ProcessFunction):
    def process(self, value, ctx):
        yield value


class Both(CoProcessFunction):
    def process_left(self, value, ctx):
        yield value

    def process_right(self, value, ctx):
        yield value


def keyed():
    return stream_of(1).key_by(str)


def windows():
    timed = stream_of(1).assign_timestamps(int, max_out_of_order=timedelta(0))
    return timed.key_by(str).window(TumblingWindow(timedelta(seconds=1)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keyed().process(Both), "has one input"),
        (lambda: keyed().process(Both()), "has one input"),
        (lambda: stream_of(1).map(Both), "has one input"),
        (lambda: stream_of(1).map(Process), "methods of a ProcessFunction"),
        (lambda: stream_of(1).flat_map(Process()), "methods of a ProcessFunction|needs a function"),
        (lambda: windows().process(Process), "methods of a ProcessFunction"),
        (lambda: keyed().join(keyed(), lambda left, right: left), "two environments"),
        (lambda: keyed().join(5, lambda left, right: left), "not with 5"),
        (lambda: keyed().count(emit="last"), "emit of 'count'"),
        (lambda: keyed().top(1, by=int, emit="last"), "emit of 'top'"),
        (lambda: keyed().count_window(0), "n of 'count_window'"),
    ],
)
def test_an_error_of_the_program_tells_its_line(build, message):
    with pytest.raises(PipelineError, match=message) as caught:
        build()
    assert "test_refused_when_built.py:" in str(caught.value)
