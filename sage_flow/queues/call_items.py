"""Requests and replies as items of queues: plain tuples, which every process can unpickle.

The arguments and the reply value are pickled separately inside them. If the other side cannot unpickle them, only this
call fails. Inside one process they are the objects themselves, which nobody else holds.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sage_flow.queues.items import pack, unpack

__all__ = ["Answer", "Question", "answer_from", "content_of", "open_content", "question_from"]

_QUESTION: Final = "sage_flow request/1"
_ANSWER: Final = "sage_flow reply/1"

Content = tuple[bool, Any]
"""Whether the value is packed, and the value."""


class Question(NamedTuple):
    """A request. `number` identifies it in the calling process; `replies` names the reply queue.

    `left_s`: the remaining time of the call when the request was sent. `group`: the key group, if the caller gave a
    key. `retry`: it may be run again if its responder dies. `content`: positional and keyword arguments.
    """

    number: int
    replies: str
    left_s: float
    method: str
    group: int | None
    retry: bool
    content: Content

    def as_item(self) -> tuple[Any, ...]:
        return (_QUESTION, *self)


class Answer(NamedTuple):
    """The reply to the request of that number: a value, or an error (see `runtime.failure.pack_error`)."""

    number: int
    content: Content | None
    error: Any = None

    def as_item(self) -> tuple[Any, ...]:
        return (_ANSWER, *self)


def question_from(item: Any) -> Question | None:
    """Return the request that an item is; None if it is no request."""
    if not _is(item, _QUESTION, Question):
        return None
    question = Question(*item[1:])
    kinds: tuple[Any, ...] = (int, str, (int, float), str, (int, type(None)), bool, tuple)
    return question if all(isinstance(value, kind) for value, kind in zip(question, kinds, strict=True)) else None


def answer_from(item: Any) -> Answer | None:
    """Return the reply that an item is; None if it is no reply."""
    return Answer(*item[1:]) if _is(item, _ANSWER, Answer) else None


def _is(item: Any, mark: str, kind: type[Any]) -> bool:
    return isinstance(item, tuple) and len(item) == len(kind._fields) + 1 and item[0] == mark


def content_of(value: Any, *, packs: bool) -> Content:
    """Return the content for a value; `packs`: it leaves the process. Raises: CodecError."""
    return (True, pack(value)) if packs else (False, value)


def open_content(content: Content) -> Any:
    """Return the value. Raises: CodecError."""
    is_packed, value = content
    return unpack(value) if is_packed else value
