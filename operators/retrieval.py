"""Which passages are about the words of a question: TF-IDF and the cosine between vectors."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

from operators.documents import Passage
from operators.text import words
from sage_flow.errors import PipelineError

__all__ = ["Found", "PassageIndex", "check_installed", "terms"]

_COLUMNS = 2**18  # of the hashed vocabulary: two of 10,000 words rarely meet

_ASKING = frozenset(  # words that questions are put with, which scikit-learn's list lacks
    words("""
    did does doing don gets given gives happen happened happens having just let like make makes mean means said say
    says saying shall tell use used uses using
    """)
)
_CONTRACTION = re.compile(r"(n['’]t|['’]\w+)$")


class Found(NamedTuple):
    """A passage and how near it is to what was asked: from 0, no word in common, to 1."""

    passage: Passage
    score: float


def check_installed() -> None:
    """Raises PipelineError if a library behind the index is missing; imports none."""
    for module, package in (("sklearn", "scikit-learn"), ("snowballstemmer", "snowballstemmer")):
        if find_spec(module) is None:
            raise PipelineError(f"an index of passages needs {package}: pip install {package}")


def terms(text: str) -> list[str]:
    """The words that tell what a text is about, in English: without stop words, and without inflection.

    Stop words are those of scikit-learn and what questions are put with, stems are those of Snowball. A term need not
    be a word: what matters is that the forms of a word have the same one. Raises PipelineError if a library is missing.

    >>> terms("How are the queries of a service processed? The process queries services.")
    ['queri', 'servic', 'process', 'process', 'queri', 'servic']
    """
    stop_words, stem = _english()
    told = [word for word in words(text) if not {word, _CONTRACTION.sub("", word)} & stop_words]
    return [stem(word) for word in told]


@lru_cache(maxsize=1)
def _english() -> tuple[frozenset[str], Callable[[str], str]]:
    check_installed()
    import snowballstemmer
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    stem = snowballstemmer.stemmer("english").stemWord
    return ENGLISH_STOP_WORDS | _ASKING, lru_cache(maxsize=65_536)(stem)


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
        """Raises PipelineError if a library is missing."""
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
