"""The messages that subtasks exchange, and the table of what the engine knows about each (`MESSAGES`).

Three families. *Frames* (`Data`, `Control`) belong to one channel and keep its order: each carries the
channel's next sequence number. *Commands* are outside that order and always get in: credits and
replies must reach a subtask that is blocked on exactly them. *Reports* go to the driver.

Addresses are small integers: 0 is the driver, subtasks follow from 1 in the order of the plan.
NamedTuples because one is made per frame and per call: construction costs a third of a frozen
dataclass.

To add a message: write its class and its row in `MESSAGES`, add it to `Message`, handle it where its row says that it
is obeyed (`ON_DELIVERY` in `executors/port.py`, `on_message` of the subtask, `Driver`), and raise
`wire.frames.WIRE_VERSION`, because it gets a number on the wire.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_flow.runtime.message_table import Family, Lane, MessageRow, MessageTable, Receiver

if TYPE_CHECKING:
    from fractions import Fraction

    from sage_flow.checkpoint.coordinator import StoredPart
    from sage_flow.checkpoint.prepared import Prepared
    from sage_flow.runtime.packed_error import PackedError
    from sage_flow.runtime.report import PortReport, SubtaskReport
    from sage_flow.wire.packed import Packed

DRIVER = 0
"""Address of the driver: collected rows, progress and results go there."""

OUTSIDE = -1
"""Address of the callers outside the job, beside the driver: replies to `JobHandle.service` go there."""

FRAME_RECORDS = 1024
"""Records in one frame at the most."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """No record with a timestamp before `timestamp` (int, ms since the epoch) is expected on this channel."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """Separates the records of checkpoint `checkpoint` from those of the next one."""

    checkpoint: int


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """Nothing follows on this channel; counts as every later watermark and barrier."""


@dataclass(frozen=True, slots=True)
class Idle:
    """This channel does not hold back the watermark until its next record or watermark."""


ControlElement = Watermark | Barrier | EndOfInput | Idle


class Ticket(NamedTuple):
    """The share of a service call that one record inside a service's pipeline stands for.

    `reply_to` is the caller's address, `call_id` its number there; the shares of one call sum to 1.
    `remaining_s` is the time left when the record was sent.
    """

    reply_to: int
    call_id: int
    share: Fraction
    remaining_s: float


class Data(NamedTuple):
    """Records on a channel; `tickets`, if any, runs beside them. `cost` is what it takes of the credit."""

    channel: int
    seq: int
    records: list[Any] | Packed
    tickets: list[Ticket] | None = None
    cost: int = 0

    def unpacked(self) -> list[Any]:
        """The records themselves. Raises: CodecError if they came from another process and cannot be made here."""
        records = self.records
        return records if isinstance(records, list) else records.unpack()


class Control(NamedTuple):
    """One control element on a channel."""

    channel: int
    seq: int
    element: ControlElement


class Credit(NamedTuple):
    """The consumer of `channel` has processed so many records, of this cost: its producer may send as much again.

    `window`: how many records may be under way from now on.
    """

    channel: int
    records: int
    cost: int
    window: int


class Request(NamedTuple):
    """One call of a service, from the subtask `reply_to`.

    `remaining_s` seconds were left for it when it was sent; the port that receives it notes the `deadline`
    on its own clock.
    """

    reply_to: int
    call_id: int
    remaining_s: float
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deadline: float = 0.0


class CancelRequest(NamedTuple):
    """The subtask `reply_to` takes back its request `call_id`, if it has not been started."""

    reply_to: int
    call_id: int


class EndOfRequests(NamedTuple):
    """The subtask `caller` will send no more requests."""

    caller: int


class Reply(NamedTuple):
    """A share of a call's outcome. `error` decides the call at once."""

    call_id: int
    share: Fraction | int
    outputs: tuple[Any, ...]
    error: PackedError | None = None


class EndService(NamedTuple):
    """Driver to service: end once `EndOfRequests` of all these callers have come."""

    callers: tuple[int, ...]


class Commit(NamedTuple):
    """Driver to subtask: every subtask of the job has closed, publish."""


class Publish(NamedTuple):
    """Driver to a subtask with at-least-once sinks: all have finished; let them publish, then say `Published`."""


class BeginCheckpoint(NamedTuple):
    """Driver to subtask: take part in a checkpoint. `stops`: it is the last one, so a source reads nothing more."""

    checkpoint: int
    stops: bool = False


class AbortCheckpoint(NamedTuple):
    """Driver to subtask: this checkpoint has failed. Data goes on, and what is prepared stays prepared."""

    checkpoint: int


class CheckpointComplete(NamedTuple):
    """Driver to subtask: this checkpoint is recorded, let the sinks commit what they had prepared up to it."""

    checkpoint: int


class Cancel(NamedTuple):
    """Driver to subtask: unwind, close, abort. `restarts`: the job has failed and will start again."""

    reason: str
    restarts: bool = False


class Drain(NamedTuple):
    """Driver to a source's subtask: read nothing more, and end as if the source had."""


class Inspect(NamedTuple):
    """Driver to subtask: tell your `Inspected` number `number`, now, whatever you are doing.

    `stacks`: with the lines that all its threads and coroutines are in.
    """

    number: int
    stacks: bool = False


class Inspected(NamedTuple):
    """Subtask to driver: what its port sees."""

    subtask: int
    number: int
    report: PortReport


class Progress(NamedTuple):
    """Subtask to driver: how far it is; `report` is None when it starts."""

    subtask: int
    report: SubtaskReport | None


class Finished(NamedTuple):
    """Subtask to driver: all input is processed and everything closed; it now waits for `Commit`.

    `called` are the addresses of the services' subtasks that it sent requests to. `prepared` is what its sinks have
    prepared and not published. `publishes`: it has at-least-once sinks, and waits for `Publish` first. `part`: what
    it gives for every later checkpoint, if the job has any.
    """

    subtask: int
    report: SubtaskReport | None
    called: tuple[int, ...]
    prepared: tuple[Prepared, ...] = ()
    publishes: bool = False
    part: StoredPart | None = None


class Snapshotted(NamedTuple):
    """Subtask to driver: its part in this checkpoint is stored."""

    subtask: int
    checkpoint: int
    part: StoredPart


class Declined(NamedTuple):
    """Subtask to driver: it cannot take part in this checkpoint; `why` completes "checkpoint n failed: "."""

    subtask: int
    checkpoint: int
    why: str


class Committed(NamedTuple):
    """Subtask to driver: its sinks have committed what they had prepared up to this checkpoint; `failure`: or not."""

    subtask: int
    checkpoint: int
    failure: PackedError | None = None


class Published(NamedTuple):
    """Subtask to driver: its at-least-once sinks have published."""

    subtask: int


class Failed(NamedTuple):
    """Subtask to driver: it stopped with `failure` and will close now; `report` is None if it had not begun."""

    subtask: int
    report: SubtaskReport | None
    failure: PackedError


class Ended(NamedTuple):
    """Subtask to driver, the last message: it has committed or aborted. `failure`: in doing that."""

    subtask: int
    report: SubtaskReport | None
    failure: PackedError | None = None


class Opened(NamedTuple):
    """A service's subtask to driver: its functions, or its object, are open."""

    subtask: int


class ServiceOpened(NamedTuple):
    """Driver to every subtask: all subtasks of this service are open, the time of calls begins."""

    service: str


class Closing(NamedTuple):
    """Subtask to driver: its records are processed, what was left of coroutines is ended now and everything closed."""

    subtask: int


class Locate(NamedTuple):
    """Driver to subtask: tell where your user code is (`Located`), now, whatever it is doing."""


class Located(NamedTuple):
    """Subtask to driver: the lines of user code (`file:line in function`) that its threads and coroutines are in.

    `left_s`: for so many seconds somebody waits for what is under way there; 0 or less if nobody does.
    """

    subtask: int
    left_s: float
    places: tuple[str, ...]


class PeerLost(NamedTuple):
    """Process to driver: `process` has lost its connection with `peer`, which may be alive."""

    process: int
    peer: int
    reason: str


Frame = Data | Control
Message = (
    Data
    | Control
    | Credit
    | Request
    | EndOfRequests
    | Reply
    | EndService
    | Commit
    | Publish
    | Published
    | BeginCheckpoint
    | AbortCheckpoint
    | CheckpointComplete
    | Snapshotted
    | Declined
    | Committed
    | Cancel
    | Progress
    | Finished
    | Failed
    | Ended
    | CancelRequest
    | Inspect
    | Inspected
    | PeerLost
    | Drain
    | Closing
    | Locate
    | Located
    | Opened
    | ServiceOpened
)


# -- the table ----------------------------------------------------------------------------------------------


def by_channel(target: int, frame: Frame) -> Hashable:
    """A channel is a lane. The driver's are one with all else that goes there."""
    return DRIVER if target == DRIVER else (Data, frame.channel)


def by_caller(target: int, message: Any) -> Hashable:
    """A caller's requests to one subtask are a lane, with their cancellation and their end."""
    return Request, target, message.caller if type(message) is EndOfRequests else message.reply_to


def by_call(target: int, reply: Reply) -> Hashable:
    """The shares of one call's outcome are a lane."""
    return Reply, target, reply.call_id


def by_type(target: int, message: Any) -> Hashable:
    """A lane per class and target, which overtakes whatever is large.

    What goes to the driver is one lane, because `Finished` counts on the collected rows before it.
    """
    return DRIVER if target == DRIVER else (type(message), target)


def by_command(target: int, message: Any) -> Hashable:
    """What is said of checkpoints and of the end is one lane per target: an abort does not overtake its checkpoint."""
    return Commit, target


def _frame(type: type[Any], copied: tuple[str, ...] = ()) -> MessageRow:
    return MessageRow(type, Family.FRAME, frozenset({Receiver.SUBTASK, Receiver.DRIVER}), by_channel, copied)


def _command(type: type[Any], *receivers: Receiver, lane: Lane = by_type, copied: tuple[str, ...] = ()) -> MessageRow:
    return MessageRow(type, Family.COMMAND, frozenset(receivers), lane, copied)


def _report(type: type[Any], receiver: Receiver = Receiver.DRIVER) -> MessageRow:
    return MessageRow(type, Family.REPORT, frozenset({receiver}), by_type)


MESSAGES: Final = MessageTable(
    [
        _frame(Data, copied=("records",)),
        _frame(Control),
        # Between subtasks, and those outside the job that call them.
        _command(Credit, Receiver.PORT),
        _command(Request, Receiver.SUBTASK, Receiver.DRIVER, lane=by_caller, copied=("args", "kwargs")),
        _command(CancelRequest, Receiver.PORT, lane=by_caller),
        _command(EndOfRequests, Receiver.SUBTASK, lane=by_caller),
        _command(Reply, Receiver.PORT, Receiver.OUTSIDE, lane=by_call, copied=("outputs",)),
        # From the driver.
        _command(EndService, Receiver.SUBTASK),
        _command(Publish, Receiver.SUBTASK),
        _command(Commit, Receiver.SUBTASK, lane=by_command),
        _command(BeginCheckpoint, Receiver.SUBTASK, lane=by_command),
        _command(AbortCheckpoint, Receiver.SUBTASK, lane=by_command),
        _command(CheckpointComplete, Receiver.SUBTASK, lane=by_command),
        _command(Cancel, Receiver.PORT, Receiver.DRIVER),
        _command(Drain, Receiver.SUBTASK, Receiver.DRIVER),
        _command(Inspect, Receiver.PORT),
        _command(Locate, Receiver.PORT),
        _command(ServiceOpened, Receiver.PORT),
        # To the driver.
        _report(Progress),
        _report(Opened),
        _report(Closing),
        _report(Finished),
        _report(Published),
        _report(Snapshotted),
        _report(Declined),
        _report(Committed),
        _report(Failed),
        _report(Ended),
        _report(Inspected),
        _report(Located),
        _report(PeerLost, Receiver.SUPERVISOR),
    ]
)
"""Every message there is, in the order of their numbers on the wire."""
