"""Which replica answers, and replies of several outputs."""

from __future__ import annotations

import pytest
from async_services import Keeper

from sage_flow import PipelineService, errors
from sage_flow.errors import PipelineError


@pytest.mark.on_ray
def test_calls_with_one_key_reach_one_replica(mode):
    env = mode.environment()
    env.register_service("keeper", Keeper, parallelism=3)
    words = [
        "to",
        "be",
        "or",
        "not",
        "to",
        "be",
        "that",
        "is",
        "the",
        "question",
        "whether",
        "tis",
        "nobler",
        "in",
        "the",
        "mind",
    ] * 4
    env.from_collection(words).rebalance().map(
        lambda word, ctx: (word, *ctx.service("keeper").options(key=word).note(word))
    ).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    for word in set(words):
        mine = [row for row in rows if row[0] == word]
        assert sorted(count for _, count, _ in mine) == list(range(1, words.count(word) + 1))
        assert len({replica for _, _, replica in mine}) == 1
    assert len({replica for _, _, replica in rows}) == 3


def test_a_call_without_key_of_replicas_with_state_is_refused(mode):
    def work(n, ctx):
        with pytest.raises(errors.ServiceError, match=r"options\(key=\.\.\.\), or register it with stateless=True"):
            ctx.service("keeper").note(n)
        with pytest.raises(errors.InvalidKeyError):
            ctx.service("keeper").options(key=[n]).note(n)
        return n

    env = mode.environment()
    env.register_service("keeper", Keeper, parallelism=2)
    env.from_collection([1]).map(work).collect("rows")
    assert env.execute(progress=False).collected["rows"] == [1]


@pytest.mark.on_ray
def test_several_outputs_are_the_reply_of_a_service_that_said_so(mode):
    def work(n, ctx):
        try:
            return ctx.call_service("words", n)
        except errors.NoReply:
            return "no reply"

    env = mode.environment()
    env.register_service("words", PipelineService(lambda requests: requests.flat_map(str.split), 2, reply="many"))
    env.from_collection(["to be", "or", ""]).rebalance().map(work).collect("rows")
    rows = env.execute(progress=False).collected["rows"]
    assert sorted(rows, key=str) == [["or"], ["to", "be"], "no reply"]


def test_reply_is_one_or_many():
    with pytest.raises(PipelineError, match='"one" or "many"'):
        PipelineService(lambda requests: requests, reply="all")
