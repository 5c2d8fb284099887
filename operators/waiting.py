"""A source without records, for jobs that serve until somebody ends them."""

from __future__ import annotations

from typing import Any

from sage_flow import IDLE, Source
from sage_flow.functions import SourceSignal

__all__ = ["Waiting"]


class Waiting(Source[Any]):
    """Has nothing, until its job is drained or cancelled."""

    def next_batch(self) -> list[Any] | SourceSignal:
        return IDLE
