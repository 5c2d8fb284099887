"""Where records come from and go to: sources and sinks, each imported when it is first used.

A connector is one file in this folder and one line in `_MODULE_OF`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "TextSource": "files",
    "CsvSource": "csv_source",
    "JsonlSource": "files",
    "CollectionSource": "memory",
    "IterableSource": "memory",
    "TextSink": "file_sinks",
    "CsvSink": "file_sinks",
    "JsonlSink": "file_sinks",
    "PrintSink": "screen",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
