"""The outputs of a chain: a buffer per edge, and how its records are spread over the channels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from sage_flow.errors import InternalError, InvalidKeyError
from sage_flow.keys import group_to_subtask, key_group
from sage_flow.plan.graph import Partitioning
from sage_flow.plan.physical import REPLY, Edge
from sage_flow.runtime.failure import add_notes, shown_record
from sage_flow.runtime.messages import FRAME_RECORDS, ControlElement, Reply, Ticket
from sage_flow.runtime.port import Port
from sage_flow.runtime.sharing import own_records

__all__ = ["ChannelOutput", "Output", "ReplyOutput"]

_KNOWN_KEYS = 65_536
"""Entries of a partitioner's key table; a full one starts anew, which bounds its memory."""

Key = Callable[[Any], Hashable]
Split = Callable[[list[Any]], "Iterable[tuple[int, list[Any]]]"]


class Output:
    """Records of one edge that wait to be sent. Chains append to `records` directly."""

    def __init__(self, edge: Edge, key: Key | None = None) -> None:
        self.edge = edge
        self.key = key
        self.records: list[Any] = []
        self.sends_copies = False
        """Another output hands over the same objects: see `separate`."""
        self.on_copied: Callable[[list[Any], list[Any]], None] | None = None

    @property
    def shares_objects(self) -> bool:
        """Whether whoever reads it gets the objects themselves, and may change them, and not pickles of them."""
        return False

    def make_own(self) -> None:
        """Replace what is buffered by copies. Raises: CodecError."""
        own = own_records(self.records)
        if self.on_copied is not None:
            self.on_copied(self.records, own)
        self.records[:] = own

    def add(self, value: Any, timestamp: int | None = None) -> None:
        """Append one record, with its key where the edge is keyed, and its timestamp where it is timed."""
        record: Any = (value, timestamp) if self.edge.timed else value
        if self.key is not None:
            record = (self.key(value), *record) if self.edge.timed else (self.key(value), value)
        self.records.append(record)

    def take(self) -> list[Any]:
        """Empty the buffer, which stays the same list: the chain that is running appends to it."""
        taken = self.records[:]
        self.records.clear()
        return taken

    def copies(self) -> int:
        """How many records leave for what is in the buffer."""
        return len(self.records)

    def flush(self, ticket: Ticket | None = None, *, may_suspend: bool = True) -> None:
        """Send what is buffered; with a ticket, every record carries that share.

        Suspends while there is no credit, or leaves the rest queued in the port if it must not.
        """
        raise NotImplementedError

    def send_element(self, element: ControlElement, *, may_suspend: bool = True) -> None:
        """Send a control element behind the records, on every channel.

        Suspends while there is no credit, or leaves it queued in the port if it must not.
        """
        raise NotImplementedError


class ChannelOutput(Output):
    """An output to other subtasks, or to the driver."""

    def __init__(
        self,
        edge: Edge,
        channels: Sequence[int],
        port: Port,
        index: int,
        max_parallelism: int,
        key: Key | None = None,
    ) -> None:
        super().__init__(edge, key)
        self._channels = channels
        self._port = port
        self._sharing = [port.shares_objects(channel) for channel in channels]
        self._split = self._choose_split(index, max_parallelism)

    @property
    def shares_objects(self) -> bool:
        return any(self._sharing)

    def _choose_split(self, index: int, max_parallelism: int) -> Split:
        count = len(self._channels)
        match self.edge.partitioning:
            case Partitioning.BROADCAST:
                return BroadcastSplit(self._sharing)
            case _ if count == 1:
                return lambda records: [(0, records)]
            case Partitioning.HASH:
                return HashSplit(count, max_parallelism)
            case Partitioning.REBALANCE:
                return RoundRobinSplit(count, index)
            case other:
                raise InternalError(f"a {other} edge with {count} channels from one subtask")

    def flush(self, ticket: Ticket | None = None, *, may_suspend: bool = True) -> None:
        records = self.take()
        if not records:
            return
        send = self._port.emit if may_suspend else self._port.queue
        for target, part in self._split(records):
            for start in range(0, len(part), FRAME_RECORDS):
                frame = part if len(part) <= FRAME_RECORDS else part[start : start + FRAME_RECORDS]
                send(self._channels[target], frame, None if ticket is None else [ticket] * len(frame))

    def send_element(self, element: ControlElement, *, may_suspend: bool = True) -> None:
        send = self._port.emit_element if may_suspend else self._port.queue_element
        for channel in self._channels:
            send(channel, element)


class ReplyOutput(Output):
    """The output of a service's pipeline: back to the caller that the ticket names."""

    def __init__(self, edge: Edge, port: Port) -> None:
        super().__init__(edge)
        if edge.target != REPLY:
            raise InternalError(f"edge {edge.id} does not lead to a reply")
        self._port = port

    def flush(self, ticket: Ticket | None = None, *, may_suspend: bool = True) -> None:
        records = self.take()
        if not records:
            return
        if ticket is None:
            raise InternalError("records for a reply without the ticket of their call")
        reply = Reply(ticket.call_id, ticket.share * len(records), tuple(records))
        self._port.reply(ticket.reply_to, reply)

    def send_element(self, element: ControlElement, *, may_suspend: bool = True) -> None:
        """A caller's response channel has no control elements: its calls end it."""


class BroadcastSplit:
    """Everything to everyone. `sharing`: who gets the objects themselves, which can be one."""

    def __init__(self, sharing: Sequence[bool]) -> None:
        self._sharing = sharing
        self._spared = sharing.index(True) if all(sharing) else None  # others pickle what they send

    def __call__(self, records: list[Any]) -> Iterable[tuple[int, list[Any]]]:
        copied = [shares and target != self._spared for target, shares in enumerate(self._sharing)]
        return [(target, own_records(records) if copies else records) for target, copies in enumerate(copied)]


class HashSplit:
    """Equal keys to the same subtask. Records are (key, value) pairs, or triples with a timestamp."""

    def __init__(self, count: int, max_parallelism: int) -> None:
        self._count = count
        self._max_parallelism = max_parallelism
        self._targets: dict[Hashable, int] = {}

    def __call__(self, pairs: list[tuple[Any, ...]]) -> Iterable[tuple[int, list[Any]]]:
        parts: list[list[Any]] = [[] for _ in range(self._count)]
        targets = self._targets
        for pair in pairs:
            try:
                parts[targets[pair[0]]].append(pair)
            except (KeyError, TypeError):
                parts[self._learn(pair[0], pair[1])].append(pair)
        return [(target, part) for target, part in enumerate(parts) if part]

    def _learn(self, key: Hashable, value: Any) -> int:
        try:
            group = key_group(key, self._max_parallelism)
        except InvalidKeyError as error:
            add_notes(error, [f"record    {shown_record(value)}"])
            raise
        if len(self._targets) >= _KNOWN_KEYS:
            self._targets.clear()
        target = group_to_subtask(group, self._count, self._max_parallelism)
        self._targets[key] = target
        return target


class RoundRobinSplit:
    """Record n goes to subtask n modulo the count, however the records come in batches."""

    def __init__(self, count: int, first: int) -> None:
        self._count = count
        self._next = first % count

    def __call__(self, records: list[Any]) -> Iterable[tuple[int, list[Any]]]:
        count, first = self._count, self._next
        self._next = (first + len(records)) % count
        parts = (((first + offset) % count, records[offset::count]) for offset in range(min(count, len(records))))
        return list(parts)
