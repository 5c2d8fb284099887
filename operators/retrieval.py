"""Which passages are about the words of a question: TF-IDF and the cosine between vectors."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

from operators.documents import Passage
from operators.text import words
from sage_flow.errors import PipelineError

__all__ = ["Found", "PassageIndex", "check_installed", "terms"]

_COLUMNS = 2**18  # of the hashed vocabulary: two of 10,000 words rarely meet

_FUNCTION_WORDS = frozenset(
    words("""
    a about again all also am an and any are as at be because been before being between both but by can cannot
    come comes could did do does doing don't done each either else every for from get gets give given gives go
    had happen happened happens has have having he her here him his how i if in into is isn't it it's its itself
    just let like made make makes many may me mean means might more most much must my neither no nor not now of
    off on once one only onto or other our out over own per please same say says shall she should so some such
    tell than that that's the their them then there these they this those through to too under until up upon us
    use used uses using very was we were what what's when where whether which while who whom whose why will with
    within without would you your
    """)
)


class Found(NamedTuple):
    """A passage and how near it is to what was asked: from 0, no word in common, to 1."""

    passage: Passage
    score: float


def check_installed() -> None:
    """Raises PipelineError if the library behind the index is missing; does not import it."""
    if find_spec("sklearn") is None:
        raise PipelineError("an index of passages needs scikit-learn: pip install scikit-learn")


def terms(text: str) -> list[str]:
    """The words that tell what a text is about: without function words, and (English) without inflection.

    A term need not be a word: what matters is that the forms of a word have the same one.

    >>> terms("How are the queries of a service processed? The process queries services.")
    ['query', 'servic', 'process', 'process', 'query', 'servic']
    """
    return [_stem(word) for word in words(text) if word not in _FUNCTION_WORDS]


def _stem(word: str) -> str:
    """Step 1 of Porter, An algorithm for suffix stripping (1980), with a length instead of his measure."""
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 4 and not word.endswith("eed"):
            word = word.removesuffix(ending)
            if word[-1] == word[-2] and word[-1] not in "lsz":  # dropped, running
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


class PassageIndex:
    """Finds passages by words; headings count as words of what is below them.

    The score is the geometric mean of the cosine - how much of the passage is about the query - and of the share
    of the query's weight that the passage has. The cosine alone is as low for a long passage that has every word of
    the query as for a short one that has one word of it by accident.

    Words are hashed to columns instead of being numbered as they come: so a word that no passage has keeps a
    column, with the weight of the rarest. A question about something else that shares one word with the documents
    then has little in common with any passage.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Raises PipelineError if scikit-learn is missing."""
        check_installed()
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        if not passages:
            raise ValueError("an index needs at least one passage")
        self._passages = list(passages)
        self._counter = HashingVectorizer(analyzer=terms, n_features=_COLUMNS, norm=None, alternate_sign=False)
        self._weigher = TfidfTransformer(sublinear_tf=True)
        counts = self._counter.transform(f"{passage.heading}\n{passage.text}" for passage in self._passages)
        self._vectors = self._weigher.fit_transform(counts)
        self._presence = counts.sign()

    def search(self, query: str, k: int) -> list[Found]:
        """The `k` nearest passages, nearest first, equal ones as they came; fewer if fewer share a word with it."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        vector = self._weigher.transform(self._counter.transform([query]))
        cosines = (self._vectors @ vector.T).toarray().ravel()
        shares = (self._presence @ vector.multiply(vector).T).toarray().ravel()
        scores: list[float] = ((cosines * shares) ** 0.5).tolist()
        best = heapq.nlargest(k, range(len(scores)), key=lambda index: (scores[index], -index))
        return [Found(self._passages[index], scores[index]) for index in best if scores[index] > 0]
