"""What users write: functions with a life cycle, sources, sinks, and the context they are given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast

from sage_flow.errors import PipelineError
from sage_flow.service import Call, ServiceCaller, ServiceFuture, ServiceHandle
from sage_flow.sink import WRITES_AT_ONCE, Sink
from sage_flow.splits import WHOLE, SplitSignal
from sage_flow.state import KeyedState

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVariable

    from sage_flow.channels import BaseQueueDescriptor
    from sage_flow.runtime.user_metrics import UserMetrics
    from sage_flow.timers import Timers
    from sage_flow.windows import Timer, TimeSpan

    KeyT = TypeVariable("KeyT", default=Any)
    In = TypeVariable("In", default=Any)
    Left = TypeVariable("Left", default=Any)
    Right = TypeVariable("Right", default=Any)
    Out = TypeVariable("Out", default=Any)
else:  # without the defaults, which only type checkers read
    KeyT, In, Left, Right, Out = (TypeVar(name) for name in ("KeyT", "In", "Left", "Right", "Out"))

__all__ = [
    "END",
    "IDLE",
    "CoProcessFunction",
    "DeadLetter",
    "Function",
    "Malformed",
    "ProcessFunction",
    "RuntimeContext",
    "Sink",
    "Source",
    "SourceSignal",
    "WRITES_AT_ONCE",
]

T = TypeVar("T")


class SourceSignal(Enum):
    """What `Source.next_batch()` returns when it has no records."""

    IDLE = "idle"
    END = "end"

    def __repr__(self) -> str:
        return self.name


IDLE: Literal[SourceSignal.IDLE] = SourceSignal.IDLE
"""No record now, ask again later."""
END: Literal[SourceSignal.END] = SourceSignal.END
"""No record ever again."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """What `Source.next_batch()` returns in place of a batch for a piece of input that is no record.

    `record` is what dead letters show of it. The source goes on behind it, if its `on_error` lets it; `error` is what
    fails the job otherwise.
    """

    record: Any
    error: Exception


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that an operator with on_error="dead_letter" failed on.

    `error` reads "ValueError: ...", followed by its causes and the members of a group. `operator` is the name of the
    operator.
    """

    record: Any
    error: str
    operator: str


class _Shared(NamedTuple):
    """The doors to what an operator shares with others of its job; None outside of a job."""

    open_queue: Callable[[str, int], BaseQueueDescriptor] | None
    resource: Callable[..., Any] | None
    metrics: UserMetrics | None


class RuntimeContext(Generic[KeyT]):
    """What a function knows about where it runs, and its doors: state, timers, side outputs, services, queues.

    A function that has a parameter named `ctx` gets it; `open(ctx)` always does. It belongs to one
    operator in one subtask.

    Attributes:
        job_name, operator_name: as given in the pipeline.
        job_id, attempt: a unique id of this run of the job, and the number of its attempt, from 1: a job that restarts
            keeps its id and begins attempt 2.
        subtask_index, parallelism: this is copy `subtask_index` (from 0) of `parallelism`.
        key: the key of the current record, on a keyed stream. Raises PipelineError if there is none.
        timestamp: of the current record, in ms since the epoch, behind an `assign_timestamps`. Raises PipelineError if
            there is none.
        window: in a function that processes a window: its `start` and `end`.
    """

    key: KeyT
    timestamp: int
    window: TimeSpan

    def __init__(
        self,
        job_name: str,
        operator_name: str,
        subtask_index: int,
        parallelism: int,
        *,
        keyed: bool = False,
        services: ServiceCaller | None = None,
        side_output: Callable[[str, Any], None] | None = None,
        open_queue: Callable[[str, int], BaseQueueDescriptor] | None = None,
        resource: Callable[..., Any] | None = None,
        job_id: str = "",
        attempt: int = 1,
        metrics: UserMetrics | None = None,
    ) -> None:
        self.job_name = job_name
        self.job_id = job_id or job_name
        self.attempt = attempt
        self.operator_name = operator_name
        self.subtask_index = subtask_index
        self.parallelism = parallelism
        self._services = services
        self._side_output = side_output
        self._shared = _Shared(open_queue, resource, metrics)
        self._state = KeyedState(self) if keyed else None
        self.watermark_of: Callable[[], int] | None = None  # the engine sets it where records have timestamps
        self.own_timers: Timers | None = None  # and this where a function may set timers

    def __getattr__(self, name: str) -> Any:
        """Asked for what is not set, so that to set the key and timestamp of each record stays cheap."""
        if name == "timestamp":
            raise PipelineError(self._no_timestamp())
        if name == "window":
            raise PipelineError(f"{self.operator_name!r} has no window: only window(...).process(function) has one")
        if name != "key":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self._state is not None:
            raise PipelineError(
                f"{self.operator_name!r} has no key here: a key belongs to one record, which open(), on_end(),"
                " close() and the batches of map_batches do not have; nor have the records of a broadcast stream one"
            )
        raise PipelineError(
            f"{self.operator_name!r} has no ctx.key: its stream has no keys. A key_by(...) holds for the operator that"
            " follows it and ends there; put it directly before this operator, or keep the key in the record"
        )

    def _no_timestamp(self) -> str:
        if self.watermark_of is not None:
            return (
                f"{self.operator_name!r} has no timestamp here: a timestamp belongs to one record, which open(),"
                " on_end(), close() and the batches of map_batches do not have"
            )
        return f"{self.operator_name!r} has no timestamps and no watermark: put .assign_timestamps(...) before it"

    @property
    def watermark(self) -> int:
        """Event time: no record with a timestamp before it (ms since the epoch) is expected.

        MIN_TIMESTAMP before the first records, MAX_TIMESTAMP at the end of input. Raises PipelineError if the records
        have no timestamps.
        """
        if self.watermark_of is None:
            raise PipelineError(self._no_timestamp())
        return self.watermark_of()

    def forget_key(self) -> None:
        """No record is being processed any more."""
        self.__dict__.pop("key", None)

    def for_later(self) -> RuntimeContext:
        """Return a context that keeps the key of this record, for a function that runs on while later records come."""
        made = copy.copy(self)
        if self._state is not None:
            made._state = self._state.seen_by(made)
        return made

    @property
    def state(self) -> KeyedState:
        """The keyed state of this operator. Raises PipelineError on a stream without keys."""
        if self._state is None:
            raise PipelineError(f"{self.operator_name!r} has no keyed state: put .key_by(...) before it")
        return self._state

    @property
    def timers(self) -> Timers:
        """The timers of this key. Raises PipelineError outside the `process` of a keyed stream."""
        if self.own_timers is not None:
            return self.own_timers
        if self._state is None:
            raise PipelineError(
                f"{self.operator_name!r} has no timers: they belong to a key, put .key_by(...) before it"
            )
        raise PipelineError(f"{self.operator_name!r} has no timers: only .process(a ProcessFunction) has them")

    @property
    def metrics(self) -> UserMetrics:
        """The metrics of this operator in this subtask: `ctx.metrics.counter("seen").inc()`.

        Also `gauge(name).set(value)` and `histogram(name).observe(value)`. `sage-flow run --metrics-port` and, on Ray,
        Ray's own endpoint export them. Ask for a metric in `open()` and keep it, or by name where it is needed.
        """
        if self._shared.metrics is None:
            from sage_flow.runtime.user_metrics import UserMetrics

            self._shared = self._shared._replace(metrics=UserMetrics(self.operator_name))
        return cast("UserMetrics", self._shared.metrics)

    def output(self, tag: str, value: Any) -> None:
        """Put `value` on the side output `tag`, which a stream made by `.side_output(tag)` reads."""
        if self._side_output is None:
            raise PipelineError(f"{self.operator_name!r} has no side outputs")
        self._side_output(tag, value)

    def service(self, service: str | type) -> ServiceHandle:
        """Return a handle of the service of this name, or of the one service registered with this class.

        `ctx.service("memory").retrieve(3)` calls a method and waits for the reply.
        """
        return self._caller().handle(service)

    def call_service(
        self, name: str, *args: Any, method: str = "process", timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of a service and return its reply.

        `timeout`: seconds, by default that of the service. Raises what the method raised, or a
        `ServiceError`: ServiceTimeout, NoReply, UnknownService ...
        """
        return self._caller().call(Call(name, method, args, kwargs, timeout))

    def call_service_async(
        self, name: str, *args: Any, method: str = "process", timeout: float | None = None, **kwargs: Any
    ) -> ServiceFuture:
        """Call a method of a service and go on: return a future, which can be awaited, for its reply.

        Waits only while `max_pending` earlier calls are open. Raises as `call_service` does before it calls.
        """
        return self._caller().start(Call(name, method, args, kwargs, timeout))

    def queue(self, queue_id: str, maxsize: int = 0) -> BaseQueueDescriptor:
        """Return the job's queue of this name: the same in every operator and service, and by `env.queue(queue_id)`.

        `maxsize`: how many items may wait, 0 for any number; all who name the queue say the same. It is closed when
        the job is over: who waits gets QueueClosed. A get or put that waits is not woken by a cancel before the
        job has given up waiting for it, so give it a timeout, or put an end mark into the queue.
        """
        if self._shared.open_queue is None:
            raise PipelineError(f"{self.operator_name!r} has no queues here: it does not run in a job")
        return self._shared.open_queue(queue_id, maxsize)

    def resource(self, name: str, factory: Callable[[], T], *, close: Callable[[T], object] | None = None) -> T:
        """Return what `factory()` has made: once per process and job, for all subtasks of the job in this process.

        For what is expensive to make and holds no state of the stream: a client, a pool of connections, a model. It is
        kept when the job restarts; if it has a method `reset()`, that is called between two attempts, and has to end
        transactions and sessions that the failed attempt left open. `close(resource)` is called at the end of the job,
        and never if the process is killed. Several threads may use it at the same time. Asked again, also by another
        operator, the resource of this name is returned, and the arguments behind the name do not matter.
        """
        if self._shared.resource is None:
            raise PipelineError(f"{self.operator_name!r} has no resources here: it does not run in a job")
        made: T = self._shared.resource(self.operator_name, name, factory, close)
        return made

    def _caller(self) -> ServiceCaller:
        if self._services is None:
            raise PipelineError(f"{self.operator_name!r} cannot call services here")
        return self._services


class Function:
    """A callable with a life cycle, for any operator that takes a function.

    Subclass it, implement `__call__(value)` or `__call__(value, ctx)`, and pass an instance or the
    class. Each subtask works on its own copy (made with cloudpickle before `open`), so attributes
    are never shared: put connections and models into `open`, not into `__init__`.

    >>> class Scale(Function):
    ...     def open(self, ctx):
    ...         self.factor = 10
    ...     def __call__(self, value):
    ...         return value * self.factor
    """

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every subtask, before the first record."""

    def close(self) -> None:
        """Called once in every subtask that was opened, also after an error or a cancel."""

    def snapshot(self) -> Any:
        """Return what the function remembers besides its keyed state, to be pickled: for `restore`. None: nothing.

        It is for checkpoints, which jobs do not take yet. Called between two records. What belongs to a key is better
        kept in `ctx.state`, which moves with the key.
        """
        return None

    def restore(self, parts: list[Any]) -> None:
        """Take over what `snapshot` has returned, called after `open` and before the first record.

        `parts` has one snapshot if there are as many subtasks as before. If there are fewer now, a subtask gets several
        of them, and if there are more, some get none: for these `restore` is not called. Only what was read from a
        broadcast stream is the same in all, so each subtask gets one snapshot.
        """
        raise NotImplementedError(f"{type(self).__name__} has a snapshot() and must implement restore(parts)")


class _Timed(Function, Generic[Out]):
    """What happens when a timer fires, and at the end of input."""

    def on_timer(self, timer: Timer, ctx: RuntimeContext) -> Iterable[Out] | None:
        """A timer that `ctx.timers` has set fires: return or yield outputs, which have the timer's timestamp.

        `ctx.key` is the key for which it was set; state and timers of the key can be used. `timer.at_end`: it fires
        because the input has ended.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement on_timer(timer, ctx)")

    def on_end(self, ctx: RuntimeContext) -> Iterable[Out] | None:
        """The input of this subtask has ended, and all timers have fired: return or yield the last outputs.

        There is no key here. It is not called after an error or a cancel.
        """
        return None


class ProcessFunction(_Timed[Out], Generic[In, Out]):
    """The general operator: `process(value, ctx)` yields any number of outputs per record.

    `ctx` gives keyed state, timers, side outputs and services.

    >>> class Silent(ProcessFunction):
    ...     def process(self, value, ctx):
    ...         ctx.timers.set("silent", after=timedelta(minutes=5))  # replaces the one before
    ...     def on_timer(self, timer, ctx):
    ...         if not timer.at_end:
    ...             yield ctx.key, timer.timestamp
    >>> clicks = stream_of(("ann", 0), ("bob", 60_000), ("cid", 400_000))
    >>> timed = clicks.assign_timestamps(lambda click: click[1], max_out_of_order=timedelta(0))
    >>> collect(timed.key_by(lambda click: click[0]).process(Silent))
    [('ann', 300000), ('bob', 360000)]
    """

    def process(self, value: In, ctx: RuntimeContext) -> Iterable[Out] | None:
        """Return or yield the outputs for one record; None means no output."""
        raise NotImplementedError(f"{type(self).__name__} must implement process(value, ctx)")


class CoProcessFunction(_Timed[Out], Generic[Left, Right, Out]):
    """The general operator of two connected streams: a method for the records of each, and one for timers.

    On keyed streams both sides share the state and the timers of a key.
    """

    def process_left(self, value: Left, ctx: RuntimeContext) -> Iterable[Out] | None:
        """Return or yield the outputs for one record of the left stream; None means no output."""
        raise NotImplementedError(f"{type(self).__name__} must implement process_left(value, ctx)")

    def process_right(self, value: Right, ctx: RuntimeContext) -> Iterable[Out] | None:
        """Return or yield the outputs for one record of the right stream; None means no output."""
        raise NotImplementedError(f"{type(self).__name__} must implement process_right(value, ctx)")


class Source(Generic[T]):
    """A source of records; each of its subtasks works on its own copy.

    Subtask `ctx.subtask_index` of `ctx.parallelism` reads its own share. `next_batch()` must not
    block: it returns a non-empty list, `IDLE` or `END`. Where it has to block (a socket, a
    generator) set `blocking = True`, and a thread of its own calls it. `snapshot()` is the position
    after the batches handed over so far; `restore()` of it continues there.

    Attributes:
        default_name: of its operator where the user gives none, without the number: "source" makes `source-1`.
        blocking: `next_batch()` may block.
        bounded: `next_batch()` returns `END` by itself. A job with any other source prints at its start how to stop it.
        parallel: several subtasks can share the work; otherwise the source always has one.
        split: the name of the split that the latest batch is from; see `splits_read`.
    """

    default_name: str = "source"
    blocking: bool = False
    bounded: bool = False
    parallel: bool = False
    split: str = WHOLE
    _is_fed: bool = False  # a thread of its own reads it, which also ends the reading
    _hands_over: bool = False  # its records are the program's own objects: within the process they are not copied

    def _close_readers(self) -> None:
        """Called by the thread that reads a blocking source, when it reads no more."""

    def _holds_records(self) -> bool:
        """Whether the program has the very objects that it gives."""
        return False

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every subtask, before the first `next_batch()`."""

    def splits_read(self) -> Iterable[str] | None:
        """The names of the splits that this subtask is going to read; asked after `open`. None: it has no splits.

        A split is a part with an order of its own, such as a file or a partition. Event time is counted for each.
        """
        return None

    def next_batch(self) -> list[T] | SourceSignal | SplitSignal | Malformed:
        """Return some records (a few thousand at the most), `IDLE` or `END`.

        Or a signal about a split, or `Malformed` for a piece of input that is no record.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement next_batch()")

    def files_read(self) -> Iterable[str]:
        """The files that it reads, if they are known when the pipeline is built: no sink may write one of them."""
        return ()

    def snapshot(self) -> Any:
        """Return the position: a small picklable value that `restore` understands."""
        raise NotImplementedError(f"{type(self).__name__} cannot be restored: it has no snapshot()")

    def restore(self, position: Any) -> None:
        """Continue after `position`; called after `open`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be restored: it has no restore()")

    def close(self) -> None:
        """Called once in every subtask that was opened, also after an error or a cancel."""
