"""Streams: what operators are written on. Plain, keyed and connected ones each have a file."""

from sage_flow.streams.plain import ConnectedStreams, DataStream, KeyedStream, Stream

__all__ = ["ConnectedStreams", "DataStream", "KeyedStream", "Stream"]
