"""Questions of a dialogue: which ones lean on earlier turns, and what they ask for then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from operators.retrieval import Found, terms
from operators.text import words

__all__ = ["Answer", "Query", "Question", "Turn", "leans_on_earlier", "query_for"]

_CONNECTIVES = frozenset(("and", "but", "or", "so", "then", "also"))
_REFERENCES = frozenset(("it", "its", "it's", "they", "them", "their", "this", "these", "those", "he", "his", "she"))
_FEW = 3  # terms; a longer question speaks for itself, whatever its pronouns refer to


class Question(NamedTuple):
    """What somebody asks. `number`: in the order of asking, over all conversations."""

    text: str
    conversation: str
    number: int


class Answer(NamedTuple):
    """The passages that answer a question, best first; none if no passage does."""

    question: Question
    quotes: tuple[Found, ...]


class Turn(NamedTuple):
    """A question that was answered, and the places (`file:line`) that its answer quoted."""

    question: str
    places: tuple[str, ...] = ()


class Query(NamedTuple):
    """What to look up for a question, and the places that it does not want to hear of again."""

    text: str
    told: frozenset[str] = frozenset()


def leans_on_earlier(question: str) -> bool:
    """Whether a question has too few words of its own to be understood alone.

    >>> [leans_on_earlier(text) for text in ("And how does it end?", "Why?", "How does a job end?")]
    [True, True, False]
    """
    own = set(terms(question))
    if not own:
        return True
    said = words(question)
    return len(own) <= _FEW and (said[0] in _CONNECTIVES or not _REFERENCES.isdisjoint(said))


def query_for(question: str, turns: Sequence[Turn]) -> Query:
    """What to look up for a question that comes after these turns (oldest first).

    One that leans on earlier turns adds their words, back to a turn that stands alone; its own words count more.
    One that has no words of its own ("Tell me more") asks for what those turns have not quoted yet.

    >>> turns = [Turn("How does a job end?", ("jobs.md:7",))]
    >>> query_for("And on a cluster?", turns).text
    'And on a cluster? And on a cluster? How does a job end?'
    >>> query_for("Tell me more", turns)
    Query(text='How does a job end?', told=frozenset({'jobs.md:7'}))
    """
    earlier = _leant_on(turns) if leans_on_earlier(question) else []
    asked = [turn.question for turn in earlier]
    if earlier and not terms(question):
        return Query(" ".join(asked), frozenset(place for turn in earlier for place in turn.places))
    return Query(" ".join([question, question, *asked] if asked else [question]))


def _leant_on(turns: Sequence[Turn]) -> list[Turn]:
    """The last turns, latest first, up to one that stands alone."""
    found = []
    for turn in reversed(turns):
        found.append(turn)
        if not leans_on_earlier(turn.question):
            break
    return found
