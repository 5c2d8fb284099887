"""What a dialogue remembers: its last turns, and a library of documents. Both are services."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path

from operators.dialogue import Turn
from operators.documents import passages, read_document
from operators.retrieval import Found, PassageIndex
from sage_flow import RuntimeContext, Service
from sage_flow.errors import InputError

__all__ = ["LongTermMemory", "ShortTermMemory"]


class ShortTermMemory(Service):
    """The last turns of each conversation.

    Args:
        max_turns: of one conversation; older ones are forgotten.
        max_conversations: when there are more, the one that was added to least recently is forgotten.

    >>> memory = ShortTermMemory(max_turns=2)
    >>> for question in ("What is tea?", "And milk?", "First or last?"):
    ...     memory.append("at five", Turn(question))
    >>> [turn.question for turn in memory.retrieve("at five", 5)], memory.retrieve("at six", 5)
    (['And milk?', 'First or last?'], [])
    """

    def __init__(self, max_turns: int = 20, max_conversations: int = 1000) -> None:
        for what, value in (("max_turns", max_turns), ("max_conversations", max_conversations)):
            if value < 1:
                raise ValueError(f"{what} must be at least 1, not {value}")
        self._max_turns = max_turns
        self._max_conversations = max_conversations
        self._turns: OrderedDict[str, deque[Turn]] = OrderedDict()

    def append(self, conversation: str, turn: Turn) -> None:
        """Remember a turn."""
        self._turns.setdefault(conversation, deque(maxlen=self._max_turns)).append(turn)
        self._turns.move_to_end(conversation)
        if len(self._turns) > self._max_conversations:
            self._turns.popitem(last=False)

    def retrieve(self, conversation: str, n: int = 5) -> list[Turn]:
        """The last `n` turns, oldest first; fewer if fewer are known."""
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        return list(self._turns.get(conversation, ()))[-n:]


class LongTermMemory(Service):
    """The passages of documents, found by what they are about.

    `open()` reads and indexes the documents. A service answers no call before it is open, so no question can
    overtake the index; and a replica that is made again makes its index again.

    Args:
        folder, files: the documents, by paths relative to the folder, which is what passages are quoted by.
        length: characters of a passage, at most.
    """

    def __init__(self, folder: str, files: Sequence[str], length: int = 600) -> None:
        self._folder = Path(folder)
        self._files = files
        self._length = length

    def open(self, ctx: RuntimeContext) -> None:
        found = [
            passage
            for file in self._files
            for passage in passages(read_document(self._folder, file), file, self._length)
        ]
        if not found:
            raise InputError(f"{self._folder}: there is no text in its {len(self._files)} documents")
        self._index = PassageIndex(found)

    def retrieve(self, query: str, k: int = 3) -> list[Found]:
        """The `k` passages nearest to the query, with score, file and line; nearest first."""
        return self._index.search(query, k)
