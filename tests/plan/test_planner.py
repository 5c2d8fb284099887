"""What shares a chain, what travels on which channel."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_flow import LocalEnvironment, PipelineService, Source
from sage_flow.errors import PipelineError
from sage_flow.plan.graph import Partitioning
from sage_flow.plan.physical import DRIVER_CHAIN, REPLY


def same(value):
    return value


def chains(env):
    return [[operator.name for operator in chain.operators] for chain in env._graph.plan().chains]


def edges(env):
    """(from, to, how) by the names of the chains' heads."""
    plan = env._graph.plan()
    ends = {DRIVER_CHAIN: "driver", REPLY: "reply"}
    return [
        (
            plan.chains[edge.source].head.name,
            ends.get(edge.target) or plan.chains[edge.target].head.name,
            str(edge.partitioning),
        )
        for edge in plan.edges
    ]


@pytest.fixture
def env():
    return LocalEnvironment("job")


@pytest.fixture
def env3():
    return LocalEnvironment("job", parallelism=3)


# --- chaining ---------------------------------------------------------------------------------------------


def test_neighbours_of_equal_parallelism_are_one_chain(env):
    env.from_collection([1], name="s").map(same, name="a").filter(same, name="b").for_each(same, name="c")
    assert chains(env) == [["s", "a", "b", "c"]]
    assert edges(env) == []


def test_a_change_of_parallelism_breaks_a_chain_and_rebalances(env):
    env.from_collection([1], name="s").map(same, name="a", parallelism=2).map(same, name="b", parallelism=2).for_each(
        same, name="c"
    )
    assert chains(env) == [["s"], ["a", "b"], ["c"]]
    assert edges(env) == [("s", "a", "rebalance"), ("a", "c", "rebalance")]


def test_a_source_that_cannot_share_its_work_has_one_subtask(env3):
    env3.from_collection([1], name="s").map(same, name="a").for_each(same, name="b")
    assert chains(env3) == [["s"], ["a", "b"]]


def test_a_source_that_cannot_share_its_work_is_not_asked_to(env):
    env.from_source(Source(), parallelism=2).for_each(same)
    with pytest.raises(PipelineError, match="cannot share its work: its parallelism is at most 1, not 2"):
        env.explain()


def test_at_parallelism_one_keys_need_no_shuffle(env):
    env.from_collection([1], name="s").key_by(same, name="k").count(name="n").for_each(same, name="p")
    assert chains(env) == [["s", "k", "n", "p"]]


def test_at_a_higher_parallelism_keys_are_shuffled(env3):
    env3.from_collection([1], name="s").map(same, name="a").key_by(same, name="k").count(name="n").collect("out")
    assert chains(env3) == [["s"], ["a"], ["n", "collect-1"]]
    assert edges(env3) == [("s", "a", "rebalance"), ("a", "n", "hash"), ("n", "driver", "forward")]


@pytest.mark.parametrize("verb", ["rebalance", "broadcast", "forward"])
def test_at_parallelism_one_every_way_to_spread_is_the_same(env, verb):
    getattr(env.from_collection([1], name="s"), verb)().map(same, name="a").for_each(same, name="b")
    assert chains(env) == [["s", "a", "b"]]


@pytest.mark.parametrize("verb", ["rebalance", "broadcast"])
def test_records_that_are_spread_break_a_chain(env3, verb):
    stream = env3.from_collection([1], name="s").map(same, name="a")
    getattr(stream, verb)().map(same, name="b").for_each(same, name="c")
    assert chains(env3) == [["s"], ["a"], ["b", "c"]]
    assert edges(env3)[1] == ("a", "b", verb)


def test_forward_needs_equal_parallelism(env):
    env.from_collection([1]).forward().map(same, parallelism=2).for_each(same)
    with pytest.raises(PipelineError, match=r"by forward\(\), which needs equal parallelism, not 1 and 2"):
        env.explain()


def test_two_readers_break_a_chain(env):
    stream = env.from_collection([1], name="s").map(same, name="a")
    stream.for_each(same, name="left")
    stream.for_each(same, name="right")
    assert chains(env) == [["s", "a"], ["left"], ["right"]]
    assert edges(env) == [("s", "left", "forward"), ("s", "right", "forward")]


def test_two_inputs_break_a_chain(env):
    left, right = env.from_collection([1], name="l"), env.from_collection([2], name="r")
    left.union(right).map(same, name="a").for_each(same, name="b")
    assert chains(env) == [["l"], ["r"], ["a", "b"]]


def test_a_stream_united_with_itself_is_read_twice(env):
    stream = env.from_collection([1], name="s")
    stream.union(stream).for_each(same, name="a")
    assert edges(env) == [("s", "a", "forward")] * 2


def test_the_sides_of_connected_streams_are_told_apart(env):
    left, right = env.from_collection([1], name="l"), env.from_collection([2], name="r")
    left.connect(right).map(same, same, name="a").for_each(same, name="b")
    assert [edge.side for edge in env._graph.plan().edges] == [0, 1]


def test_a_side_output_leaves_its_chain_where_it_is_written(env):
    stream = env.from_collection([1], name="s").map(same, name="a", on_error="dead_letter")
    stream.dead_letters().for_each(same, name="bad")
    stream.map(same, name="b").for_each(same, name="c")
    assert chains(env) == [["s", "a", "b", "c"], ["bad"]] or chains(env) == [["s", "a"], ["bad"], ["b", "c"]]
    (side,) = [edge for edge in env._graph.plan().edges if edge.tag is not None]
    plan = env._graph.plan()
    assert (side.tag, plan.chains[side.source].operators[side.operator].name) == ("dead_letters", "a")


def test_collect_is_part_of_the_chain_that_feeds_it_at_any_parallelism(env):
    env.from_collection([1], name="s").map(same, name="a", parallelism=3).collect("out")
    assert chains(env) == [["s"], ["a", "collect-1"]]
    assert len([c for c in env._graph.plan().channels if c.consumer == 0]) == 3


def test_key_by_in_front_of_two_readers_travels_on_both_edges(env):
    keyed = env.from_collection([1], name="s").key_by(same, name="k")
    keyed.count(name="n").for_each(same)
    keyed.sum(name="m").for_each(same)
    assert [edge.key.name for edge in env._graph.plan().edges] == ["k", "k"]
    assert {edge.partitioning for edge in env._graph.plan().edges} == {Partitioning.HASH}


# --- services ---------------------------------------------------------------------------------------------


class Memory:
    def open(self, ctx): ...

    def get(self): ...

    def _secret(self): ...


def test_a_class_service_is_a_chain_of_its_own_and_names_its_methods(env):
    env.register_service("memory", Memory, parallelism=2, max_pending=3, timeout=4.0)
    env.from_collection([1], name="s").for_each(same)
    plan = env._graph.plan()
    service = plan.services["memory"]
    assert (service.methods, service.max_pending, service.timeout_s) == (frozenset({"get"}), 3, 4.0)
    assert len(plan.addresses(service.chain)) == 2


def test_the_pipeline_of_a_service_starts_at_its_requests_and_ends_in_replies(env):
    env.register_service("svc", PipelineService(lambda requests: requests.map(same, name="a"), parallelism=2))
    env.from_collection([1], name="s").for_each(same)
    assert ["svc/requests", "svc/a"] in chains(env)
    assert ("svc/requests", "reply", "forward") in edges(env)
    plan = env._graph.plan()
    assert plan.chains[plan.services["svc"].chain].parallelism == 2
    assert plan.services["svc"].methods == {"process"}


def test_a_service_that_answers_with_its_request_has_no_steps(env):
    env.register_service("echo", PipelineService(lambda requests: requests))
    env.from_collection([1], name="s").for_each(same)
    assert ["echo/requests"] in chains(env)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (lambda r: r.map_batches(same), "joins records of several requests"),
        (lambda r: r.key_by(same).count(emit="final"), "joins records of several requests"),
        (lambda r: r.broadcast().map(same), "every copy would be an output"),
    ],
)
def test_what_cannot_answer_one_request_at_a_time_is_refused_in_a_service(env, body, match):
    env.register_service("svc", PipelineService(body))
    env.from_collection([1]).for_each(same)
    with pytest.raises(PipelineError, match=match):
        env.explain()


def test_a_service_reads_nothing_but_its_requests(env):
    outside = env.from_collection([1], name="outside")
    env.register_service("svc", PipelineService(lambda requests: requests.union(outside).map(same)))
    outside.for_each(same)
    with pytest.raises(PipelineError, match="can only read its requests"):
        env.explain()


# --- the whole --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["map", "key", "broadcast", "fork"]), st.integers(1, 4)), max_size=6))
def test_channels_are_numbered_in_order_and_join_every_edge_of_every_subtask(steps):
    env = LocalEnvironment("job")
    stream = env.from_collection([1])
    for verb, parallelism in steps:
        match verb:
            case "map":
                stream = stream.map(same, parallelism=parallelism)
            case "key":
                stream = stream.key_by(same).map(same, parallelism=parallelism)
            case "broadcast":
                stream = stream.broadcast().map(same, parallelism=parallelism)
            case "fork":
                stream.for_each(same, parallelism=parallelism)
    stream.collect("out")
    plan = env._graph.plan()
    assert [channel.id for channel in plan.channels] == list(range(len(plan.channels)))
    assert [subtask.address for subtask in plan.subtasks] == list(range(1, len(plan.subtasks) + 1))
    for edge in plan.edges:
        producers = plan.addresses(edge.source)
        consumers = [0] if edge.target == DRIVER_CHAIN else plan.addresses(edge.target)
        pairs = [(c.producer, c.consumer) for c in plan.channels if c.edge is edge]
        if edge.partitioning is Partitioning.FORWARD and consumers != [0]:
            assert pairs == list(zip(producers, consumers))
        else:
            assert sorted(pairs) == sorted((p, c) for p in producers for c in consumers)
    names = [operator.name for chain in plan.chains for operator in chain.operators]
    assert len(names) == len(set(names))


def test_a_plan_pickles(env3):
    env3.register_service("memory", Memory)
    env3.register_service("svc", PipelineService(lambda requests: requests.map(same)))
    env3.from_collection([1]).map(same).key_by(len).count().collect("out")
    plan = env3._graph.plan()
    copy = pickle.loads(pickle.dumps(plan))
    assert (copy.edges, copy.services, copy.job) == (plan.edges, plan.services, plan.job)
    assert copy.channels == plan.channels
    assert [subtask.name for subtask in copy.subtasks] == [subtask.name for subtask in plan.subtasks]


def test_subtasks_are_counted_from_one_in_their_names(env):
    env.from_collection([1], name="s").map(same, name="a", parallelism=2).for_each(same, name="b", parallelism=2)
    assert [s.name for s in env._graph.plan().subtasks] == ["s[1/1]", "a -> b[1/2]", "a -> b[2/2]"]


NOTHING = pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda env: env.from_collection([1]), "no sink"),
        (lambda env: (env.from_collection([1]).for_each(same), env.from_collection([2], name="lost")), "'lost'"),
        (
            lambda env: env.from_collection([1]).map(same, name="m", on_error="dead_letter").for_each(same),
            "nothing reads its dead letters",
        ),
    ],
)


@NOTHING
def test_what_can_come_to_nothing_is_refused(env, write, match):
    write(env)
    with pytest.raises(PipelineError, match=match):
        env.submit()


@NOTHING
def test_half_a_pipeline_is_explained_and_drawn_with_what_it_lacks(env, write, match):
    write(env)
    assert re.search(rf"^missing: .*{match}", env.explain(), re.MULTILINE)
    assert re.search(rf"^    %% missing: .*{match}", env.draw(), re.MULTILINE)
    assert "[0] collection-1 " in env.explain()
