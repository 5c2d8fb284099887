"""The index of passages against the formulas, computed by hand."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import retrieval
from operators.documents import Passage
from operators.retrieval import PassageIndex, check_installed, terms
from sage_flow.errors import PipelineError

VOCABULARY = ["boil", "brew", "cup", "green", "kettl", "leaf", "milk", "pot", "steam", "sugar", "tea", "wait"]


def passage(text, heading=""):
    return Passage(text, "a.md", 1, heading)


def expected_scores(texts, query):
    """The geometric mean of cosine and share for every text; TF-IDF as scikit-learn documents it."""
    seen = Counter(word for text in texts for word in set(terms(text)))

    def weights(text):
        found = {
            word: (1 + math.log(count)) * (1 + math.log((1 + len(texts)) / (1 + seen[word])))
            for word, count in Counter(terms(text)).items()
        }
        length = math.sqrt(sum(weight**2 for weight in found.values())) or 1.0
        return {word: weight / length for word, weight in found.items()}

    asked = weights(query)
    for text in texts:
        has = weights(text)
        cosine = sum(weight * has.get(word, 0.0) for word, weight in asked.items())
        share = sum(weight**2 for word, weight in asked.items() if word in has)
        yield math.sqrt(cosine * share)


@given(st.integers(), st.integers(1, 12))
def test_scores_and_order_are_those_of_the_formulas(seed, k):
    random_ = random.Random(seed)
    texts = [" ".join(random_.choices(VOCABULARY, k=random_.randint(0, 12))) for _ in range(8)]
    query = " ".join(random_.choices([*VOCABULARY, "unheard"], k=random_.randint(0, 4)))
    scores = dict(enumerate(expected_scores(texts, query)))
    found = PassageIndex([Passage(text, "a.md", line) for line, text in enumerate(texts)]).search(query, k)
    assert len(found) == min(k, sum(score > 0 for score in scores.values()))
    for each in found:
        assert each.score == pytest.approx(scores.pop(each.passage.line))
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert all(score <= found[-1].score + 1e-9 for score in scores.values() if found)


def test_equal_passages_come_in_their_order():
    index = PassageIndex([Passage("green tea", "a.md", line) for line in range(5)])
    assert [each.passage.line for each in index.search("tea", 3)] == [0, 1, 2]


def test_words_of_headings_count():
    index = PassageIndex([passage("It takes three minutes.", "Tea > Brewing"), passage("It takes an hour.", "Coffee")])
    assert [each.passage.heading for each in index.search("how is tea brewed?", 5)] == ["Tea > Brewing"]


def test_a_question_about_something_else_scores_low_although_it_shares_a_word():
    index = PassageIndex(
        [passage("Tea needs hot water."), passage("Coffee needs a filter."), passage("Milk is white.")]
    )
    (right,), (wrong,) = index.search("hot water for tea", 1), index.search("who needs a bicycle in Paris?", 1)
    assert right.score > 0.8
    assert wrong.score < 0.2


@pytest.mark.parametrize("query", ["", "what is it?", "bicycle", "42 !"])
def test_what_has_no_word_in_common_finds_nothing(query):
    assert PassageIndex([passage("Tea needs hot water.")]).search(query, 3) == []


@pytest.mark.parametrize(
    "forms",
    [
        "query queries",
        "class classes",
        "key keys",
        "process processes processed processing",
        "compile compiled compiles compiling",
        "drop dropped dropping drops",
        "hash hashes hashed",
        "queue queues",
        "spill spilling spills",
        "retrieval retrieve retrieves retrieving",
    ],
)
def test_forms_of_a_word_are_one_term(forms):
    assert len(set(terms(forms))) == 1


@pytest.mark.parametrize("others", ["string str", "thing think", "status state", "need needle"])
def test_other_words_are_other_terms(others):
    assert len(set(terms(others))) == 2


def test_function_words_are_no_terms():
    assert (
        terms("What does it do, and how? Don't tell me it's the same! Isn’t what they're saying what I've said?") == []
    )


def test_stop_words_are_those_of_scikit_learn():
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    assert terms(" ".join(ENGLISH_STOP_WORDS)) == []


def test_there_is_something_to_find_and_to_return():
    with pytest.raises(ValueError, match="at least one passage"):
        PassageIndex([])
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        PassageIndex([passage("tea")]).search("tea", 0)


@pytest.mark.parametrize(("module", "package"), [("sklearn", "scikit-learn"), ("snowballstemmer",) * 2])
def test_without_a_library_it_says_what_to_install(module, package, monkeypatch):
    monkeypatch.setattr(retrieval, "find_spec", lambda name: None if name == module else object())
    for use in (check_installed, lambda: PassageIndex([passage("tea")])):
        with pytest.raises(PipelineError, match=rf"needs {package}: pip install {package}"):
            use()
