"""Questions that lean on earlier turns."""

import pytest

from operators.dialogue import Query, Turn, leans_on_earlier, query_for


@pytest.mark.parametrize(
    "question",
    ["Why?", "And how does it end?", "but on a cluster?", "What are its arguments?", "Tell me more", "42?", "?", ""],
)
def test_a_question_with_few_words_of_its_own_leans_on_earlier_turns(question):
    assert leans_on_earlier(question)


@pytest.mark.parametrize(
    "question",
    [
        "What is a ticket?",
        "Why is a chain compiled?",
        "And how is a chain of operators compiled into one function?",
        "When a source ends, who tells its readers that no record comes?",
        "Andrew?",
    ],
)
def test_one_that_says_what_it_is_about_stands_alone(question):
    assert not leans_on_earlier(question)


def test_a_question_that_stands_alone_is_looked_up_as_it_is():
    assert query_for("What is a ticket?", [Turn("What is a job?", ("a.md:1",))]) == Query("What is a ticket?")


def test_without_earlier_turns_there_is_nothing_to_lean_on():
    assert query_for("And how does it end?", []) == Query("And how does it end?")
    assert query_for("Why?", []) == Query("Why?")


def test_a_chain_of_questions_reaches_back_to_the_one_that_stands_alone():
    turns = [Turn("What is tea?"), Turn("How does a job start?"), Turn("And how does it end?")]
    query = query_for("And on a cluster?", turns)
    assert query == Query("And on a cluster? And on a cluster? And how does it end? How does a job start?")


def test_only_the_turns_that_are_remembered_can_be_leant_on():
    assert query_for("Its end?", [Turn("And its beginning?")]) == Query("Its end? Its end? And its beginning?")


def test_more_is_what_was_not_quoted_yet():
    turns = [
        Turn("What is tea?", ("a.md:1",)),
        Turn("How does a job end?", ("b.md:1", "b.md:9")),
        Turn("Tell me more", ("b.md:20",)),
    ]
    text = "Tell me more How does a job end?"
    assert query_for("Go on", turns) == Query(text, frozenset({"b.md:1", "b.md:9", "b.md:20"}))
