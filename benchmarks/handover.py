"""Calls by hand: a number there and back between threads, over bare Conditions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Desk", "Handover", "Mailbox"]


class Handover:
    """One caller, one thread that answers, one Condition; `answer` is what the thread does."""

    def __init__(self, answer: Callable[[int], int] = lambda number: number) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._answer = answer
        self._asked: int | None = None
        self._answered: int | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def call(self, number: int) -> int:
        with self._condition:
            self._asked, self._answered = number, None
            self._condition.notify_all()
            while self._answered is None:
                self._condition.wait()
            return self._answered

    def stop(self) -> None:
        with self._condition:
            self._asked = -1
            self._condition.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        with self._condition:
            while True:
                while self._asked is None:
                    self._condition.wait()
                if self._asked < 0:
                    return
                number, self._asked = self._asked, None
                self._answered = self._answer(number)
                self._condition.notify_all()


class Mailbox:
    """The replies to one caller, who may have many calls open."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._condition = threading.Condition(threading.Lock())
        self._replies: list[int] = []

    def start(self, number: int) -> None:
        self._desk.ask(number, self)

    def finished(self) -> list[int]:
        with self._condition:
            while not self._replies:
                self._condition.wait()
            replies, self._replies = self._replies, []
            return replies

    def call(self, number: int) -> int:
        self.start(number)
        return self.finished()[0]

    def take(self, reply: int) -> None:
        with self._condition:
            self._replies.append(reply)
            self._condition.notify_all()


class Desk:
    """A thread that answers many callers, in turn."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._asked: deque[tuple[int, Mailbox]] = deque()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def ask(self, number: int, mailbox: Mailbox) -> None:
        with self._condition:
            self._asked.append((number, mailbox))
            self._condition.notify_all()

    def stop(self) -> None:
        self.ask(-1, Mailbox(self))
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._condition:
                while not self._asked:
                    self._condition.wait()
                number, mailbox = self._asked.popleft()
            if number < 0:
                return
            mailbox.take(number)
