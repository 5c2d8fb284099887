"""What a service is to one caller, said as plainly as possible: the model that services are held against."""

from collections import deque


class ReferenceService:
    """Calls wait in line and run, so many at a time; `open` are those whose caller still waits for an outcome."""

    def __init__(self, concurrency, max_pending):
        self.concurrency, self.max_pending = concurrency, max_pending
        self.open, self.line, self.running = set(), deque(), []
        self.started = []  # all that ever ran, in order
        self.calls = self.errors = 0  # that have ended, for their caller
        self.ended = False

    @property
    def has_place(self):
        return len(self.open) < self.max_pending

    def call(self, number):
        self.open.add(number)
        self.line.append(number)
        self._start()

    def refuse(self):
        """There was no place for a call until its time had passed, or there is no service any more."""
        self.calls += 1
        self.errors += 1

    def give_up(self, number):
        """Its caller does not wait any longer. What runs runs on; what waits is never started."""
        self.open.remove(number)
        self.refuse()

    def end_body(self, number, error):
        """Returns whether somebody gets the outcome."""
        self.running.remove(number)
        told = number in self.open
        if told:
            self.open.remove(number)
            self.calls += 1
            self.errors += error
        self._start()
        return told

    def end(self):
        """The job is cancelled; returns the calls that get no answer."""
        self.ended = True
        self.line.clear()
        waiting, self.open = self.open, set()
        return waiting

    def _start(self):
        while self.line and len(self.running) < self.concurrency:
            number = self.line.popleft()
            if number in self.open:
                self.running.append(number)
                self.started.append(number)
