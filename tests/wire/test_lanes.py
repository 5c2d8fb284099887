"""A large message holds up its own lane and no other, and is not starved by small ones."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.wire.frames import DEFINITIONS, FRAGMENT_LIMIT, MESSAGE, STREAMS
from sage_flow.wire.lanes import Lanes
from sage_flow.wire.reader import FrameReader

LARGE = 3 * FRAGMENT_LIMIT


class Line:
    """Writes everything at once, and reads it again."""

    def __init__(self):
        self.lanes, self.reader, self.arrived = Lanes(), FrameReader(), []
        self._numbers = 0

    def place(self, lane, text, size=0):
        self._numbers += 1
        payload = text.encode() + bytes(size)
        return self._write(self.lanes.place(lane, self._numbers, [payload], len(payload)))

    def next(self):
        return self._write(self.lanes.next())

    def rest(self):
        while self.next():
            pass

    def _write(self, pieces):
        data = b"".join(pieces)
        self.arrived += [(kind, bytes(payload).rstrip(b"\0").decode()) for kind, payload in self.reader.feed(data)]
        return len(data)

    def names(self):
        return [name for _, name in self.arrived]


def test_a_small_message_is_written_at_once():
    line = Line()
    assert line.place("lane", "small") == 16 + 5
    assert line.names() == ["small"]
    assert not line.next()


def test_small_messages_of_other_lanes_pass_a_large_one():
    line = Line()
    assert not line.place(1, "large", LARGE)
    line.next()
    line.place(1, "behind it")
    line.place(2, "past it")
    line.rest()
    assert line.names() == ["past it", "large", "behind it"]


def test_large_messages_take_turns():
    line = Line()
    line.place(1, "long", 5 * FRAGMENT_LIMIT)
    line.place(2, "short", 2 * FRAGMENT_LIMIT - 100)
    sizes = [line.next() for _ in range(3)]
    assert all(FRAGMENT_LIMIT < size < FRAGMENT_LIMIT + 100 for size in sizes)
    line.next()
    assert line.names() == ["short"]
    line.rest()
    assert line.names() == ["short", "long"]


def test_small_messages_do_not_starve_a_large_one():
    line = Line()
    line.place(1, "large", LARGE)
    count = 0
    while "large" not in line.names():
        count += 1
        line.place(2, f"small {count}", 10_000)
    assert count < 6 * FRAGMENT_LIMIT / 10_000


def test_what_waited_behind_a_large_message_leaves_many_at_a_time():
    line = Line()
    line.place(1, "large", LARGE)
    for number in range(1000):
        line.place(1, str(number))
    while "large" not in line.names():
        line.next()
    line.next()
    assert line.names() == ["large", *map(str, range(1000))]


def test_definitions_are_written_at_once_whatever_they_take():
    line = Line()
    line.place(1, "large", LARGE)
    line._write(line.lanes.definitions([b"small news"]))
    line._write(line.lanes.definitions([b"large news", bytes(LARGE)]))
    assert line.arrived == [(DEFINITIONS, "small news"), (DEFINITIONS, "large news")]
    line.rest()
    assert line.arrived[-1] == (MESSAGE, "large")


def test_no_more_are_under_way_than_a_reader_accepts():
    line = Line()
    for lane in range(3 * STREAMS):
        line.place(lane, str(lane), LARGE)
    line._write(line.lanes.definitions([b"news", bytes(LARGE)]))
    line.rest()
    assert sorted(line.names()) == sorted([*map(str, range(3 * STREAMS)), "news"])


def test_the_oldest_unfinished_message_and_its_bytes_are_known():
    line = Line()
    assert line.lanes.oldest is None
    line.place(1, "a", LARGE)
    line.place(2, "b")
    line.place(2, "c", LARGE)
    assert line.lanes.oldest == 1
    assert line.lanes.bytes == 2 * (LARGE + 1)
    while "a" not in line.names():
        line.next()
    assert line.lanes.oldest == 3
    line.rest()
    assert line.lanes.oldest is None
    assert line.lanes.bytes == 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 100_000, FRAGMENT_LIMIT, 2 * FRAGMENT_LIMIT])), max_size=30
    ),
    st.integers(0, 3),
)
def test_every_lane_keeps_its_order(sends, eagerness):
    line = Line()
    for number, (lane, size) in enumerate(sends):
        line.place(lane, f"{lane} {number}", size)
        for _ in range(number % 4 * eagerness // 3):
            line.next()
    line.rest()
    assert sorted(line.names(), key=lambda name: name.split()[0]) == sorted(
        (f"{lane} {number}" for number, (lane, _) in enumerate(sends)), key=lambda name: name.split()[0]
    )
