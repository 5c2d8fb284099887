"""Credit: how far a producer may run ahead, in cost and in time, and that it is never stopped for good."""

from hypothesis import given
from hypothesis import strategies as st

from sage_flow.runtime.credits import (
    FIRST_WINDOW,
    ConsumedCredit,
    InputChannel,
    InputCredits,
    RecentWork,
    SendCredit,
)
from sage_flow.runtime.messages import Credit

NO_LIMIT = 1 << 40


def returned(records, cost, window):
    return Credit(0, records, cost, window)


# --- one channel ------------------------------------------------------------------------------------------


def test_a_frame_may_start_while_there_is_any_room_and_may_cost_more_than_that():
    credit = SendCredit(10, NO_LIMIT)
    credit.take(1, 9)
    assert credit.may_start
    credit.take(1, 100)
    assert not credit.may_start
    credit.grant(returned(1, 99, NO_LIMIT))
    assert not credit.may_start
    credit.grant(returned(1, 1, NO_LIMIT))
    assert credit.may_start


def test_a_frame_waits_for_the_record_window_as_well():
    credit = SendCredit(NO_LIMIT, 2)
    credit.take(2, 2)
    assert not credit.may_start
    credit.grant(returned(0, 0, 3))
    assert credit.may_start
    credit.take(1, 1)
    credit.grant(returned(2, 2, 1))  # it has shrunk to what is still under way
    assert not credit.may_start


def test_a_frame_has_at_most_a_quarter_of_the_window_and_at_least_one_record():
    assert [SendCredit(1, window).most_records for window in (1, 7, 8, 8192)] == [1, 1, 2, 2048]


def test_credit_is_returned_by_the_quarter_of_the_cost_and_nothing_of_it_is_lost():
    consumed = ConsumedCredit(0, 100, NO_LIMIT)
    due = [consumed.consume(1, cost, NO_LIMIT) for cost in (10, 10, 10, 24, 1, 500)]
    assert due == [None, None, returned(3, 30, NO_LIMIT), None, returned(2, 25, NO_LIMIT), returned(1, 500, NO_LIMIT)]


def test_credit_is_returned_by_the_quarter_of_the_record_window():
    consumed = ConsumedCredit(0, NO_LIMIT, 8)
    assert [consumed.consume(1, 5, 8) for _ in range(3)] == [None, returned(2, 10, 8), None]


def test_a_window_that_grows_is_told_before_its_own_quarter_because_the_producer_does_not_know_it():
    consumed = ConsumedCredit(0, NO_LIMIT, 4)
    assert consumed.consume(1, 1, 1000) == returned(1, 1, 1000)
    assert consumed.consume(249, 249, 1000) is None


def test_a_window_that_shrinks_is_told_at_once():
    consumed = ConsumedCredit(0, NO_LIMIT, 1000)
    assert consumed.consume(1, 1, 4) == returned(1, 1, 4)


def test_the_smallest_windows_return_every_record():
    consumed = ConsumedCredit(0, 1, 1)
    assert [consumed.consume(1, 1, 1) for _ in range(3)] == [returned(1, 1, 1)] * 3


# --- what is processed in half a second -------------------------------------------------------------------


def after(work, *frames):
    for records, seconds in frames:
        work.took(records, seconds)
    return work.records


def test_it_grows_fivefold_with_each_window_while_processing_takes_no_time():
    work = RecentWork()
    assert [after(work, (int(work.records), 0.0)) for _ in range(5)] == [5, 25, 125, 625, 3125]


def test_it_settles_at_what_half_a_second_is_enough_for():
    assert round(after(RecentWork(), *[(1, 0.01)] * 1000)) == 50
    assert round(after(RecentWork(), *[(1, 0.01)] * 1000, *[(100, 0.01)] * 1000)) == 5000


def test_one_slow_frame_is_enough_to_know_that_it_is_slow():
    assert after(RecentWork(), (8192, 0.0), (10, 2.0)) == 2.5


# --- all channels of a consumer ---------------------------------------------------------------------------


class Consumer:
    """Input credits, and the clock of their consumer."""

    def __init__(self, *edges):
        self.credits = InputCredits(InputChannel(n, edge, NO_LIMIT) for n, edge in enumerate(edges))
        self.credits.opened(0.0)
        self.now = 0.0
        self.windows = dict.fromkeys(range(len(edges)), FIRST_WINDOW)
        self.told = []

    def process(self, channel, records=1, seconds=0.01):
        self.now += seconds
        self.told = list(self.credits.consumed(channel, records, records, self.now))
        for credit in self.told:
            self.windows[credit.channel] = credit.window


def test_a_window_is_what_the_consumer_processes_in_half_a_second():
    it = Consumer(0)
    for _ in range(1000):
        it.process(0)
    assert 45 <= it.windows[0] <= 50


def test_time_in_which_the_consumer_has_nothing_to_do_does_not_count():
    it = Consumer(0)
    for _ in range(1000):
        it.now += 5.0
        it.credits.waited(5.0)
        it.process(0)
    assert 45 <= it.windows[0] <= 50


def test_all_producers_share_half_a_second_and_under_that_have_one_record_each():
    it = Consumer(*[0] * 10)
    for n in range(1000):
        it.process(n % 10)
    assert set(it.windows.values()) <= {4, 5}
    it = Consumer(*[0] * 128)
    for n in range(1000):
        it.process(n % 128)
    assert set(it.windows.values()) == {1}


def test_an_ended_channel_leaves_its_share_to_the_others():
    it = Consumer(0, 0)
    it.credits.ended(1)
    it.credits.ended(1)
    for _ in range(1000):
        it.process(0)
    assert 45 <= it.windows[0] <= 50
    it.process(1)  # what came before its end
    it.credits.ended(0)
    it.process(0)


def test_quick_records_of_one_edge_do_not_widen_the_window_of_slow_ones():
    it = Consumer(0, 1)
    for _ in range(1000):
        it.process(0, records=100, seconds=0.0001)
        it.process(1, records=1, seconds=0.01)
    assert 20 <= it.windows[1] <= 25
    assert it.windows[0] > 10_000


def test_a_quiet_channel_learns_at_once_that_the_consumer_has_become_slow():
    it = Consumer(0, 0)
    for n in range(100):
        it.process(n % 2, records=1000, seconds=0.0)
    assert it.windows[1] > 10_000
    it.process(0, records=1, seconds=1.0)
    assert it.windows == {0: 1, 1: 1}
    it.process(0, records=1, seconds=1.0)
    assert [credit.channel for credit in it.told] == [0]


# --- producer and consumer --------------------------------------------------------------------------------


@given(st.integers(1, 50), st.lists(st.integers(1, 200), max_size=50), st.data())
def test_producer_and_consumer_never_stall_and_stay_within_a_window_and_a_frame(most_cost, costs, data):
    """Whatever the windows are, and however late the producer learns them."""
    sender, receiver = SendCredit(most_cost, FIRST_WINDOW), ConsumedCredit(0, most_cost, FIRST_WINDOW)
    under_way, credits, waiting = [], [], list(costs)
    while waiting or under_way:
        can_send = bool(waiting) and sender.may_start
        assert can_send or under_way or credits, "everything was consumed and the producer may not go on"
        choices = ["send"] * can_send + ["consume"] * bool(under_way) + ["credit"] * bool(credits)
        match data.draw(st.sampled_from(choices)):
            case "send":
                assert sum(cost for _, cost in under_way) < most_cost
                frame = data.draw(st.integers(1, sender.most_records)), waiting.pop(0)
                sender.take(*frame)
                under_way.append(frame)
            case "consume":
                window = data.draw(st.integers(1, 40))
                if (due := receiver.consume(*under_way.pop(0), window)) is not None:
                    credits.append(due)
                elif data.draw(st.booleans()):
                    credits.append(receiver.tell(window))
            case "credit":
                sender.grant(credits.pop(0))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.floats(0, 10)), max_size=100))
def test_a_window_is_never_zero(frames):
    it = Consumer(0, 0, 1, 1)
    for channel, records, seconds in frames:
        it.process(channel, records, seconds)
        assert min(it.windows.values()) >= 1
