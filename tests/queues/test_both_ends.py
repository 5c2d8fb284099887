"""The client's session and the hosted queue against each other, message by message, over connections that break.

No thread, no socket, no clock: a seed decides what happens next. Messages are delivered late, also over connections
that both ends have given up; ATTACH arrives twice and out of order; the host forgets sessions.
"""

from __future__ import annotations

import random
from collections import Counter, deque

import pytest

from sage_flow.queues.client_session import Attached, ClientSession, LocalAnswer, Notify, QueueRequest, Send, Settle
from sage_flow.queues.hosted import RESUME_S, HostedQueue
from sage_flow.queues.hosted_decisions import Delivery
from sage_flow.queues.hosted_messages import handle, message_of
from sage_flow.queues.opcodes import ANYBODY, Opcode

STEPS = 250
SCHEDULES = 1500
PART = 100  # schedules in one test


class Connection:
    """Two directions, each first in, first out in each lane."""

    def __init__(self, client):
        self.client = client
        self.to_host: dict[object, deque] = {}
        self.to_client: deque = deque()
        self.host_lost = self.client_lost = False

    def __repr__(self):
        return f"c{id(self) % 1000}"


class Client:
    """A process: its session, what it has asked, and what it owns."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.session = ClientSession(("scope", "queue", world.maxsize, ANYBODY), name)
        self.connections: list[Connection] = []
        self.settled: Counter = Counter()
        self.requests: list[QueueRequest] = []
        self.items_of: dict[int, list[int]] = {}  # by put
        self.reserving: dict[int, list[int]] = {}  # puts that asked for room
        self.held: list[tuple[int, int, int, int]] = []  # generation, delivery, place, item

    def apply(self, decisions):
        for decision in decisions:
            match decision:
                case Send(connection, message, request, _):
                    self.world.send(connection, message, request)
                case Settle(request, answer):
                    self.on_settled(request, answer)
                case Notify(watcher, _):
                    self.world.notified.append(watcher)
                case Attached():
                    pass

    def request(self, *message, watcher=None, number=None):
        made = QueueRequest(next(self.session.numbers) if number is None else number, message, self.world.now)
        self.requests.append(made)
        self.apply(self.session.request(made, self.world.now, watcher))
        return made

    def on_settled(self, request, answer):
        self.settled[id(request)] += 1
        world, number = self.world, request.number
        if answer[0] == Opcode.DELIVERY:
            _, runs, delivery, generation = answer
            items = [int(item) for payload, start, stop, *_ in runs for item in payload[start:stop]]
            assert 0 < len(items) <= request.message[2]
            if request.is_abandoned:
                raise AssertionError("a delivery for a get that was abandoned")
            if request.message[3]:
                self.held += [(generation, delivery, place, item) for place, item in enumerate(items)]
            else:
                world.owned.update(items)
        elif answer[0] == Opcode.ROOM:
            if request.is_abandoned:
                raise AssertionError("room for a put that was abandoned")
            self.request(*put_of(self.reserving.pop(number)), number=number)
        elif answer[0] == Opcode.ACCEPTED:
            world.accepted.update(self.items_of[number])
        elif answer[0] == LocalAnswer.IN_DOUBT:
            assert world.forgotten[self.name], "a put is in doubt, and the host knows its session"
        elif answer[0] in (Opcode.NO_ROOM, Opcode.WITHDRAWN) and number in self.items_of:
            world.not_put.update(self.items_of[number])

    @property
    def is_attaching(self):
        return bool(self.connections) and not (self.connections[-1].client_lost or self.connections[-1].host_lost)

    @property
    def open(self):
        return [r for r in self.session.open.values() if not r.is_abandoned]


def put_of(items, block=True):
    return Opcode.PUT, block, [(tuple(b"%d" % item for item in items), len(items), 10 * len(items))], False


def items_in(runs):
    return [int(item) for run in runs for item in run.payload[run.start : run.stop]]


class World:
    """The host, two or three clients and the connections between them, under one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.now = 0.0
        self.maxsize = self.random.choice([0, 0, 1, 3])
        self.holds = self.random.choice([0.1, 0.5, 1.0])  # how many gets do
        self.settles = self.random.choice([1.0, 6.0])  # how often it is done with an item
        self.breaks = self.random.choice([0.2, 0.5, 1.0])  # how often connections do
        self.expires = self.random.choice([0.0, 0.5, 4.0])  # how often the host forgets who is gone
        self.queue = HostedQueue(self.maxsize, 0.0)
        self.current: dict[str, Connection] = {}  # the subscription of each session, as in `QueueHost`
        self.next_item = 0
        self.accepted, self.not_put, self.abandoned = set(), set(), set()
        self.owned: Counter = Counter()
        self.may_be_twice: set[int] = set()
        self.forgotten: Counter = Counter()  # sessions, by client
        self.may_return = False  # items may have come back to the queue
        self.first_delivered: list[int] = []
        self.producer: dict[int, str] = {}
        self.large: set[int] = set()
        self.unordered: set[int] = set()  # of puts that do not wait, while the next ones are under way already
        self.notified: list = []
        self.story: list[str] = []
        self.clients = [Client(self, name) for name in "xyz"[: self.random.choice([1, 2, 3])]]

    # -- the wires --

    def send(self, connection, message, request=None):
        lane = ("large", request.number) if request is not None and self.is_large(request) else "all"
        connection.to_host.setdefault(lane, deque()).append(message)

    def is_large(self, request):
        return request.message[0] == Opcode.PUT and int(request.message[2][0][0][0]) in self.large

    def decide(self, decisions):
        for decision in decisions:
            if isinstance(decision, Delivery):
                items = items_in(decision.runs)
                self.first_delivered += [item for item in items if item not in self.first_delivered]
            connection = self.current.get(decision.session)
            assert connection is not None, f"{decision} for a session without a connection"
            connection.to_client.append(message_of(decision, self.now, "closed"))

    def deliver_to_host(self, connection):
        lanes = [lane for lane, messages in connection.to_host.items() if messages]
        if not lanes or connection.host_lost:
            return
        opcode, *arguments = connection.to_host[self.random.choice(lanes)].popleft()
        name = connection.client.name
        if opcode == Opcode.ATTACH:
            *_, host, session, received, gets, refused, attempt, epoch = arguments
            assert host in (None, "host")
            if self.queue.sessions.is_stale(session, attempt):
                return
            self.current[name] = connection
            known = self.queue.sessions.get(session)
            if known is not None and known.epoch != epoch:
                assert connection.client.session.host is None or self.forgotten[name], "the client knows this session"
                self.forget(name)
            is_known, decisions = self.queue.attach(session, received, gets, self.now, refused, attempt, epoch)
            connection.to_client.append((int(Opcode.ATTACHED), "host", is_known))
            self.decide(decisions)
        elif self.current.get(name) is connection:
            self.decide(handle(self.queue, name, opcode, arguments, self.now))

    def deliver_to_client(self, connection):
        if not connection.to_client:
            return
        opcode, *arguments = connection.to_client.popleft()
        client = connection.client
        if opcode == Opcode.ATTACHED:
            client.apply(client.session.attached(connection, *arguments, self.now))
        else:
            client.apply(client.session.received(connection, opcode, *arguments))

    def forget(self, name):
        """The host is about to forget a session: what had arrived and was not acknowledged may arrive twice."""
        self.forgotten[name] += 1
        self.may_return = True
        session = self.queue.sessions[name]
        for sent in session.in_transit.values():
            self.may_be_twice.update(items_in(sent.runs))
        for items in session.held.values():
            self.may_be_twice.update(items_in(items.values()))

    # -- what may happen --

    def step(self):
        client = self.random.choice(self.clients)
        actions = [
            (self.put, 3),
            (self.get, 4),
            (self.to_host, 20),
            (self.to_client, 20),
            (self.dial, 0.3 if client.session.connection or client.is_attaching else 8),
            (self.break_at_client, 1.5 * self.breaks),
            (self.break_at_host, 1.5 * self.breaks),
            (self.withdraw, 1),
            (self.abandon, 1),
            (self.settle_item, self.settles),
            (self.pass_time, self.expires),
        ]
        action = self.random.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
        self.story.append(f"{action.__name__}({client.name})")
        action(client)

    def put(self, client):
        count = self.random.choice([1, 1, 2]) if self.maxsize != 1 else 1
        items = list(range(self.next_item, self.next_item + count))
        self.next_item += count
        self.producer.update(dict.fromkeys(items, client.name))
        block = self.random.random() < 0.8
        if self.random.random() < 0.2:
            self.large.update(items)
            made = client.request(Opcode.RESERVE_ROOM, block, count)
            client.reserving[made.number] = items
        else:
            made = client.request(*put_of(items, block))
        if not block:
            self.unordered.update(items)
        client.items_of[made.number] = items

    def get(self, client):
        if len([r for r in client.open if r.message[0] == Opcode.GET]) < 3:
            block, holds = self.random.random() < 0.8, self.random.random() < self.holds
            client.request(Opcode.GET, block, self.random.choice([1, 2, 5]), holds)

    def to_host(self, client):
        filled = [c for c in client.connections if not c.host_lost and any(c.to_host.values())]
        if filled:
            self.deliver_to_host(self.random.choice(filled))

    def to_client(self, client):
        filled = [c for c in client.connections if c.to_client]
        if filled:
            self.deliver_to_client(self.random.choice(filled))

    def dial(self, client):
        """Also while an earlier ATTACH is under way: its answer took too long."""
        connection = Connection(client)
        client.connections.append(connection)
        if (attached := client.session.connection) is not None:
            client.session.on_lost(attached)
        client.apply([client.session.attach(connection)])

    def break_at_client(self, client):
        """What was on its way to the host is lost, from some point on; what has come may still be read."""
        for connection in client.connections:
            if not connection.client_lost:
                connection.client_lost = True
                if self.random.random() < 0.5:
                    for messages in connection.to_host.values():
                        while messages and self.random.random() < 0.7:
                            messages.pop()
                client.session.on_lost(connection)

    def break_at_host(self, client):
        """The host notices that a connection is lost; the client has not, or long since."""
        alive = [connection for connection in client.connections if not connection.host_lost]
        if not alive:
            return
        connection = self.random.choice(alive)
        connection.host_lost = True
        if self.random.random() < 0.5:
            while connection.to_client and self.random.random() < 0.7:
                connection.to_client.pop()
        if self.current.get(client.name) is connection:
            self.decide(self.queue.disconnect(client.name, self.now))

    def withdraw(self, client):
        waiting = [request for request in client.open if request.waits]
        if waiting:
            request = self.random.choice(waiting)
            self.unordered.update(client.items_of.get(request.number, ()))
            client.apply(client.session.withdraw(request))

    def abandon(self, client):
        if client.open:
            request = self.random.choice(client.open)
            self.may_return = True
            self.abandoned.update(client.items_of.get(request.number, ()))
            client.apply(client.session.abandon(request))

    def settle_item(self, client):
        if client.held:
            generation, delivery, place, item = client.held.pop(self.random.randrange(len(client.held)))
            is_current = generation == client.session._at_host.generation
            if self.random.random() < 0.6:
                client.apply(client.session.settle_item(generation, Opcode.FINISH, delivery, place))
                if is_current:
                    self.owned[item] += 1
            else:
                self.may_return = True
                begun = self.random.random() < 0.5
                client.apply(client.session.settle_item(generation, Opcode.GIVE_BACK, delivery, place, begun))

    def pass_time(self, client):
        self.now += RESUME_S
        for name in self.queue.sessions.expired(self.now):
            self.forget(name)
        self.decide(self.queue.expire(self.now))

    # -- the end --

    def finish(self):
        """Everybody comes back, everything arrives; gets that still wait are withdrawn, held items finished."""
        for _ in range(4):
            for client in self.clients:
                if client.session.connection is None or client.session.connection.host_lost:
                    self.dial(client)
            self.deliver_all()
        assert all(client.session.connection is not None for client in self.clients)
        for round in range(200):
            for client in self.clients:
                for request in [r for r in client.open if r.waits and (r.message[0] == Opcode.GET or round > 100)]:
                    client.apply(client.session.withdraw(request))
            self.deliver_all()
            for client in self.clients:
                while client.held:
                    generation, delivery, place, item = client.held.pop()
                    is_current = generation == client.session._at_host.generation
                    client.apply(client.session.settle_item(generation, Opcode.FINISH, delivery, place))
                    self.owned[item] += is_current
            self.deliver_all()
            if not self.queue.depth and not any(client.open for client in self.clients):
                break
            self.random.choice(self.clients).request(Opcode.GET, False, 5, False)
            self.deliver_all()

    def deliver_all(self):
        moved = True
        while moved:
            moved = False
            for client in self.clients:
                for connection in client.connections:
                    while connection.to_client:
                        self.deliver_to_client(connection)
                        moved = True
                    while not connection.host_lost and any(connection.to_host.values()):
                        self.deliver_to_host(connection)
                        moved = True

    def check_step(self):
        for client in self.clients:
            assert all(count == 1 for count in client.settled.values()), "a request was settled twice"

    def check_end(self):
        told = self.queue.statistics(self.now)
        assert (told["depth"], told["leases"], told["held"]) == (0, 0, 0)
        assert (told["waiting_getters"], told["waiting_putters"]) == (0, 0)
        assert self.queue._backlog.reserved == 0, "room is kept for a put that nobody makes"
        for client in self.clients:
            assert not client.open
            unsettled = [r for r in client.requests if not r.is_abandoned and not client.settled[id(r)]]
            assert not unsettled, "a request was never settled"
        assert self.may_return or not told["returned"], "items came back from a client that is there, and wants them"
        lost = self.accepted - set(self.owned)
        assert not lost, f"lost {sorted(lost)}"
        twice = {item for item, count in self.owned.items() if count > 1} - self.may_be_twice
        assert not twice, f"twice {sorted(twice)}"
        invented = set(self.owned) & self.not_put - self.abandoned
        assert not invented, f"got {sorted(invented)}, which a put said it had not put"
        for name in "xyz":
            unordered = self.large | self.unordered
            order = [item for item in self.first_delivered if self.producer[item] == name and item not in unordered]
            assert order == sorted(order), f"the items of {name} left out of order"


def run(seed):
    world = World(seed)
    try:
        for _ in range(STEPS):
            world.step()
            world.check_step()
        world.finish()
        world.check_step()
        world.check_end()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}; {' '.join(world.story)}") from error


@pytest.mark.parametrize("first", range(0, SCHEDULES, PART))
def test_no_item_is_lost_or_twice_and_every_request_is_settled_once(first):
    for seed in range(first, first + PART):
        run(seed)
