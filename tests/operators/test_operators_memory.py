"""The two memories, alone and as services."""

import pytest

from operators.dialogue import Turn
from operators.memory import LongTermMemory, ShortTermMemory
from sage_flow.errors import InputError


def turns(*questions):
    return [Turn(question) for question in questions]


def test_conversations_are_remembered_apart():
    memory = ShortTermMemory()
    for n in range(3):
        memory.append("a", Turn(f"a{n}"))
        memory.append("b", Turn(f"b{n}"))
    assert memory.retrieve("a", 2) == turns("a1", "a2")
    assert memory.retrieve("b", 9) == turns("b0", "b1", "b2")
    assert memory.retrieve("c", 1) == []


def test_old_turns_are_forgotten():
    memory = ShortTermMemory(max_turns=3)
    for n in range(10):
        memory.append("a", Turn(str(n)))
    assert memory.retrieve("a", 100) == turns("7", "8", "9")


def test_the_conversation_that_was_quiet_for_longest_is_forgotten():
    memory = ShortTermMemory(max_conversations=2)
    for conversation in ("a", "b", "a", "c"):
        memory.append(conversation, Turn("?"))
    assert [len(memory.retrieve(conversation, 9)) for conversation in "abc"] == [2, 0, 1]


def test_asking_for_a_conversation_does_not_make_one():
    memory = ShortTermMemory(max_conversations=1)
    memory.append("a", Turn("?"))
    memory.retrieve("b", 1)
    assert memory.retrieve("a", 1) == turns("?")


def test_what_was_retrieved_does_not_change():
    memory = ShortTermMemory()
    memory.append("a", Turn("1"))
    before = memory.retrieve("a", 5)
    memory.append("a", Turn("2"))
    assert before == turns("1")


@pytest.mark.parametrize("limits", [{"max_turns": 0}, {"max_conversations": -1}])
def test_a_memory_holds_at_least_one(limits):
    ((name, value),) = limits.items()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not {value}"):
        ShortTermMemory(**limits)


@pytest.mark.parametrize("n", [0, -1])
def test_at_least_one_turn_is_asked_for(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, not {n}"):
        ShortTermMemory().retrieve("a", n)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tea.md").write_text("# Tea\n\nTea needs boiling water.\n\n# Coffee\n\nCoffee needs a filter.\n")
    (tmp_path / "milk.txt").write_text("Milk is white.\n\nCows give milk.\n")
    return tmp_path


def test_passages_are_found_with_score_file_and_line(mode, folder):
    env = mode.environment()
    env.register_service("long_term_memory", LongTermMemory, str(folder), ["milk.txt", "tea.md"], 20, timeout=300)
    queries = env.from_collection(["boiling tea", "coffee", "cow", "bicycle"])
    queries.map(lambda query, ctx: (query, ctx.service(LongTermMemory).retrieve(query, k=1))).collect("found")
    found = dict(env.execute(progress=False).collected["found"])
    assert {query: [each.passage.place for each in places] for query, places in found.items()} == {
        "boiling tea": ["tea.md:3"],
        "coffee": ["tea.md:7"],
        "cow": ["milk.txt:3"],
        "bicycle": [],
    }
    assert 0.5 < found["coffee"][0].score <= 1


def test_documents_without_text_are_told(tmp_path):
    for file in ("a.md", "b.md"):
        (tmp_path / file).write_text("# Only a title\n\n")
    memory = LongTermMemory(str(tmp_path), ["a.md", "b.md"])
    with pytest.raises(InputError, match="there is no text in its 2 documents"):
        memory.open(None)
