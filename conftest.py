"""Names that the examples in docstrings use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

collect_ignore_glob = ["*/conftest.py"]  # examples are looked for in modules, and these are none


@pytest.fixture(autouse=True)
def _names_for_examples(doctest_namespace: dict[str, Any]) -> None:
    from sage_flow import CoProcessFunction, LocalEnvironment, TumblingWindow, stable_hash
    from sage_flow.testing import collect, stream_of

    env = LocalEnvironment("example")
    doctest_namespace.update(collect=collect, env=env, stream_of=stream_of, stable_hash=stable_hash)
    doctest_namespace.update(timedelta=timedelta, TumblingWindow=TumblingWindow, CoProcessFunction=CoProcessFunction)
