"""Credit: a producer may run ahead by a window, and is never stopped for good."""

from hypothesis import given
from hypothesis import strategies as st

from sage_flow.runtime.credits import ConsumedCredit, SendCredit


def test_a_frame_may_start_on_any_credit_and_take_it_below_zero():
    credit = SendCredit(10)
    credit.take(9)
    assert credit.may_start
    credit.take(100)
    assert not credit.may_start
    credit.grant(99)
    assert not credit.may_start
    credit.grant(1)
    assert credit.may_start


def test_credit_is_returned_by_the_quarter_and_nothing_of_it_is_lost():
    consumed = ConsumedCredit(100)
    assert [consumed.consume(cost) for cost in (10, 10, 10, 24, 1, 500)] == [0, 0, 30, 0, 25, 500]


def test_the_smallest_window_returns_every_record():
    assert [ConsumedCredit(1).consume(1) for _ in range(3)] == [1, 1, 1]


@given(st.integers(1, 50), st.lists(st.integers(1, 200), max_size=50), st.data())
def test_producer_and_consumer_together_never_stall_and_stay_within_a_window_and_a_frame(window, costs, data):
    sender, receiver, under_way, waiting = SendCredit(window), ConsumedCredit(window), [], list(costs)
    while waiting or under_way:
        can_send = bool(waiting) and sender.may_start
        assert can_send or under_way, "everything was consumed and the producer may not go on"
        if can_send and (not under_way or data.draw(st.booleans())):
            assert sum(under_way) < window
            sender.take(waiting[0])
            under_way.append(waiting.pop(0))
        else:
            sender.grant(receiver.consume(under_way.pop(0)))
