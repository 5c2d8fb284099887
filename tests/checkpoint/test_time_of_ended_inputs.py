"""Time after a restore: an input that had ended before the cut counts with how far it had come."""

from datetime import timedelta

from sage_flow import END, IDLE, FixedDelay, LocalEnvironment, ProcessFunction, SplitReader, SplitSource
from sage_flow.executors.simulation import SimulationExecutor


class Times(SplitSource):
    """A short split that comes far in time at once, and a long one that stays behind."""

    bounded = True

    def splits(self):
        return ["early", "late"]

    def reader(self, split, position):
        times = range(0, 5000, 1000) if split == "early" else range(0, 400, 2)
        return Reader(times, position or 0, 1 if split == "early" else 4)


class Reader(SplitReader):
    def __init__(self, times, position, every):
        self._times, self._position, self._every, self._asked = times, position, every, 0

    def next_batch(self):
        self._asked += 1
        if self._asked % self._every:
            return IDLE
        self._position += 1
        return [self._times[self._position - 1]] if self._position <= len(self._times) else END

    def position(self):
        return self._position


class Alarms(ProcessFunction):
    def process(self, value, ctx):
        ctx.timers.set(f"alarm {value}", at=value)

    def on_timer(self, timer, ctx):
        yield timer.timestamp, timer.at_end


def alarms(fails_at):
    failed = []

    def check(value):
        if value == fails_at and not failed:
            failed.append(value)
            raise OSError("the disk is gone")
        return value

    env = LocalEnvironment(
        "job", 2, executor=SimulationExecutor(3, processes=100), restart=FixedDelay(attempts=3, delay_s=0.1)
    )
    env.enable_checkpointing(f"memory://ended-{fails_at}", interval=timedelta(milliseconds=5))
    times = env.from_source(Times, parallelism=2).map(check, parallelism=2)
    timed = times.assign_timestamps(lambda t: t, max_out_of_order=timedelta(0), parallelism=2)
    timed.key_by(lambda t: t % 3).process(Alarms).collect("alarms")
    rows = env.execute().collected["alarms"]
    assert bool(failed) == (fails_at is not None)
    return sorted(rows)


def test_timers_that_an_ended_input_has_passed_do_not_wait_for_the_end_after_a_restore():
    assert alarms(390) == alarms(None)
