"""State that is forgotten after a time, in every mode."""

from datetime import timedelta

from waiting_source import Wait, WaitingSource, note

TTL = timedelta(milliseconds=100)


def test_a_ttl_counts_in_the_time_of_the_records(mode):
    def first_in_a_while(value, ctx):
        seen = ctx.state.value("seen", 0, ttl=TTL)
        if not seen.get():
            yield value
        seen.set(1)

    env = mode.environment()
    steps = [("a", 0), ("a", 50), ("b", 120), ("a", 149), ("a", 249), ("b", 220)]
    timed = env.from_collection(steps).assign_timestamps(lambda pair: pair[1], max_out_of_order=TTL)
    timed.key_by(lambda pair: pair[0]).process(first_in_a_while).collect("out")
    assert sorted(env.execute(progress=False).collected["out"]) == [("a", 0), ("a", 249), ("b", 120), ("b", 220)]


def test_without_timestamps_a_ttl_counts_by_the_wall_clock(mode, tmp_path):
    folder = str(tmp_path)

    def count(value, ctx):
        short, long = ctx.state.value("short", 0, ttl=TTL / 100), ctx.state.value("long", 0, ttl=100_000 * TTL)
        note(folder, value[1])
        if value[1] == "behind":  # what is behind the first record has seen that it was set
            return None
        result = short.get(), long.get()
        short.set(1)
        long.set(1)
        return result

    env = mode.environment()
    env.from_source(WaitingSource(tmp_path, [("a", 1), Wait(1), ("a", "behind"), Wait(2), ("a", 2)])).key_by(
        lambda pair: pair[0]
    ).map(count).collect("out")
    assert env.execute(progress=False).collected["out"] == [(0, 0), None, (0, 1)]
