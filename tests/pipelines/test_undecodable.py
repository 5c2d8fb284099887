"""What another process cannot make again: the job fails, and says what it was and where."""

import pytest

from sage_flow import LocalEnvironment, Service
from sage_flow.errors import CodecError, WorkerDied
from sage_flow.executors.processes import ProcessExecutor

REASON = r"cannot be decoded \(ValueError: invalid literal"


class FailsToLoad:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self):
        return int, ("no number",)


class Accepts(Service):
    def process(self, value):
        return "accepted"


def made(count):
    env = LocalEnvironment("test", executor=ProcessExecutor())
    return env, env.from_collection([count]).flat_map(lambda n: [FailsToLoad()] * n)


@pytest.mark.parametrize("count", [2, 1000])
def test_records_at_an_operator(count):
    env, stream = made(count)
    stream.rebalance().map(str, parallelism=2, name="text").for_each(len)
    with pytest.raises(CodecError, match=REASON) as caught:
        env.execute()
    assert any("'text'" in note for note in caught.value.__notes__), caught.value.__notes__


@pytest.mark.parametrize("count", [2, 1000])
def test_records_at_collect(count):
    env, stream = made(count)
    stream.collect("rows")
    with pytest.raises(CodecError, match=REASON) as caught:
        env.execute()
    assert any("rows" in note for note in caught.value.__notes__)


def test_arguments_of_a_call():
    env = LocalEnvironment("test", executor=ProcessExecutor())
    env.register_service("accepts", Accepts)
    numbers = env.from_collection([1])
    numbers.map(lambda n, ctx: ctx.call_service("accepts", FailsToLoad(), timeout=60.0)).collect("rows")
    with pytest.raises(WorkerDied, match=f"lost its connection.*{REASON}"):
        env.execute()
