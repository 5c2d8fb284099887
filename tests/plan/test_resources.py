"""What operators need of Ray: who may say it, what is refused, and what it does to chains."""

import pickle

import pytest

from sage_flow import LocalEnvironment, PipelineService, Service
from sage_flow.errors import PipelineError
from sage_flow.plan.resources import DEFAULT_OPTIONS, ActorOptions, actor_options
from sage_flow.testing import collect


def same(value):
    return value


class PlacementGroup:
    """Shaped like Ray's."""

    def __init__(self, id):
        self.id = id

    @property
    def bundle_specs(self):
        raise AssertionError("this may ask the cluster")

    def __eq__(self, other):
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self):
        return hash(self.id)


class Memory(Service):
    def get(self): ...


@pytest.fixture
def env():
    return LocalEnvironment("job")


def chains(env):
    """(operators, options as text) of each chain."""
    return [(" ".join(o.name for o in chain.operators), str(chain.options)) for chain in env._graph.plan().chains]


# --- values -----------------------------------------------------------------------------------------------


def test_everything_that_can_be_said():
    said = actor_options(
        "'f'",
        {
            "num_cpus": 0.5,
            "num_gpus": 2,
            "memory": 10**9,
            "resources": {"tpu": 1, "disk": 0.5},
            "placement": "spread",
            "slot_sharing_group": "g",
        },
    )
    assert said == ActorOptions(0.5, 2, 10**9, (("disk", 0.5), ("tpu", 1)), "spread", "g")
    assert pickle.loads(pickle.dumps(said)) == said
    assert hash(said) == hash(pickle.loads(pickle.dumps(said)))
    assert str(said) == (
        "num_cpus=0.5, num_gpus=2, memory=1000000000, resources={disk: 0.5, tpu: 1}, placement=spread,"
        " slot_sharing_group=g"
    )


@pytest.mark.parametrize(
    "placement",
    ["spread", "pack", "node:0123abcd", PlacementGroup("g1")],
    ids=["spread", "pack", "node", "placement group"],
)
def test_placements(placement):
    said = actor_options("'f'", {"placement": placement})
    assert said.placement is placement
    assert pickle.loads(pickle.dumps(said)) == said


def test_a_placement_group_is_shown_by_its_id():
    assert str(actor_options("'f'", {"placement": PlacementGroup("g1")})) == "placement=placement group g1"


def test_zero_is_something_and_none_is_nothing():
    assert actor_options("'f'", {"num_cpus": 0})
    said = actor_options("'f'", dict.fromkeys(["num_cpus", "num_gpus", "memory", "resources", "placement"]))
    assert said == DEFAULT_OPTIONS
    assert not said


def test_options_over_a_default():
    default = ActorOptions(num_cpus=1, num_gpus=1, placement="pack")
    assert ActorOptions(num_gpus=0).over(default) == ActorOptions(num_cpus=1, num_gpus=0, placement="pack")
    assert DEFAULT_OPTIONS.over(default) == default


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        (
            "num_gpu",
            1,
            "'step' .*has no actor option 'num_gpu'; there are: num_cpus, num_gpus, memory, resources, plac",
        ),
        ("num_cpus", -1, "num_cpus of 'step' .* must be a number, 0 or more, not -1"),
        ("num_cpus", "1", "not '1'"),
        ("num_cpus", True, "not True"),
        ("num_cpus", float("nan"), "not nan"),
        ("num_gpus", 1.5, "num_gpus of 'step' .* must be a whole number or a part of one GPU, not 1.5"),
        ("memory", 1.5, "memory of 'step' .* must be a whole number of bytes, 0 or more, not 1.5"),
        ("memory", -1, "not -1"),
        ("memory", "1 GB", "not '1 GB'"),
        ("resources", ["tpu"], "resources of 'step' .* must be a dict of amounts by the names of custom resources"),
        ("resources", {1: 1}, "must be a dict"),
        ("resources", {"tpu": -1}, "'tpu' in resources of 'step' .* must be a number, 0 or more, not -1"),
        ("resources", {"GPU": 1}, "say num_gpus= instead of 'GPU'"),
        ("placement", "near", 'placement of \'step\' .* must be "spread", "pack", "node:<node id>" or a Ray placement'),
        ("placement", "node:", "not 'node:'"),
        ("placement", 5, "not 5"),
        ("slot_sharing_group", 5, "slot_sharing_group of 'step' .* must be a non-empty str, not 5"),
        ("slot_sharing_group", "", "not ''"),
    ],
)
def test_what_is_refused_names_the_operator_and_its_line(env, key, value, match):
    step = env.from_collection([1]).map(same, name="step")
    with pytest.raises(PipelineError, match=match) as refused:
        step.options(**{key: value})
    assert "test_resources.py" in str(refused.value)
    with pytest.raises(PipelineError, match=match.replace("'step' .*", "service 'svc' ").replace("  ", " ")):
        env.register_service("svc", Memory, ray_actor_options={key: value})


def test_the_options_of_a_service_are_a_dict(env):
    with pytest.raises(PipelineError, match="the actor options of service 'svc' must be a dict, not 5"):
        env.register_service("svc", Memory, ray_actor_options=5)


# --- who can say it ---------------------------------------------------------------------------------------


def test_sources_operators_and_sinks_say_it_behind_themselves(env, tmp_path):
    stream = env.from_collection([1], name="source").options(num_cpus=1)
    stream = stream.map(same, name="map").options(num_cpus=2)
    stream.connect(stream).map(same, same, name="both").options(num_cpus=3).collect("rows").options(num_cpus=4)
    stream.for_each(same, name="each").options(num_cpus=5)
    stream.write_text(tmp_path / "x", name="text").options(num_cpus=6)
    stream.print(name="print").options(num_cpus=7)
    stream.key_by(same).count(name="count").options(num_cpus=8).for_each(same, name="last").options(num_cpus=9)
    said = {name.split()[-1]: options for name, options in chains(env)}
    names = ["source", "map", "both", "collect-1", "each", "text", "print", "count", "last"]
    assert said == {name: f"num_cpus={number}" for number, name in enumerate(names, 1)}


def test_what_is_said_later_is_added(env):
    env.from_collection([1], name="s").options(num_cpus=1, num_gpus=1).options(num_cpus=2).collect("rows")
    assert chains(env) == [("s collect-1", "num_cpus=2, num_gpus=1")]


@pytest.mark.parametrize(
    "of",
    [
        lambda stream: stream.key_by(same),
        lambda stream: stream.union(stream),
        lambda stream: stream.rebalance(),
        lambda stream: stream.side_output("x"),
    ],
    ids=["key_by", "union", "rebalance", "side_output"],
)
def test_what_has_no_subtask_needs_nothing(env, of):
    stream = of(env.from_collection([1]))
    with pytest.raises(PipelineError, match="put it right behind that operator"):
        stream.options(num_cpus=1)


def test_a_local_job_runs_as_if_nothing_was_said(env):
    env.register_service("svc", Memory, ray_actor_options={"num_gpus": 8})
    stream = env.from_collection([1, 2]).options(memory=10**15).map(same).options(placement="node:nowhere")
    assert collect(stream) == [1, 2]


# --- chains -----------------------------------------------------------------------------------------------


def test_who_says_nothing_joins_the_chain_before_it(env):
    env.from_collection([1], name="s").map(same, name="a").options(num_gpus=1).map(same, name="b").collect("rows")
    assert chains(env) == [("s", ""), ("a b collect-1", "num_gpus=1")]


def test_who_says_the_same_as_the_chain_joins_it_and_who_says_more_does_not(env):
    stream = env.from_collection([1], name="s").options(num_cpus=1, slot_sharing_group="g")
    stream = stream.map(same, name="a").options(slot_sharing_group="g", num_cpus=1.0)
    stream.map(same, name="b").options(num_cpus=1).map(same, name="c").options(num_cpus=0).collect("rows")
    assert chains(env) == [
        ("s a", "num_cpus=1, slot_sharing_group=g"),
        ("b", "num_cpus=1"),
        ("c collect-1", "num_cpus=0"),
    ]


def test_keyed_operators_of_one_subtask_part_too(env):
    keyed = env.from_collection([1], name="s").key_by(same, name="k")
    keyed.count(name="n").options(num_cpus=1).collect("rows")
    assert chains(env) == [("s", ""), ("n collect-1", "num_cpus=1")]
    assert env.execute(progress=False).collected["rows"] == [(1, 1)]


# --- services ---------------------------------------------------------------------------------------------


def test_the_replicas_of_a_class(env):
    env.register_service("memory", Memory, parallelism=2, stateless=True, ray_actor_options={"num_gpus": 1})
    env.from_collection([1], name="s").collect("rows")
    assert chains(env) == [("s collect-1", ""), ("memory", "num_gpus=1")]


def test_what_is_said_of_a_pipeline_service_is_the_default_of_its_operators(env):
    def body(requests):
        first = requests.map(same, name="a").map(same, name="b").options(num_cpus=2, placement="pack")
        return first.map(same, name="c").options(num_gpus=0)

    env.register_service("svc", PipelineService(body), ray_actor_options={"num_gpus": 1, "placement": "pack"})
    env.from_collection([1], name="s").map(lambda n, ctx: ctx.call_service("svc", n), name="ask").collect("rows")
    assert chains(env) == [
        ("svc/requests svc/a", "num_gpus=1, placement=pack"),
        ("svc/b", "num_cpus=2, num_gpus=1, placement=pack"),
        ("svc/c", "num_gpus=0, placement=pack"),
        ("s ask collect-1", ""),
    ]
    assert env.execute(progress=False).collected["rows"] == [1]


# --- as the user sees it ----------------------------------------------------------------------------------


def test_explain_and_draw_show_what_was_said(env):
    step = env.from_collection([1], name="s").map(same, name="a", parallelism=2)
    step.options(num_gpus=0.5, slot_sharing_group='the "g"').collect("rows")
    assert '[1] a -> collect-1   x2   num_gpus=0.5, slot_sharing_group=the "g"' in env.explain().splitlines()
    assert 'c0["s<br/>x1"]' in env.draw()
    assert 'c1["a<br/>collect-1: rows<br/>x2<br/>num_gpus=0.5, slot_sharing_group=the #quot;g#quot;"]' in env.draw()


def test_a_plan_with_options_pickles(env):
    env.from_collection([1]).map(same).options(placement=PlacementGroup("g1"), resources={"tpu": 1}).collect("rows")
    plan = env._graph.plan()
    assert [chain.options for chain in pickle.loads(pickle.dumps(plan)).chains] == [c.options for c in plan.chains]


def test_a_sink_shows_itself_by_name(env):
    assert repr(env.from_collection([1]).collect("rows")) == "<sink 'collect-1' of the rows 'rows'>"
    assert repr(env.from_collection([1]).for_each(same, name="each")) == "<sink 'each'>"
