"""Any sequence of operations on any handles of a few channels, in two processes, against the reference queue."""

import copy
import itertools
import json
import logging
import pickle
from dataclasses import dataclass, field
from queue import Empty, Full
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from queue_peer import Failed, Peer, clone_there, get_there, put_there
from reference_queue import ReferenceQueue
from test_queue_waiting import start, until

from sage_flow.errors import QueueClosed

LARGE = 300 << 10  # bytes: a put of it asks for room first
SIZES = st.lists(st.sampled_from([0, 0, 0, LARGE]), max_size=4)
PATIENCE = st.sampled_from([{"block": False}, {"timeout": 0}, {"timeout": 0.002}, {"block": False, "timeout": 9}])

_labels = (f"label-{number}" for number in itertools.count())


@dataclass(eq=False)
class Handle:
    """A descriptor, and what is true of it."""

    descriptor: Any
    queue: ReferenceQueue
    label: str
    initialized: bool = False
    born_with: tuple = field(init=False)

    def __post_init__(self):
        self.born_with = hash(self.descriptor), self.descriptor.channel_id, self.descriptor.created_timestamp

    def use(self):
        self.initialized = self.queue.bound = True
        return self.descriptor


class There:
    """A call in another process; one that never answers is idle no more."""

    def __init__(self, idle, function, *arguments):
        self.idle, self.peer = idle, idle.pop()
        self.peer.start(function, *arguments)

    def result(self):
        try:
            told = self.peer.result(30)
        except Failed:
            self.idle.append(self.peer)
            raise
        self.idle.append(self.peer)
        return told


def outcome(action, *arguments, **options):
    """What it returns, or the type of what it raises, here or in a peer."""
    try:
        return action(*arguments, **options)
    except (Full, Empty, QueueClosed, ValueError) as error:
        return type(error)
    except Failed as failure:
        return failure.kind


class QueueModel(RuleBasedStateMachine):
    """Handles are made of handles; whatever is done over one is seen over all others of its channel, and no others."""

    handles = Bundle("handles")

    def __init__(self, kind, idle):
        super().__init__()
        self.kind = kind
        self.idle = idle if kind.reaches_other_processes else []
        self.alive = []
        self.pickled = {}  # of each channel that has no handle here any more
        self.numbers = itertools.count()

    def handle(self, descriptor, queue, label, initialized=False):
        self.alive.append(Handle(descriptor, queue, label, initialized))
        return self.alive[-1]

    def another(self, handle, descriptor, label=None, initialized=False):
        """A handle of the same channel, which somebody has made of this one."""
        handle.queue.bound = True
        return self.handle(descriptor, handle.queue, label or handle.label, initialized)

    def served(self, queue):
        served = queue.serve()
        assert [outcome(call.result) for call, _ in served] == [expected for _, expected in served]

    def items(self, sizes):
        """No two are equal."""
        return [(next(self.numbers), bytes(size)) for size in sizes]

    # --- handles ---

    @initialize(target=handles, maxsize=st.integers(0, 3))
    def begin(self, maxsize):
        return self.make(maxsize)

    @rule(target=handles, maxsize=st.integers(0, 3))
    def another_channel(self, maxsize):
        return self.make(maxsize)

    def make(self, maxsize):
        descriptor = self.kind.make(maxsize=maxsize)
        return self.handle(descriptor, ReferenceQueue(maxsize), descriptor.queue_id)

    @rule(target=handles, handle=handles)
    def share(self, handle):
        return self.another(handle, handle.descriptor.share(), initialized=handle.initialized)

    @rule(target=handles, handle=handles)
    def copy(self, handle):
        return self.another(handle, copy.deepcopy(handle.descriptor), initialized=handle.initialized)

    @rule(target=handles, handle=handles, named=st.booleans())
    def clone(self, handle, named):
        label = next(_labels) if named else None
        clone = handle.descriptor.clone(label)
        if handle.queue.bound:
            return self.another(handle, clone, label, handle.initialized)
        return self.handle(clone, ReferenceQueue(handle.queue.maxsize), label or f"{handle.label}_clone")

    @rule(target=handles, handle=handles, form=st.sampled_from(["pickle", "dict", "JSON"]))
    def round_trip(self, handle, form):
        descriptor, kind = handle.descriptor, self.kind
        if form == "pickle":
            found = kind.unpickle(pickle.dumps(descriptor))
        elif form == "dict":
            found = kind.resolve(json.loads(json.dumps(descriptor.to_dict())))
        else:
            serializable = descriptor.to_serializable_descriptor()
            found = kind.from_json(type(descriptor), serializable.to_json())
        assert found.created_timestamp == descriptor.created_timestamp
        return self.another(handle, found)

    @rule(handle=handles)
    def json_of_what_is_in_use(self, handle):
        can = self.kind.reaches_other_processes or not handle.initialized
        assert handle.descriptor.can_serialize == can
        told = outcome(handle.descriptor.to_json)
        assert (told is not ValueError) == can
        handle.queue.bound |= can

    @rule(target=handles, handle=handles)
    def say_its_name_again(self, handle):
        channel_id = handle.descriptor.channel_id
        descriptor = self.kind.make(maxsize=handle.queue.maxsize, queue_id=channel_id)
        return self.handle(descriptor, handle.queue, channel_id)

    @rule(handle=handles)
    def trim(self, handle):
        handle.descriptor.trim()
        handle.initialized = False

    @rule(handle=consumes(handles))
    def drop(self, handle):
        """The last handle of a channel is kept in its pickle."""
        self.alive.remove(handle)
        if all(other.queue is not handle.queue for other in self.alive):
            self.pickled[handle.queue] = pickle.dumps(handle.descriptor)
            handle.queue.bound = True

    @precondition(lambda self: self.pickled)
    @rule(target=handles)
    def find_again(self):
        queue, data = self.pickled.popitem()
        descriptor = self.kind.unpickle(data)
        return self.handle(descriptor, queue, descriptor.queue_id)

    # --- items ---

    @rule(handle=handles, sizes=SIZES, patience=PATIENCE)
    def put_many(self, handle, sizes, patience):
        items = self.items(sizes)
        told = outcome(handle.use().put_many, items, **patience)
        assert told == outcome(handle.queue.put, items)
        self.served(handle.queue)

    @rule(handle=handles, sizes=SIZES)
    def put_one_by_one(self, handle, sizes):
        for item in self.items(sizes):
            told = outcome(handle.use().put_nowait, item)
            assert told == outcome(handle.queue.put, [item])
            self.served(handle.queue)

    @rule(handle=handles, most=st.integers(1, 4), patience=PATIENCE)
    def get_many(self, handle, most, patience):
        told = outcome(handle.use().get_many, most, **patience)
        assert told == outcome(handle.queue.get, most)
        self.served(handle.queue)

    @rule(handle=handles)
    def get_one(self, handle):
        told = outcome(handle.use().get_nowait)
        expected = outcome(handle.queue.get, 1)
        assert told == (expected[0] if isinstance(expected, list) else expected)
        self.served(handle.queue)

    @rule(handle=handles)
    def look(self, handle):
        descriptor, queue = handle.use(), handle.queue
        size = outcome(queue.size)
        assert outcome(descriptor.qsize) == size
        assert outcome(descriptor.empty) == (size if size is QueueClosed else size == 0)
        full = outcome(descriptor.full)
        assert full in (size, False) if size is QueueClosed else full == (0 < queue.maxsize <= size)

    @rule(handle=handles, sizes=SIZES)
    def wait_for_room(self, handle, sizes):
        queue, items = handle.queue, self.items(sizes)
        if 0 < len(items) <= queue.maxsize and not queue.closed and not queue.has_room(len(items)):
            queue.putters.append((items, start(handle.use().put_many, items)))
            until(handle.use(), waiting_putters=len(queue.putters))

    @rule(handle=handles, most=st.integers(1, 3))
    def wait_for_items(self, handle, most):
        queue = handle.queue
        if not queue.closed and not queue.items:
            queue.getters.append((most, start(handle.use().get_many, most)))
            until(handle.use(), waiting_getters=len(queue.getters))

    @rule(handle=handles)
    def close(self, handle):
        handle.use().close()
        waiting = handle.queue.close()
        assert [outcome(call.result) for call in waiting] == [QueueClosed] * len(waiting)

    # --- the other process ---

    @precondition(lambda self: self.idle)
    @rule(handle=handles, size=st.sampled_from([0, LARGE]), named=st.booleans())
    def put_there(self, handle, size, named):
        queue = handle.queue
        if queue.closed or (queue.has_room(1) and not queue.putters):
            items = self.items([size])
            told = outcome(self.there(put_there, handle, items, next(_labels) if named else None).result)
            assert told == (outcome(queue.put, items) or handle.descriptor.channel_id)
            self.served(queue)

    @precondition(lambda self: self.idle)
    @rule(handle=handles, named=st.booleans())
    def get_there(self, handle, named):
        if handle.queue.closed or handle.queue.items:
            told = outcome(self.there(get_there, handle, 1, next(_labels) if named else None).result)
            assert told == outcome(handle.queue.get, 1)
            self.served(handle.queue)

    @precondition(lambda self: self.idle)
    @rule(handle=handles)
    def wait_there(self, handle):
        queue = handle.queue
        if not queue.closed and not queue.items:
            queue.getters.append((1, self.there(get_there, handle, 1)))
            until(handle.use(), waiting_getters=len(queue.getters))

    @precondition(lambda self: self.idle)
    @rule(target=handles, handle=handles)
    def clone_there(self, handle):
        label = next(_labels)
        described = There(self.idle, clone_there, self.kind, handle.descriptor.to_dict(), label).result()
        return self.another(handle, self.kind.resolve(described), label)

    def there(self, function, handle, *arguments):
        handle.queue.bound = True
        return There(self.idle, function, self.kind, pickle.dumps(handle.descriptor), *arguments)

    # --- what is true at any time ---

    @rule(one=handles, other=handles)
    def compare(self, one, other):
        same = one.queue is other.queue
        assert one.descriptor.same_channel(other.descriptor) == same
        assert (one.descriptor == other.descriptor) == (same and one.label == other.label)
        if not one.queue.closed and not other.queue.closed:
            assert (one.use().queue_instance is other.use().queue_instance) == same

    @rule(handle=handles)
    def ask_for_statistics(self, handle):
        queue = handle.queue
        if not queue.closed:
            told = handle.use().statistics()
            counts = [told[name] for name in ("depth", "waiting_getters", "waiting_putters", "puts", "gets")]
            lines = [len(queue.items), len(queue.getters), len(queue.putters)]
            assert counts == [*lines, queue.put_so_far, queue.got_so_far]
            assert (told["closed"], told["returned"]) == (False, 0)
            until(handle.descriptor, leases=0)  # an acknowledgement of the other process may be under way

    @invariant()
    def handles_are_what_they_were_made(self):
        for handle in self.alive:
            descriptor = handle.descriptor
            assert descriptor.queue_id == handle.label
            assert descriptor.maxsize == handle.queue.maxsize
            assert descriptor.is_bound == handle.queue.bound
            assert (hash(descriptor), descriptor.channel_id, descriptor.created_timestamp) == handle.born_with
            if not handle.queue.closed:
                assert descriptor.is_initialized() == handle.initialized

    def teardown(self):
        while self.pickled:
            self.find_again()
        for handle in self.alive:
            if handle.queue.bound and not handle.queue.closed:
                self.close(handle)


@pytest.fixture
def idle(peers):
    """Both peers; one that did not answer is replaced at the end."""
    idle = list(peers)
    yield idle
    for number, peer in enumerate(peers):
        if peer not in idle:
            peer.kill()
            peers[number] = Peer()


def test_queues_are_the_reference(kind, idle, caplog):
    caplog.set_level(logging.ERROR, "sage_flow.channels")  # items are dropped at the end of every example
    chosen = settings(max_examples=50, stateful_step_count=30)
    run_state_machine_as_test(lambda: QueueModel(kind, idle), settings=chosen)
