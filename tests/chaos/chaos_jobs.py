"""The jobs that are killed: real queries, whose sources give their records slowly. Workers import this."""

import json
import time
from datetime import timedelta

from jobs.flights import HourOfFlights, flight_of
from nexmark.canonical import canonical_line
from nexmark.job import GeneratorSource, Options, timed
from nexmark.q5 import query as q5
from nexmark.q8 import query as q8
from sage_flow import TumblingWindow

__all__ = ["JOBS"]

EVENTS = Options(events=12_000, events_per_s=200, ooo_ms=2000, partitions=4)


class SlowEvents(GeneratorSource):
    """Waits before each batch."""

    def __init__(self, options, pause_s):
        super().__init__(options.generator, options.events, options.partitions)
        self._pause_s = pause_s

    def next_batch(self):
        time.sleep(self._pause_s)
        return super().next_batch()


class Slowly:
    """Passes records on, each a little later."""

    def __init__(self, pause_s):
        self._pause_s = pause_s

    def __call__(self, record):
        time.sleep(self._pause_s)
        return record


def events_of(env, pause_s):
    return timed(env.from_source(SlowEvents(EVENTS, pause_s), name="events"), EVENTS.ooo_ms)


def write_q5(env, folder, pause_s):
    q5(events_of(env, pause_s)).map(lambda row: canonical_line("q5", row), name="lines").write_text(folder / "rows.txt")


def write_q8(env, folder, pause_s):
    q8(events_of(env, pause_s)).map(lambda row: canonical_line("q8", row), name="lines").write_text(folder / "rows.txt")


def write_flights(env, folder, pause_s):
    """The delays of each day and airport, of January; the parts of the output are published at checkpoints."""
    flights = env.read_csv(folder / "flights.csv", name="rows").map(Slowly(pause_s / 600), name="slowly")
    times = flights.map(flight_of, name="flights").assign_timestamps(
        lambda flight: flight.left_ms, max_out_of_order=timedelta(days=2), name="departures"
    )
    days = times.key_by(lambda flight: flight.origin).window(TumblingWindow(timedelta(days=1)))
    delays = days.fold(HourOfFlights(), add_flight, merge=HourOfFlights.merge, name="delays")
    rolls = {} if env._options.checkpoints is None else {"roll": timedelta(0)}
    delays.map(lambda day: json.dumps([day.key, day.start, repr(day.value)]), name="lines").write_text(
        folder / "rows.txt", **rolls
    )


def add_flight(day, flight):
    return HourOfFlights(
        day.departures.add(flight.delay_min, 15),
        day.arrivals.add(flight.arrival_delay_min, 15),
    )


JOBS = {"q5": write_q5, "q8": write_q8, "flights": write_flights}
"""Each writes its lines below `folder`, into files that begin with "rows"."""
