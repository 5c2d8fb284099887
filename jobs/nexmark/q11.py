"""q11, user sessions: how many bids a person made before a pause of 10 s."""

from __future__ import annotations

from datetime import timedelta

from nexmark.job import Options, Row, bids, read, write
from nexmark.model import Event
from sage_flow import DataStream, Environment, SessionWindow, WindowResult

GAP = timedelta(seconds=10)


def query(events: DataStream[Event]) -> DataStream[Row]:
    """A row for each session."""
    return bids(events).key_by(lambda bid: bid["bidder"]).window(SessionWindow(GAP)).count(name="counts").map(row)


def row(session: WindowResult[int, int]) -> Row:
    """The columns of the row; a session ends 10 s after its last bid."""
    return {
        "bidder": session.key,
        "bid_count": session.value,
        "session_start": session.start,
        "session_end": session.end,
    }


def build(env: Environment, options: Options) -> None:
    """Write the pipeline."""
    write("q11", query(read(env, options)), options)
