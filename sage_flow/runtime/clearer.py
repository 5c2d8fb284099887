"""Replaces some of Python's own error messages by messages in terms of the pipeline."""

from __future__ import annotations

from sage_flow.errors import InvalidKeyError
from sage_flow.keys import stable_hash
from sage_flow.plan.kinds import Gives
from sage_flow.runtime.chain import Culprit
from sage_flow.runtime.failure import add_notes
from sage_flow.runtime.first_values import not_iterable

__all__ = ["clearer_error"]


def clearer_error(culprit: Culprit | None, error: BaseException) -> Exception | None:
    """Return the error to raise instead of one that a compiled chain raised; None if that one is clear enough."""
    if culprit is None:
        return None
    operator = culprit.operator
    if operator.kind.folds and culprit.so_far is None and operator.options.get("initial") is not None:
        add_notes(error, ["          its function returned None for an earlier record of this key"])
    if not isinstance(error, TypeError):
        return None
    if culprit.is_of_loop and operator.kind.gives is Gives.ANY and "iter" in str(error):
        return not_iterable(operator, error)
    return _unhashable_key(culprit, error)


def _unhashable_key(culprit: Culprit, error: TypeError) -> InvalidKeyError | None:
    """Without routing, an unhashable key first shows as a TypeError of the state's dict."""
    if not str(error).startswith("unhashable type"):
        return None
    try:
        stable_hash(culprit.key)
    except InvalidKeyError as bad_key:
        return bad_key
    return None
