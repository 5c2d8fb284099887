"""What is wrong in a program of keyed streams is refused where it stands, with its line."""

import pytest

from sage_flow import CoProcessFunction
from sage_flow.errors import PipelineError
from sage_flow.testing import stream_of


class Both(CoProcessFunction):
    def process_left(self, value, ctx):
        yield value

    def process_right(self, value, ctx):
        yield value


def keyed():
    return stream_of(1).key_by(str)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keyed().process(Both), "has one input"),
        (lambda: keyed().process(Both()), "has one input"),
        (lambda: stream_of(1).map(Both), "has one input"),
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
