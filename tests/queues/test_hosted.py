"""The hosted queue, event by event, and against a reference."""

from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sage_flow.errors import ProtocolError
from sage_flow.queues.hosted import RESUME_S, HostedQueue
from sage_flow.queues.hosted_decisions import (
    Abandoned,
    Accepted,
    Closed,
    Delivery,
    Dropped,
    NoItem,
    NoRoom,
    Room,
    Run,
    Withdrawn,
)


def run(*items, putter=None):
    """One run of these items."""
    return Run(list(items), 0, len(items), 10 * len(items), 0.0, 0, putter)


def items_of(delivery):
    return [item for run in delivery.runs for item in run.payload[run.start : run.stop]]


class Client:
    """Speaks for one session: `put(3, "a")` is its request 3."""

    def __init__(self, queue, name="s", now=0.0):
        self.queue, self.name, self.now = queue, name, now
        queue.attach(name, 0, (), now)

    def put(self, number, *items, block=True, done=0):
        return self.queue.put(self.name, number, [run(*items)], block, done, self.now)

    def get(self, number, most=1, block=True, holds=False):
        return self.queue.get(self.name, number, most, block, 0, self.now, holds)

    def take(self, number, most=1):
        """Get and hold, and hear of it."""
        (delivery,) = self.get(number, most, holds=True)
        self.queue.acknowledge(self.name, delivery.delivery)
        return delivery

    def ask(self, number, count, block=True):
        return self.queue.reserve_room(self.name, number, count, block, 0, self.now)

    def back(self, received=0, open_gets=()):
        return self.queue.attach(self.name, received, open_gets, self.now)

    def lose(self):
        return self.queue.disconnect(self.name, self.now)


def queue_and_client(maxsize=0):
    queue = HostedQueue(maxsize, 0.0)
    return queue, Client(queue)


def test_items_leave_in_the_order_in_which_they_came():
    _, client = queue_and_client()
    assert client.put(1, "a", "b", "c") == [Accepted("s", 1)]
    (first,) = client.get(2)
    (second,) = client.get(3, most=9)
    assert items_of(first) == ["a"]
    assert items_of(second) == ["b", "c"]
    assert (first.delivery, second.delivery) == (1, 2)


def test_a_waiting_get_is_answered_by_the_put_that_ends_its_wait():
    _, client = queue_and_client()
    assert client.get(1) == []
    accepted, delivery = client.put(2, "a")
    assert accepted == Accepted("s", 2)
    assert items_of(delivery) == ["a"]
    assert delivery.number == 1


def test_who_does_not_wait_is_told_at_once():
    _, client = queue_and_client(maxsize=1)
    assert client.get(1, block=False) == [NoItem("s", 1)]
    client.put(2, "a")
    assert client.put(3, "b", block=False) == [NoRoom("s", 3)]
    assert client.put(4, "c") == []
    client.get(5)
    assert client.put(6, "d", block=False) == [NoRoom("s", 6)], "the room was for the one that waited"


def test_a_put_of_several_goes_in_as_a_whole_and_nobody_overtakes_it():
    _, client = queue_and_client(maxsize=3)
    client.put(1, "a", "b")
    assert client.put(2, "c", "d") == []
    assert client.put(3, "e") == []
    delivery, accepted = client.get(4)
    assert items_of(delivery) == ["a"]
    assert accepted == Accepted("s", 2)
    assert [type(decision) for decision in client.get(5)] == [Delivery, Accepted]


def test_a_repeated_put_counts_once():
    queue, client = queue_and_client()
    client.put(1, "a")
    assert client.put(1, "a") == [Accepted("s", 1)]
    client.lose()
    client.back()
    assert client.put(1, "a") == [Accepted("s", 1)]
    assert queue.depth == 1


def test_puts_that_are_settled_are_forgotten():
    queue, client = queue_and_client()
    for number in range(1, 1000):
        client.put(number, "a", done=number)
    assert len(queue.sessions["s"].accepted) == 1


def test_a_delivery_is_in_transit_until_it_is_acknowledged():
    queue, client = queue_and_client()
    client.put(1, "a", "b", "c")
    for number in (2, 3, 4):
        client.get(number)
    assert queue.statistics(0.0)["leases"] == 3
    queue.acknowledge("s", 2)
    assert queue.statistics(0.0)["leases"] == 1
    queue.acknowledge("s", 2)
    queue.acknowledge("nobody", 9)
    client.lose()
    queue.expire(RESUME_S)
    assert queue.depth == 1


def test_time_in_which_its_host_stood_still_does_not_count_against_a_session():
    queue, client = queue_and_client()
    client.put(1, "a")
    client.get(2)
    client.lose()
    queue.sessions.excuse("s", RESUME_S)
    queue.sessions.excuse("nobody", RESUME_S)
    assert queue.expire(2 * RESUME_S - 0.001) == []
    assert "s" in queue.sessions
    queue.expire(2 * RESUME_S)
    assert "s" not in queue.sessions


def test_what_a_lost_session_held_comes_back_to_the_front_in_order():
    queue, client = queue_and_client()
    other = Client(queue, "other")
    client.put(1, "a", "b", "c", "d")
    client.get(2)
    client.get(3, most=2)
    client.lose()
    assert queue.sessions.next_expiry == RESUME_S
    assert queue.expire(RESUME_S - 0.001) == []
    assert other.get(1)[0].runs[0].start == 3, "only 'd' is there before the session ends"
    other.get(2, most=9)
    (delivery,) = queue.expire(RESUME_S)
    assert items_of(delivery) == ["a", "b", "c"]
    assert queue.sessions.next_expiry is None
    assert queue.record.returned == 3


def test_a_session_that_comes_back_in_time_gets_again_what_it_did_not_receive():
    queue, client = queue_and_client()
    client.put(1, "a", "b", "c")
    client.get(2)
    client.get(3)
    client.get(4)
    client.lose()
    known, again = client.back(received=1, open_gets={3})
    assert known
    assert [(delivery.number, items_of(delivery)) for delivery in again] == [(3, ["b"])]
    assert queue.depth == 1, "nobody waits for 'c' any more"
    assert client.get(3) == [], "it was sent again already"


def test_a_session_that_comes_back_too_late_is_a_new_one():
    queue, client = queue_and_client()
    client.lose()
    queue.expire(RESUME_S)
    assert client.back() == (False, [])
    assert client.put(1, "a") == [Accepted("s", 1)]


def test_a_session_may_come_back_before_its_loss_was_noticed():
    _, client = queue_and_client()
    client.get(1)
    assert client.back() == (True, [])
    assert client.put(2, "a") == [Accepted("s", 2)], "the get was not said again"


def test_a_session_without_connection_waits_for_nothing():
    queue, client = queue_and_client(maxsize=1)
    other = Client(queue, "other")
    client.get(1)
    client.lose()
    other.put(1, "a")
    assert queue.depth == 1
    with pytest.raises(ProtocolError, match="not attached"):
        client.get(2)
    client.back()
    client.put(3, "b")
    client.lose()
    (delivery,) = other.get(2)
    assert items_of(delivery) == ["a"]
    assert queue.depth == 0


def test_leaving_on_purpose_gives_back_at_once():
    queue, client = queue_and_client()
    client.put(1, "a")
    client.get(2)
    assert queue.leave("s", 0.0) == []
    assert queue.depth == 1
    assert queue.leave("s", 0.0) == []
    assert queue.statistics(0.0)["sessions"] == 0


def test_a_withdrawn_request_is_not_answered_but_an_answer_under_way_holds():
    queue, client = queue_and_client(maxsize=1)
    client.get(1)
    assert queue.withdraw("s", 1, 0.0) == [Withdrawn("s", 1)]
    assert client.put(2, "a") == [Accepted("s", 2)]
    client.put(3, "b")
    assert queue.withdraw("s", 3, 0.0) == [Withdrawn("s", 3)]
    (delivery,) = client.get(4)
    assert items_of(delivery) == ["a"]
    assert queue.withdraw("s", 4, 0.0) == [], "the items are on their way"


def test_room_is_kept_for_who_asked():
    _, client = queue_and_client(maxsize=2)
    assert client.ask(1, 2) == [Room("s", 1)]
    assert client.put(2, "small", block=False) == [NoRoom("s", 2)]
    assert client.put(1, "a", "b") == [Accepted("s", 1)]
    assert client.ask(1, 2) == [Accepted("s", 1)], "a repeat after a reconnect"
    assert client.ask(3, 1) == []
    assert [type(decision) for decision in client.get(4)] == [Delivery, Room]


def test_room_that_is_not_used_is_given_to_others():
    queue, client = queue_and_client(maxsize=1)
    other = Client(queue, "other")
    client.ask(1, 1)
    assert other.put(1, "a") == []
    assert queue.withdraw("s", 1, 0.0) == [], "the room is on its way"
    assert queue.return_room("s", 1, 0.0) == [Accepted("other", 1)]
    assert queue.return_room("s", 1, 0.0) == []
    other.get(2)
    client.ask(2, 1)
    assert other.put(3, "b") == []
    assert client.lose() == [Accepted("other", 3)]


def test_a_delivery_that_nobody_wants_any_more_is_given_back():
    queue, client = queue_and_client()
    other = Client(queue, "other")
    client.put(1, "a", "b")
    client.get(2, most=2)
    other.get(1)
    (delivery,) = queue.refuse("s", 1, 0.0)
    assert items_of(delivery) == ["a"]
    assert queue.depth == 1
    assert queue.refuse("s", 1, 0.0) == []


def test_close_wakes_everybody_and_stays():
    queue, client = queue_and_client(maxsize=1)
    getter = Client(queue, "getter")
    client.put(1, "a")
    client.put(2, "b")
    client.ask(3, 1)
    assert set(queue.close(1.0)) == {Closed("s", 2), Closed("s", 3)}
    assert queue.close(2.0) == []
    assert (queue.depth, queue.record.dropped) == (0, 1)
    assert getter.get(1) == [Closed("getter", 1)]
    assert client.put(4, "c") == [Closed("s", 4)]
    assert client.ask(5, 1) == [Closed("s", 5)]
    assert client.put(1, "a") == [Accepted("s", 1)], "it had been accepted"
    assert Client(queue, "late").get(1) == [Closed("late", 1)]


def test_what_comes_back_after_the_end_is_counted():
    queue, client = queue_and_client()
    client.put(1, "a", "b")
    client.get(2, most=2)
    queue.close(0.0)
    client.lose()
    queue.expire(RESUME_S)
    assert (queue.depth, queue.record.dropped) == (0, 2)


def test_a_delivery_is_not_larger_than_it_has_to_be():
    queue, client = queue_and_client()
    for number in range(1, 5):
        queue.put("s", number, [Run(["x"], 0, 1, 5 << 20, 0.0)], True, 0, 0.0)
    (delivery,) = client.get(9, most=100)
    assert len(delivery.runs) == 1


def test_statistics():
    queue, client = queue_and_client(maxsize=9)
    Client(queue, "other").get(1)
    queue.withdraw("other", 1, 0.0)
    client.put(1, "a", "b", "c")
    client.get(2)
    told = queue.statistics(4.0)
    story = told.pop("story")
    assert story == ((0.0, "created"), (0.0, "session s attached"), (0.0, "session other attached"))
    assert told == {
        "depth": 2,
        "bytes": 20,
        "maxsize": 9,
        "closed": False,
        "producers": 1,
        "waiting_getters": 0,
        "waiting_putters": 0,
        "leases": 1,
        "held": 0,
        "sessions": 2,
        "oldest_s": 4.0,
        "puts": 3,
        "gets": 1,
        "puts_per_s": 0.75,
        "gets_per_s": 0.25,
        "dropped": 0,
        "returned": 0,
    }


def test_refused_deliveries_go_back_also_if_the_refusal_was_lost():
    queue, client = queue_and_client()
    client.put(1, "a", "b")
    client.get(2)
    client.get(3)
    client.lose()
    assert queue.attach("s", 2, (), 0.0, refused=[1]) == (True, [])
    (delivery,) = client.get(4, most=9)
    assert items_of(delivery) == ["a"]


def test_an_attach_is_stale_after_a_later_one_of_the_same_client():
    queue, _ = queue_and_client()
    queue.attach("s", 0, (), 0.0, attempt=2)
    assert queue.sessions.is_stale("s", 1)
    assert not queue.sessions.is_stale("s", 3)
    assert not queue.sessions.is_stale("nobody", 1)


def test_a_session_that_a_late_attach_has_created_is_not_the_one_that_the_client_knows():
    queue, _ = queue_and_client()
    assert queue.attach("t", 0, (), 0.0, attempt=1) == (False, [])
    queue.disconnect("t", 0.0)
    queue.expire(RESUME_S)
    assert queue.attach("t", 0, (), 0.0, attempt=1) == (False, []), "it comes late, over a connection that was given up"
    assert queue.attach("t", 0, (), 0.0, attempt=3, epoch=2) == (False, [])
    assert queue.attach("t", 0, (), 0.0, attempt=4, epoch=3) == (True, [])


# --- items that are held ---


def begun_of(delivery):
    return [run.begun for run in delivery.runs for _ in range(run.items)]


def test_an_item_that_is_held_belongs_to_the_queue_until_its_holder_is_done_with_it():
    queue, client = queue_and_client()
    other = Client(queue, "other")
    client.put(1, "a", "b", "c")
    taken = client.take(2, most=3)
    assert begun_of(taken) == [0, 0, 0]
    assert queue.statistics(0.0)["held"] == 3
    queue.finish("s", taken.delivery, 1)
    queue.finish("s", taken.delivery, 1)
    client.lose()
    queue.expire(RESUME_S)
    assert queue.depth == 2
    (again,) = other.get(1, most=9, holds=True)
    assert (items_of(again), begun_of(again)) == (["a", "c"], [1, 1])
    assert queue.record.returned == 2


def test_what_was_sent_to_be_held_counts_as_begun_if_its_taker_dies_before_it_said_that_it_came():
    queue, client = queue_and_client()
    client.put(1, "a")
    client.get(2, holds=True)
    client.lose()
    queue.expire(RESUME_S)
    assert begun_of(Client(queue, "other").take(1)) == [1]


def test_what_nobody_holds_comes_back_unmarked():
    queue, client = queue_and_client()
    client.put(1, "a")
    client.get(2)
    client.lose()
    queue.expire(RESUME_S)
    assert begun_of(Client(queue, "other").take(1)) == [0]


def test_what_is_given_back_goes_to_the_front_marked_as_its_holder_says():
    queue, client = queue_and_client()
    client.put(1, "a", "b", "c")
    first, second = client.take(2), client.take(3)
    assert queue.give_back("s", second.delivery, 0, False, 0.0) == []
    assert queue.give_back("s", first.delivery, 0, True, 0.0) == []
    assert queue.give_back("s", first.delivery, 0, True, 0.0) == [], "it is not held any more"
    (again,) = client.get(4, most=9, holds=True)
    assert (items_of(again), begun_of(again)) == (["a", "b", "c"], [1, 0, 0])


def test_an_item_keeps_the_time_when_it_was_put():
    queue, client = queue_and_client()
    client.now = 5.0
    queue.put("s", 1, [run("a")._replace(since=5.0)], True, 0, 5.0)
    taken = client.take(2)
    queue.give_back("s", taken.delivery, 0, True, 9.0)
    assert client.take(3).runs[0].since == 5.0


def test_an_acknowledgement_of_another_get_does_not_finish_what_is_held():
    queue, client = queue_and_client()
    client.put(1, "a", "b")
    client.take(2)
    client.get(3)
    queue.acknowledge("s", 2)
    assert (queue.statistics(0.0)["held"], queue.statistics(0.0)["leases"]) == (1, 0)


def test_a_session_that_comes_back_holds_what_it_held():
    queue, client = queue_and_client()
    client.put(1, "a", "b")
    client.take(2)
    client.get(3, holds=True)
    client.lose()
    known, again = client.back(received=2)
    assert (known, again, queue.depth) == (True, [], 0)
    assert queue.statistics(0.0)["held"] == 2


def test_who_has_put_an_item_hears_that_its_holder_is_gone():
    queue, putter = queue_and_client()
    holder = Client(queue, "holder")
    queue.put("s", 1, [run("a", putter=("s", 1))], True, 0, 0.0)
    putter.put(2, "not watched")
    holder.take(1)
    holder.take(2)
    holder.lose()
    assert queue.expire(RESUME_S) == [Abandoned("s", 1)]
    holder.back()
    holder.take(3)
    putter.lose()
    assert queue.leave("holder", 0.0) == [], "who has gone himself hears nothing"


def test_who_has_put_an_item_hears_that_it_was_dropped_with_the_queue():
    queue, _ = queue_and_client()
    queue.put("s", 1, [run("a", "b", putter=("s", 1))], True, 0, 0.0)
    assert queue.close(0.0) == [Dropped("s", 1)]


def test_a_queue_with_an_owner_is_orphaned_when_he_has_gone():
    queue = HostedQueue(0, 0.0, owner="s")
    client = Client(queue)
    assert not queue.is_orphaned
    client.lose()
    assert not queue.is_orphaned
    queue.expire(RESUME_S)
    assert queue.is_orphaned


# --- against a reference ----------------------------------------------------------------------------------


class Reference:
    """What a queue is, with no regard to cost: every item is in the queue, under way, or a client's."""

    def __init__(self, maxsize):
        self.maxsize = maxsize
        self.items = deque()
        self.putters, self.getters = [], []  # (session, number, items) and (session, number, most)
        self.under_way = {}  # (session, number) -> items
        self.owned, self.accepted = [], set()
        self.holding = {}  # (session, number) of gets that hold -> their delivery, 0 before there is one
        self.held = {}  # (session, delivery) -> {place: item}
        self.begun = Counter()

    def settle(self):
        """Everybody moves who can; returns the gets answered."""
        moved, answered = True, []
        while moved:
            moved = False
            if self.putters:
                session, number, items = self.putters[0]
                if not self.maxsize or len(self.items) + len(items) <= self.maxsize:
                    self.items += items
                    self.accepted.add((session, number))
                    moved = bool(self.putters.pop(0))
            if self.getters and self.items:
                session, number, most = self.getters.pop(0)
                taken = [self.items.popleft() for _ in range(min(most, len(self.items)))]
                self.under_way[session, number] = taken
                answered.append((session, number, taken))
                moved = True
        return answered

    def forget(self, session):
        self.putters = [putter for putter in self.putters if putter[0] != session]
        self.getters = [getter for getter in self.getters if getter[0] != session]

    def back(self, session, keep=()):
        gone = [request for request in self.under_way if request[0] == session and request[1] not in keep]
        returned = [item for request in gone for item in self.under_way.pop(request)]
        self.items.extendleft(reversed(returned))

    def end(self, session, deliveries):
        """`deliveries`: those that have not reached it, and their gets. What it held, or was to hold, is marked."""
        back = {delivery: items for (name, delivery), items in self.held.items() if name == session}
        for delivery, number in deliveries:
            items = dict(enumerate(self.under_way.pop((session, number))))
            back[delivery] = items
        for delivery, items in back.items():
            number = next((number for d, number in deliveries if d == delivery), None)
            if number is None or (session, number) in self.holding:
                self.begun.update(items.values())
            self.held.pop((session, delivery), None)
        returned = [item for delivery in sorted(back) for item in back[delivery].values()]
        self.items.extendleft(reversed(returned))


class HostedQueueAgainstReference(RuleBasedStateMachine):
    """Three clients that put, get, acknowledge, withdraw, vanish, come back in time or too late."""

    SESSION = st.sampled_from(["x", "y", "z"])

    @initialize(maxsize=st.integers(0, 4))
    def begin(self, maxsize):
        self.now, self.numbers, self.items = 0.0, 0, 0
        self.queue, self.reference = HostedQueue(maxsize, 0.0), Reference(maxsize)
        self.gone = {}  # session -> when
        self.delivered = {name: [] for name in "xyz"}  # (delivery, number) that reached nobody yet
        self.received = dict.fromkeys("xyz", 0)
        for name in "xyz":
            self.queue.attach(name, 0, (), 0.0)

    def settle(self, decisions):
        """What the queue decided is what the reference says."""
        expected = self.reference.settle()
        deliveries = [decision for decision in decisions if isinstance(decision, Delivery)]
        assert [(d.session, d.number, items_of(d)) for d in deliveries] == expected
        self.deliver(deliveries)

    def deliver(self, deliveries):
        for delivery in deliveries:
            self.delivered[delivery.session].append((delivery.delivery, delivery.number))
            assert begun_of(delivery) == [self.reference.begun[item] for item in items_of(delivery)]

    def number(self):
        self.numbers += 1
        return self.numbers

    def attached(self, session):
        return session not in self.gone

    @rule(session=SESSION, count=st.integers(1, 3), block=st.booleans())
    def put(self, session, count, block):
        if not self.attached(session) or 0 < self.queue.maxsize < count:
            return
        number, items = self.number(), list(range(self.items, self.items + count))
        self.items += count
        line, full = self.reference.putters, 0 < self.queue.maxsize < len(self.reference.items) + count
        decisions = self.queue.put(session, number, [run(*items)], block, 0, self.now)
        if not block and (line or full):
            assert decisions == [NoRoom(session, number)]
            return
        self.reference.putters.append((session, number, items))
        self.settle(decisions)
        assert (Accepted(session, number) in decisions) == ((session, number) in self.reference.accepted)

    @rule(session=SESSION, most=st.integers(1, 5), block=st.booleans(), holds=st.booleans())
    def get(self, session, most, block, holds):
        if not self.attached(session):
            return
        number = self.number()
        decisions = self.queue.get(session, number, most, block, 0, self.now, holds)
        if not block and not self.reference.items:
            assert decisions == [NoItem(session, number)]
            return
        self.reference.getters.append((session, number, most))
        if holds:
            self.reference.holding[session, number] = 0
        self.settle(decisions)

    @rule(session=SESSION)
    def receive_and_acknowledge(self, session):
        if self.attached(session) and self.delivered[session]:
            delivery = self.receive(session)
            self.queue.acknowledge(session, delivery)

    def receive(self, session):
        delivery, number = self.delivered[session].pop(0)
        self.received[session] = delivery
        items = self.reference.under_way.pop((session, number))
        if (session, number) in self.reference.holding:
            self.reference.held[session, delivery] = dict(enumerate(items))
        else:
            self.reference.owned += items
        return delivery

    @rule(data=st.data(), finishes=st.booleans(), begun=st.booleans())
    def be_done_with_what_is_held(self, data, finishes, begun):
        held = [(s, d, place) for (s, d), items in self.reference.held.items() if self.attached(s) for place in items]
        if not held:
            return
        session, delivery, place = data.draw(st.sampled_from(held))
        item = self.reference.held[session, delivery].pop(place)
        if finishes:
            self.queue.finish(session, delivery, place)
            self.reference.owned.append(item)
        else:
            self.reference.begun[item] += begun
            self.reference.items.appendleft(item)
            self.settle(self.queue.give_back(session, delivery, place, begun, self.now))
        self.queue.finish(session, delivery, place)

    @rule(session=SESSION, data=st.data())
    def withdraw(self, session, data):
        line = [request for request in self.reference.getters + self.reference.putters if request[0] == session]
        if line and self.attached(session):
            request = data.draw(st.sampled_from(line))
            decisions = self.queue.withdraw(session, request[1], self.now)
            assert decisions[0] == Withdrawn(session, request[1])
            for requests in (self.reference.getters, self.reference.putters):
                requests[:] = [other for other in requests if other[:2] != request[:2]]
            self.settle(decisions[1:])

    @rule(session=SESSION, data=st.data())
    def repeat_an_accepted_put(self, session, data):
        puts = sorted(number for name, number in self.reference.accepted if name == session)
        if puts and self.attached(session):
            number = data.draw(st.sampled_from(puts))
            assert self.queue.put(session, number, [run("twice")], True, 0, self.now) == [Accepted(session, number)]

    @rule(session=SESSION)
    def lose(self, session):
        if self.attached(session):
            self.gone[session] = self.now
            self.reference.forget(session)
            self.settle(self.queue.disconnect(session, self.now))

    @rule(session=SESSION, received_one=st.booleans(), data=st.data())
    def come_back(self, session, received_one, data):
        """Perhaps the client received one delivery whose acknowledgement was lost, and dropped some gets."""
        if self.attached(session):
            return
        lost = self.delivered[session]
        if received_one and lost:
            self.receive(session)
        still_open = {number for _, number in lost if data.draw(st.booleans())}
        known, decisions = self.queue.attach(session, self.received[session], still_open, self.now)
        assert known
        again = [decision for decision in decisions if isinstance(decision, Delivery)][: len(still_open)]
        assert [d.number for d in again] == [number for _, number in lost if number in still_open]
        assert [items_of(d) for d in again] == [self.reference.under_way[session, d.number] for d in again]
        self.delivered[session] = [(d, number) for d, number in lost if number in still_open]
        self.reference.back(session, still_open)
        del self.gone[session]
        self.settle([decision for decision in decisions if decision not in again])

    @precondition(lambda self: self.gone)
    @rule(seconds=st.sampled_from([0.5, RESUME_S]))
    def time_passes(self, seconds):
        self.now += seconds
        over = [
            name
            for when, name in sorted((when, name) for name, when in self.gone.items())
            if self.now - when >= RESUME_S
        ]
        expected = []
        for name in over:
            self.reference.end(name, self.delivered[name])
            self.reference.accepted -= {request for request in self.reference.accepted if request[0] == name}
            expected += self.reference.settle()
            self.delivered[name], self.received[name] = [], 0
            del self.gone[name]
        decisions = self.queue.expire(self.now)
        deliveries = [decision for decision in decisions if isinstance(decision, Delivery)]
        assert [(d.session, d.number, items_of(d)) for d in deliveries] == expected
        self.deliver(deliveries)
        for name in over:
            assert self.queue.attach(name, 0, (), self.now) == (False, [])

    @invariant()
    def nothing_is_lost_or_twice(self):
        reference = self.reference
        told = self.queue.statistics(self.now)
        assert self.queue.depth == len(reference.items)
        assert told["bytes"] == 10 * self.queue.depth
        assert told["leases"] == len(reference.under_way)
        assert told["waiting_getters"] == len(reference.getters)
        assert told["waiting_putters"] == len(reference.putters)
        under_way = [item for items in reference.under_way.values() for item in items]
        held = [item for items in reference.held.values() for item in items.values()]
        assert told["held"] == len(held)
        everything = [*reference.items, *under_way, *held, *reference.owned]
        assert len(everything) == len(set(everything)) == told["puts"]


TestHostedQueueAgainstReference = HostedQueueAgainstReference.TestCase
TestHostedQueueAgainstReference.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
