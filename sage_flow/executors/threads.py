"""Local mode: every subtask is a thread, edges stay in memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from sage_flow.errors import ProtocolError
from sage_flow.executors.condition import BareCondition
from sage_flow.executors.driver import Driver, DriverOptions
from sage_flow.executors.driver_checkpoints import DriverCalls
from sage_flow.executors.execution import LocalExecution
from sage_flow.executors.led_execution import LedExecution, LocalAttempt, start_led
from sage_flow.executors.outside import OutsidePort
from sage_flow.executors.positions import thread_place
from sage_flow.executors.reading_condition import ReadingCondition
from sage_flow.executors.resources import Resources
from sage_flow.executors.shell import Condition, records_in_memory
from sage_flow.executors.wall_clock import wall_ms
from sage_flow.executors.worker import Worker
from sage_flow.plan.physical import Plan
from sage_flow.plan.queues import JobQueues
from sage_flow.queues.channel import this_process
from sage_flow.runtime.messages import DRIVER, MESSAGES, OUTSIDE, Data, Message
from sage_flow.wire.codec import copy_value

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from sage_flow.links.loop import EventLoop

__all__ = ["LocalTransport", "ThreadExecutor", "ThreadShell", "UNWIND_S", "queues_of_process"]

_COPIED: Final = MESSAGES.copied

UNWIND_S: Final = 1.0
"""Seconds for the threads of a failed attempt to end, before another attempt begins in the same process."""


class LocalTransport:
    """Delivers messages inside one process.

    Threads share objects and processes do not. So arguments and replies of services are copied here, as on a wire. With
    `copies_records` every record is copied, too, which shows whether a pipeline relies on sharing.
    """

    def __init__(self, *, copies_records: bool = False) -> None:
        self.copies_records = copies_records
        self._receivers: dict[int, Callable[[Message], None]] = {}
        self._early: dict[int, list[Message]] | None = None
        self._registering = threading.Lock()

    def register(self, address: int, deliver: Callable[[Message], None]) -> None:
        """Let `deliver` take the messages for `address`; first those that came before this."""
        with self._registering:
            for message in (self._early or {}).pop(address, ()):
                deliver(message)
            self._receivers[address] = deliver

    def hold_early(self) -> None:
        """Keep messages for unknown addresses until these are registered: other processes may send before that."""
        self._early = {}

    def end_early(self) -> None:
        """All addresses are registered. Raises ProtocolError if a message has come for any other."""
        with self._registering:
            early, self._early = self._early, None
        if early:
            raise ProtocolError(f"received messages for {sorted(early)}, which are not in this process")

    def send(self, target: int, message: Message) -> int:
        """Deliver now. Raises CodecError if the message must be copied and cannot be."""
        message = self.copied(message)
        self._receivers[target](message)
        return message.cost if type(message) is Data else 0

    def deliver(self, target: int, message: Message) -> None:
        """Deliver a message from another process."""
        if self._early is not None and self._is_early(target, message):
            return
        self._receivers[target](message)

    def _is_early(self, target: int, message: Message) -> bool:
        with self._registering:
            if self._early is None or target in self._receivers:
                return False
            self._early.setdefault(target, []).append(message)
            return True

    def copied(self, message: Message) -> Message:
        """Return the message with the copies that the receiver must get."""
        fields = _COPIED.get(type(message))
        if fields is None or (not self.copies_records and type(message) is Data):
            return message
        copies = {}
        for name in fields:
            value = getattr(message, name)
            if value and (copy := copy_value(value)) is not value:
                copies[name] = copy
        return message._replace(**copies) if copies else message


class ThreadShell:
    """Real threads, a real clock, real conditions."""

    feeds_sources = True

    def __init__(self, transport: LocalTransport, resources: Resources | None = None) -> None:
        self.resources = Resources() if resources is None else resources
        self._transport = transport
        self._loops: dict[int, EventLoop] = {}  # by address: the loop over whose sockets it is called
        self._spawning = threading.Lock()
        self._threads: dict[threading.Thread, bool] = {}  # that may run, and whether they only store
        self._pools: deque[ThreadPoolExecutor] = deque()  # of the event loops

    def condition(self, address: int | None = None) -> Condition:
        return BareCondition() if address is None else ReadingCondition(partial(self._loops.get, address))

    def read_at(self, addresses: Iterable[int], loop: EventLoop) -> None:
        """Note that these addresses are called over sockets of `loop`, too: their threads read it while they wait."""
        self._loops.update(dict.fromkeys(addresses, loop))

    def spawn(self, name: str, run: Callable[[], None], *, stores: bool = False) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        with self._spawning:  # a job without end starts threads without end, for example one for each checkpoint
            self._threads = {other: s for other, s in self._threads.items() if other.is_alive()} | {thread: stores}

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        loop = asyncio.new_event_loop()
        pool = ThreadPoolExecutor(thread_name_prefix="coroutines")  # what asyncio would make, but known to `left`
        loop.set_default_executor(pool)
        self._pools.append(pool)
        return loop

    def left(self, limit_s: float, *, also_storing: bool) -> list[str]:
        """Wait for the ends of the threads that were started; return those that have not ended in time, and where.

        Code of users may be in a thread that has not ended. A new attempt in the same process would run beside it.
        `also_storing`: count those that only store checkpoints, which a slow storage holds up.
        """
        until = self.now() + limit_s
        while self._pools:  # a thread waits for each, because a pool has no wait with a limit
            self.spawn("threads of coroutines", partial(self._pools.popleft().shutdown, wait=True, cancel_futures=True))
        with self._spawning:
            threads = [thread for thread, stores in self._threads.items() if also_storing or not stores]
        for thread in threads:
            thread.join(max(0.0, until - self.now()))
        return [_described(thread) for thread in threads if thread.is_alive()]

    now = staticmethod(time.monotonic)

    wall_ms = staticmethod(wall_ms)

    def send(self, sender: int, target: int, message: Message, on_hold: bool = False) -> int:
        return self._transport.send(target, message)

    def flush(self) -> None:
        """Nothing is ever on hold."""

    def medium(self, producer: int, consumer: int) -> str:
        return "memory"

    def shares_objects(self, producer: int, consumer: int) -> bool:
        return not self._transport.copies_records

    def most_cost(self, producer: int, consumer: int) -> int:
        return records_in_memory(consumer)


def _described(thread: threading.Thread) -> str:
    place = None if thread.ident is None else thread_place(thread.ident)
    return thread.name if place is None else f"{thread.name} at {place}"


@dataclass(frozen=True)
class ThreadExecutor:
    """Runs a job in this process, a thread per subtask.

    `copies_records`: pickle every record on every edge, as processes would (the mode `local-copy`).
    """

    copies_records: bool = False
    is_one_process: ClassVar[bool] = True

    def start(self, plan: Plan, options: DriverOptions) -> LedExecution:
        """Start the job's threads."""
        resources = Resources()
        on_over = partial(resources.close, options.close_grace_s)
        return start_led(plan, options, partial(self._start_attempt, resources), on_over)

    def _start_attempt(
        self, resources: Resources, plan: Plan, options: DriverOptions, calls: DriverCalls
    ) -> LocalAttempt:
        resources.reset()
        transport = LocalTransport(copies_records=self.copies_records)
        shell = ThreadShell(transport, resources)
        outside = OutsidePort(plan, shell, shell.read_at)
        driver = Driver(plan, shell, options, outside=outside, leader=calls)
        transport.register(DRIVER, driver.deliver)
        transport.register(OUTSIDE, outside.deliver)
        workers = [(subtask, Worker(plan, subtask, shell)) for subtask in plan.subtasks]
        for subtask, worker in workers:
            transport.register(subtask.address, worker.port.deliver)
        for subtask, worker in workers:
            shell.spawn(subtask.name, worker.run)
        left = partial(shell.left, UNWIND_S, also_storing=False) if options.restarts else list
        return LocalAttempt(LocalExecution(driver), left=left)

    def queues(self, scope: str) -> JobQueues:
        """In this process."""
        return queues_of_process(scope)


def queues_of_process(scope: str) -> JobQueues:
    """Return the place of the queues of a job that runs in this process."""
    return JobQueues(scope, home=this_process())
