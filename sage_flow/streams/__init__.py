"""Streams: what operators are written on. A file for each shape: plain, keyed, connected."""

from sage_flow.streams.connected import ConnectedStreams
from sage_flow.streams.keyed import KeyedStream
from sage_flow.streams.plain import DataStream, Stream

__all__ = ["ConnectedStreams", "DataStream", "KeyedStream", "Stream"]
