"""The thread before a blocking source: how far it reads ahead, what it hands over, how it ends."""

import threading

import pytest

from sage_flow import END, IDLE, Source
from sage_flow.executors.feeder import Feeder

NEVER_S = 10.0


class Counting(Source):
    """Gives batches of `size` records for ever, or until `end`, which it returns or raises."""

    blocking = True

    def __init__(self, size=10, batches=None, end=END):
        self.size, self.left, self.end = size, batches, end
        self.given = 0

    def next_batch(self):
        if self.left == 0:
            if isinstance(self.end, BaseException):
                raise self.end
            return self.end
        if self.left is not None:
            self.left -= 1
        first = self.given
        self.given += self.size
        return list(range(first, self.given))


class Fed:
    """A feeder in its thread; `wait()` until it has woken its subtask."""

    def __init__(self, source):
        self.woken = threading.Semaphore(0)
        self.feeder = Feeder(source, self.woken.release)
        self.thread = threading.Thread(target=self.feeder.run, daemon=True)
        self.thread.start()

    def wait(self):
        assert self.woken.acquire(timeout=NEVER_S), "the subtask was not woken"

    def next(self):
        while (batch := self.feeder.next_batch()) is IDLE:
            self.wait()
        return batch

    def rest(self):
        found = []
        while (batch := self.next()) is not END:
            found.extend(batch)
        return found


def settle(source, expected):
    """Wait until the source has given this much, then see that it stays so."""
    for _ in range(1000):
        if source.given >= expected:
            break
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    return source.given


@pytest.fixture
def stopping():
    """Stops the feeders of a test."""
    made = []
    yield made.append
    for fed in made:
        fed.feeder.stop()
        fed.thread.join(NEVER_S)
        assert not fed.thread.is_alive()


@pytest.mark.parametrize("size", [1, 300, 1000, 5000])
def test_it_reads_a_thousand_records_ahead_and_one_batch(size, stopping):
    source = Counting(size)
    stopping(Fed(source))
    expected = -(-1000 // size) * size + size  # the batches that make 1000, and one in the hand
    assert settle(source, expected) == expected


@pytest.mark.race
def test_everything_comes_over_in_order_and_then_the_end():
    fed = Fed(Counting(7, batches=1000))
    assert fed.rest() == list(range(7000))
    assert fed.feeder.next_batch() is END
    fed.thread.join(NEVER_S)
    assert not fed.thread.is_alive()


def test_small_batches_are_handed_over_together_up_to_a_frame(stopping):
    source = Counting(10)
    fed = Fed(source)
    stopping(fed)
    settle(source, 1010)
    assert len(fed.feeder.next_batch()) == 1000


def test_a_large_batch_stays_one():
    fed = Fed(Counting(5000, batches=1))
    assert len(fed.next()) == 5000


@pytest.mark.race
def test_it_never_blocks_and_wakes_a_subtask_that_went_away_with_nothing(stopping):
    gate = threading.Event()

    class Slow(Counting):
        def next_batch(self):
            gate.wait(NEVER_S)
            return super().next_batch()

    fed = Fed(Slow(3))
    stopping(fed)
    assert fed.feeder.next_batch() is IDLE
    gate.set()
    fed.wait()
    assert fed.feeder.next_batch()[:3] == [0, 1, 2]


def test_an_error_comes_behind_the_records_that_were_read_before_it():
    fed = Fed(Counting(5, batches=3, end=ConnectionError("gone")))
    fed.thread.join(NEVER_S)
    assert fed.feeder.next_batch() == list(range(15))
    for _ in range(2):
        with pytest.raises(ConnectionError, match="gone"):
            fed.feeder.next_batch()


@pytest.mark.race
def test_stopping_frees_a_feeder_that_waits_for_room():
    source = Counting(1000)
    fed = Fed(source)
    settle(source, 2000)
    assert fed.thread.is_alive()
    fed.feeder.stop()
    fed.thread.join(NEVER_S)
    assert not fed.thread.is_alive()


def test_an_idle_source_is_asked_again():
    class Hesitant(Counting):
        hesitates = 2

        def next_batch(self):
            if self.hesitates:
                self.hesitates -= 1
                return IDLE
            return super().next_batch()

    assert Fed(Hesitant(3, batches=1)).rest() == [0, 1, 2]


@pytest.mark.parametrize("wrong", [None, (1, 2)])
def test_what_is_no_batch_reaches_the_subtask_which_refuses_it(wrong):
    class Wrong(Source):
        calls = 0

        def next_batch(self):
            self.calls += 1
            if self.calls > 1000:
                raise SystemExit("asked a thousand times for what it gives wrong")
            return wrong

    fed = Fed(Wrong())
    fed.wait()
    assert fed.feeder.next_batch() == wrong


# --- drain ------------------------------------------------------------------------------------------------


def never_late():
    return False


@pytest.mark.race
def test_draining_gives_what_was_read_and_then_the_end():
    source = Counting(300)
    fed = Fed(source)
    settle(source, 1500)  # the last batch waits for room
    fed.feeder.drain(never_late)
    assert fed.rest() == list(range(1500))
    fed.thread.join(NEVER_S)
    assert not fed.thread.is_alive()
    assert source.given == 1500


class Slow(Counting):
    """Comes back from its second read when it is let."""

    def __init__(self):
        super().__init__(size=3)
        self.reads, self.may_go_on = threading.Event(), threading.Event()

    def next_batch(self):
        if self.given:
            self.reads.set()
            assert self.may_go_on.wait(NEVER_S)
        return super().next_batch()


def test_what_a_read_gives_in_time_comes_too():
    source = Slow()
    fed = Fed(source)
    assert source.reads.wait(NEVER_S)
    fed.feeder.drain(never_late)
    assert fed.feeder.next_batch() == [0, 1, 2]
    assert fed.feeder.next_batch() is IDLE
    source.may_go_on.set()
    assert fed.rest() == [3, 4, 5]


def test_a_read_that_does_not_come_back_is_not_waited_for():
    source = Slow()
    fed = Fed(source)
    assert source.reads.wait(NEVER_S)
    fed.feeder.drain(lambda: True)
    assert fed.rest() == [0, 1, 2]
    source.may_go_on.set()
    fed.thread.join(NEVER_S)
    assert not fed.thread.is_alive()


def test_an_error_of_the_last_read_is_raised():
    source = Counting(5, batches=1, end=ConnectionError("gone"))
    fed = Fed(source)
    fed.thread.join(NEVER_S)
    fed.feeder.drain(never_late)
    assert fed.feeder.next_batch() == list(range(5))
    with pytest.raises(ConnectionError, match="gone"):
        fed.feeder.next_batch()
