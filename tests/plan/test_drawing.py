"""The plan as a user sees it, with a service, a side output and a shuffle."""

import re

import pytest

from sage_flow import LocalEnvironment, PipelineService


class Memory:
    def get(self): ...


def parse(value):
    return value


@pytest.fixture
def env():
    env = LocalEnvironment("chat", parallelism=2)
    env.register_service("memory", Memory, timeout=2.5)
    env.register_service("answer", PipelineService(lambda asked: asked.map(parse, name="compose"), parallelism=3))
    said = env.from_collection(["a"], name="questions").map(parse, name='say "hi"', on_error="dead_letter")
    said.dead_letters().for_each(print, name="bad")
    said.key_by(len, name="length").count(name="per length").collect("out")
    return env


EXPLAINED = """\
job 'chat': 6 chains, 11 subtasks

[0] answer/requests -> answer/compose   x3 (service 'answer')
      answer/requests          requests         HERE
      answer/compose           map              HERE
   -> reply to the caller  by forward

[1] questions   x1
      questions                source           HERE
   -> [2] say "hi"  by rebalance

[2] say "hi"   x2
      say "hi"                 map              HERE  on_error=dead_letter
   -> [3] bad  by forward, side output dead_letters
   -> [4] per length -> collect-1  by hash of length

[3] bad   x2
      bad                      sink             HERE

[4] per length -> collect-1   x2
      per length               count            HERE
      collect-1                collect          HERE  rows 'out'
   -> driver  by forward

[5] memory   x1 (service 'memory')
      memory                   service          HERE

service 'memory': calls go to [5], timeout 2.5 s

service 'answer': calls go to [0], timeout 10 s"""

DRAWN = """\
flowchart LR
    c1["questions<br/>x1"]
    c2["say #quot;hi#quot;<br/>x2"]
    c3["bad<br/>x2"]
    c4["per length<br/>collect-1: out<br/>x2"]
    subgraph service_5["service memory"]
        c5["memory<br/>x1"]
    end
    subgraph service_0["service answer"]
        c0["answer/requests<br/>answer/compose<br/>x3"]
    end
    c1 -->|"rebalance"| c2
    c2 -->|"forward, side output dead_letters"| c3
    c2 -->|"hash of length"| c4
"""


def test_a_plan_explains_itself(env):
    assert re.sub(r"\S*test_drawing\.py:\d+", "HERE", env.explain()) == EXPLAINED


def test_a_plan_draws_itself(env):
    assert env.draw() == DRAWN


@pytest.mark.parametrize("name", ['a "quoted" name', "a [box] (round) {curly}", "end", "x-->y", "two\nlines", "<b>"])
def test_whatever_the_names_the_flowchart_stays_one(name):
    env = LocalEnvironment("chat")
    env.register_service(name + " service", Memory)
    env.from_collection([1], name=name).map(parse, name=name + " map", parallelism=2).for_each(print)
    lines = env.draw().splitlines()
    line = re.compile(
        r"""flowchart\ LR | end | \ +(
            c\d+\["[^"\n]*"\] |
            subgraph\ service_\d+\["[^"\n]*"\] |
            end |
            c\d+\ -->\|"[^"\n]*"\|\ c\d+
        )""",
        re.VERBOSE,
    )
    assert [text for text in lines if not line.fullmatch(text)] == []
