"""Attempts that die in a test never close their files, as a killed process does not; they are closed after the test."""

from contextlib import suppress

import pytest

from sage_flow.connectors.file_sinks import FileSink


@pytest.fixture(autouse=True)
def _dead_attempts_are_closed_at_last(monkeypatch):
    opened, open_sink = [], FileSink.open

    def remember(sink, ctx):
        opened.append(sink)
        open_sink(sink, ctx)

    monkeypatch.setattr(FileSink, "open", remember)
    yield
    for sink in opened:
        with suppress(OSError):  # of a full device
            sink.close()
        sink.abort()
