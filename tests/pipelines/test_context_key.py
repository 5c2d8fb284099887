"""ctx.key is the key of the record under way, or an error says why there is none."""

import asyncio

import pytest
from failing_pipelines import error_of, notes_of

from sage_flow import Function, LocalEnvironment
from sage_flow.errors import PipelineError

NUMBERS = list(range(20))


def parity(n):
    return n % 2


def key_of(n, ctx):
    return (n, ctx.key)


def the_error(env):
    error = error_of(env, PipelineError)
    assert "'step' has no " in str(error)
    assert "lets the job go on" not in notes_of(error)
    return str(error)


@pytest.mark.parametrize(
    "write",
    [
        lambda stream: stream.map(key_of, name="step", on_error="skip"),
        lambda stream: stream.key_by(parity).map(lambda n: n).map(key_of, name="step"),
        lambda stream: stream.key_by(parity).filter(lambda n: True).map(key_of, name="step"),
        lambda stream: stream.key_by(parity).map(lambda n: n, parallelism=2).map(key_of, name="step", parallelism=3),
        lambda stream: stream.connect(stream).map(key_of, key_of, name="step"),
    ],
    ids=["without key_by", "behind a map", "behind a filter", "behind another parallelism", "connected"],
)
def test_where_the_stream_has_no_key_an_error_says_so_and_what_to_do(write):
    env = LocalEnvironment("test")
    write(env.from_collection(NUMBERS)).collect()
    assert "put it directly before this operator, or keep the key in the record" in the_error(env)


class AsksIn(Function):
    def __init__(self, method):
        self.method = method

    def open(self, ctx):
        self.ctx = ctx
        self.ask("open")

    def __call__(self, n):
        return n

    def close(self):
        self.ask("close")

    def ask(self, method):
        if method == self.method:
            self.ctx.key  # noqa: B018 - it raises


@pytest.mark.parametrize("method", ["open", "close"])
def test_open_and_close_have_no_key(method):
    env = LocalEnvironment("test")
    env.from_collection(NUMBERS).key_by(parity).map(AsksIn(method), name="step").collect()
    assert "a key belongs to one record" in the_error(env)


def test_the_state_of_a_key_needs_one_too():
    class Remembers(AsksIn):
        def ask(self, method):
            if method == self.method:
                self.ctx.state.value("v").get()

    env = LocalEnvironment("test")
    env.from_collection(NUMBERS).key_by(parity).map(Remembers("close"), name="step").collect()
    assert "a key belongs to one record" in the_error(env)


@pytest.mark.parametrize("size", [3, 100])
def test_a_batch_has_records_of_many_keys_and_none_itself(size):
    env = LocalEnvironment("test")
    batches = env.from_collection(NUMBERS).key_by(parity)
    batches.map_batches(lambda batch, ctx: [ctx.key], batch_size=size, name="step").collect()
    assert "batches of map_batches do not have" in the_error(env)


@pytest.mark.on_ray
def test_in_map_async_each_coroutine_keeps_the_key_and_the_state_of_its_record(mode):
    async def remember(n, ctx):
        key = ctx.key
        await asyncio.sleep(0)
        total = ctx.state.value("total", 0)
        total.set(total.get() + n)
        return (n, key, ctx.key, ctx.operator_name)

    env = mode.environment()
    env.from_collection(NUMBERS).key_by(parity).map_async(remember, name="step").collect("rows")
    assert sorted(env.execute().collected["rows"]) == [(n, n % 2, n % 2, "step") for n in NUMBERS]


def test_in_map_async_the_records_of_a_key_share_its_state():
    async def total_of(n, ctx):
        total = ctx.state.value("total", 0)
        total.set(total.get() + n)
        return (ctx.key, total.get())

    env = LocalEnvironment("test")
    env.from_collection(NUMBERS).key_by(parity).map_async(total_of, capacity=1).collect("rows")
    rows = env.execute().collected["rows"]
    assert rows[-2:] == [(0, sum(NUMBERS[::2])), (1, sum(NUMBERS[1::2]))]


def test_a_context_has_no_other_names_than_its_own():
    env = LocalEnvironment("test")
    env.from_collection([1]).map(lambda n, ctx: ctx.kay, name="step").collect()
    assert "no attribute 'kay'" in str(error_of(env, AttributeError))
