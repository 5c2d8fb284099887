"""What a queue is, said as plainly as possible: the model that queues of every kind are held against."""

from collections import deque
from queue import Empty, Full

from sage_flow.errors import QueueClosed


class ReferenceQueue:
    """One channel. Who waits stands in line as (what is wanted, the call); nobody is overtaken.

    `bound`: somebody has used, shared or serialised it, so that its clones are the same channel.
    """

    def __init__(self, maxsize):
        self.maxsize = maxsize
        self.bound = self.closed = False
        self.items, self.putters, self.getters = deque(), deque(), deque()
        self.put_so_far = self.got_so_far = 0

    def put(self, items):
        """Put all or none, now."""
        if 0 < self.maxsize < len(items):
            raise ValueError
        if self.closed:
            raise QueueClosed
        if items and not (self.has_room(len(items)) and not self.putters):
            raise Full
        self._add(items)

    def get(self, most):
        """Take at most so many, now."""
        if self.closed:
            raise QueueClosed
        if not self.items:
            raise Empty
        return self._take(most)

    def size(self):
        if self.closed:
            raise QueueClosed
        return len(self.items)

    def has_room(self, count):
        return self.maxsize == 0 or len(self.items) + count <= self.maxsize

    def serve(self):
        """Everybody who waits and can go on does; returns (call, what it returns) of each."""
        served = []
        while True:
            if self.putters and self.has_room(len(self.putters[0][0])):
                items, call = self.putters.popleft()
                self._add(items)
                served.append((call, None))
            elif self.getters and self.items:
                most, call = self.getters.popleft()
                served.append((call, self._take(most)))
            else:
                return served

    def close(self):
        """Nothing goes in or out any more; returns the calls that wait."""
        self.closed = True
        waiting = [call for _, call in (*self.putters, *self.getters)]
        self.items, self.putters, self.getters = deque(), deque(), deque()
        return waiting

    def _add(self, items):
        self.items += items
        self.put_so_far += len(items)

    def _take(self, most):
        taken = [self.items.popleft() for _ in range(min(most, len(self.items)))]
        self.got_so_far += len(taken)
        return taken
