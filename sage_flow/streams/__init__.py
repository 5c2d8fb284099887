"""Streams: what operators are written on. A file for each shape: plain, keyed, connected, windowed."""

from sage_flow.streams.connected import ConnectedStreams
from sage_flow.streams.count_windowed import CountWindowedStream
from sage_flow.streams.keyed import KeyedStream
from sage_flow.streams.plain import DataStream, Stream
from sage_flow.streams.windowed import WindowedStream, WindowResults

__all__ = [
    "ConnectedStreams",
    "CountWindowedStream",
    "DataStream",
    "KeyedStream",
    "Stream",
    "WindowResults",
    "WindowedStream",
]
