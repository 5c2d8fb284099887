"""A time limit for every request to a cluster.

Ray waits for a GCS that does not respond without a limit, in calls that take no timeout. So a client makes such a call
in a separate thread, and abandons that thread after the limit.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sage_flow.errors import ClusterError

__all__ = ["ANSWER_S", "ClusterSilent", "answered"]

_log = logging.getLogger("sage_flow")

_VARIABLE: Final = "SAGE_FLOW_ANSWER_S"


_DEFAULT_S: Final = 30.0


def _answer_s() -> float:
    text = os.environ.get(_VARIABLE, str(_DEFAULT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if 0 < seconds < math.inf:
        return seconds
    told = "the environment variable %s must be a number of seconds above 0, not %r; the limit is %g s"
    _log.warning(told, _VARIABLE, text, _DEFAULT_S)
    return _DEFAULT_S


ANSWER_S: Final = _answer_s()
"""Seconds for which a client waits for an answer of a cluster; 30 unless SAGE_FLOW_ANSWER_S is set."""

_T = TypeVar("_T")


class ClusterSilent(ClusterError):
    """No answer within the limit. The thread that asked may wait in Ray for ever, and so may Ray's shutdown."""

    def __init__(self, whom: str, limit_s: float) -> None:
        super().__init__(
            f"{whom} did not answer within {limit_s:g} s: it is stopped or overloaded, or the network is down"
        )


def answered(question: Callable[[], _T], whom: str, limit_s: float = ANSWER_S) -> _T:
    """Return what `question` returns, raise what it raises. `whom` names the one that is asked, for the error.

    Raises ClusterSilent after `limit_s` seconds.

    >>> answered(lambda: 42, "the cluster")
    42
    """
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((True, question()))
        except BaseException as error:  # raised again in the calling thread
            answers.put((False, error))

    threading.Thread(target=ask, name=f"question to {whom}", daemon=True).start()
    try:
        is_answer, answer = answers.get(timeout=limit_s)
    except queue.Empty:
        raise ClusterSilent(whom, limit_s) from None
    if not is_answer:
        raise answer
    found: _T = answer
    return found
