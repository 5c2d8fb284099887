"""The classes of the streams that a plain stream makes.

The streams make one another in a circle: `DataStream.key_by` makes a KeyedStream, and `KeyedStream.map` a DataStream.
`keyed.py` and `connected.py` import `plain.py`, which therefore cannot import them: they enter their classes here.
`streams/__init__.py` imports all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_flow.streams.connected import ConnectedStreams
    from sage_flow.streams.keyed import KeyedStream
    from sage_flow.streams.windowed import WindowedStream

__all__ = ["SHAPES", "Shapes"]


class Shapes:
    """A class for each shape of stream that is defined behind the plain one."""

    keyed: type[KeyedStream[Any, Any]]
    connected: type[ConnectedStreams[Any, Any]]
    windowed: type[WindowedStream[Any, Any]]


SHAPES = Shapes()
"""The only one; filled when `sage_flow.streams` is imported."""
