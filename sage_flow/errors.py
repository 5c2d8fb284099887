"""Every exception sage_flow raises.

    SageFlowError
    ├── PipelineError            the pipeline, as written, cannot run; raised while it is built
    │   └── SharedRecordError    an operator changed a shared record (with check_shared_records=True)
    ├── InputError               an input file is missing or malformed; says file:line
    ├── InvalidKeyError          a key is unhashable, NaN, or of a type without a stable hash
    ├── InvalidTimestampError    a time cannot be read, is ambiguous or out of range (also a ValueError)
    ├── CodecError               a value cannot be pickled, or bytes cannot be read back
    ├── CollectLimitError        a `collect` sink received more than a driver should hold
    ├── WorkerDied               a worker process ended without saying why
    ├── CloseTimeout             user code blocks the end of a job (also a TimeoutError)
    ├── ClusterError             no Ray answers, or one that does not fit, or a job's master does not
    ├── LogUnavailable           the log of a job cannot be reached now
    ├── LeaderReplaced           another process has taken over this job; this one must not publish
    ├── StorageError             the storage of checkpoints cannot be reached, is full, or may not be written
    ├── CheckpointError          a stored file is damaged, foreign, or of a newer version of sage_flow
    │   └── CheckpointMissing    a stored file is not there (any more)
    ├── CheckpointsFail          more checkpoints in a row have failed than are tolerated
    ├── ChannelError             what a channel outside the job's own can do to you
    │   ├── ChannelNotReachable  nobody is there, the key is wrong, or the queue belongs to another process
    │   ├── LinkClosed           the connection is gone
    │   ├── QueueClosed          the queue was closed, or its host is gone and the contents with it
    │   ├── ChannelConflict      the queue exists, and was made with another configuration
    │   └── PutInDoubt           the connection broke, and nobody can tell any more whether the items were put
    ├── RemoteError              stands for an exception of another process that cannot be rebuilt here
    ├── ServiceError             what the caller of a service can get
    │   ├── UnknownService       no service, or no public method, has this name
    │   ├── NoReply              the service's pipeline gave no output for this request
    │   ├── ServiceTimeout       no reply within `timeout` (also a TimeoutError)
    │   ├── ServiceOverloaded    `timeout` ran out while waiting for one of `max_pending` places
    │   ├── ServiceCycle         this call would close a circle of services that call each other
    │   ├── ServiceUnavailable   the service has ended or its process died
    │   └── OutsideActivation    a thread of the user's called after close() of its operator had begun
    └── InternalError            "cannot happen"; please report it
        └── ProtocolError        a peer broke the order or the form of messages

    JobCancelled (BaseException) unwinds user code of a job that is being cancelled
    └── JobRestarting            the job will start again: what failed is not this code

An exception raised by user code keeps its own type: `execute()` raises it again, with the operator
and the record in its notes.
"""

from __future__ import annotations

__all__ = [
    "SageFlowError",
    "PipelineError",
    "SharedRecordError",
    "InputError",
    "InvalidKeyError",
    "InvalidTimestampError",
    "CodecError",
    "CollectLimitError",
    "WorkerDied",
    "CloseTimeout",
    "ClusterError",
    "LogUnavailable",
    "LeaderReplaced",
    "StorageError",
    "CheckpointError",
    "CheckpointMissing",
    "CheckpointsFail",
    "ChannelError",
    "ChannelNotReachable",
    "LinkClosed",
    "QueueClosed",
    "ChannelConflict",
    "PutInDoubt",
    "RemoteError",
    "ServiceError",
    "UnknownService",
    "NoReply",
    "ServiceTimeout",
    "ServiceOverloaded",
    "ServiceCycle",
    "ServiceUnavailable",
    "OutsideActivation",
    "InternalError",
    "ProtocolError",
    "JobCancelled",
    "JobRestarting",
]


class SageFlowError(Exception):
    """Base of every error that sage_flow itself raises."""


class PipelineError(SageFlowError):
    """The pipeline, as written, cannot run; says where it was written and what to change."""


class SharedRecordError(PipelineError):
    """With `check_shared_records=True`: an operator changed a record that another holder shares."""


class InputError(SageFlowError):
    """An input file is missing, unreadable or malformed; the message starts with `file:line`."""


class InvalidKeyError(SageFlowError):
    """A key cannot place its record: unhashable, NaN, or of a type without a stable hash."""


class InvalidTimestampError(SageFlowError, ValueError):
    """A time cannot be read, says not which moment it is (no time zone, no unit), or is out of range."""


class CodecError(SageFlowError):
    """A value cannot be pickled to leave its subtask, or bytes that arrived cannot be read."""


class CollectLimitError(SageFlowError):
    """A `collect` sink received more rows or bytes than a driver should hold; write to a file instead."""


class WorkerDied(SageFlowError):
    """A worker process ended without reporting; names the process, how it ended and its subtasks."""


class CloseTimeout(SageFlowError, TimeoutError):
    """User code did not return within `close_grace_s` seconds after its subtask had processed all records.

    The text names the line. The code is in a service's method whose callers have given up, in a `close()`, in a
    coroutine that swallows its cancellation, or in a sink that publishes.
    """


class ClusterError(SageFlowError):
    """Nobody answers at the address of a Ray cluster, it runs another version, or the master of a job is gone."""


class LogUnavailable(SageFlowError):
    """The log of a job, which records its attempts and its end, cannot be reached now; the engine tries again."""


class LeaderReplaced(SageFlowError):
    """This process led a job and was taken for dead: another one has begun a new attempt, and only that may publish."""


class StorageError(SageFlowError):
    """The storage of checkpoints cannot be reached, is full, or may not be written; names the place and the cure.

    `may_pass`: False if trying again cannot help, for example where a permission is missing.
    """

    def __init__(self, message: str, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class CheckpointError(SageFlowError):
    """A stored file is damaged, cut off, foreign, or of a newer version of sage_flow; the text starts with its name."""


class CheckpointsFail(SageFlowError):
    """More checkpoints in a row have failed than `tolerable_failures` allows, which ends the attempt."""


class CheckpointMissing(CheckpointError):
    """A file that a checkpoint or a log needs is not in the storage, or not any more."""


class ChannelError(SageFlowError):
    """Base of what goes wrong between processes that are not of one job."""


class ChannelNotReachable(ChannelError):
    """Nobody listens, the peer refused us (a wrong key above all), or the channel lives in another process."""


class LinkClosed(ChannelError, ConnectionError):
    """The connection is gone; says why."""


class QueueClosed(ChannelError):
    """The queue was closed, or the process that hosted it is gone, and what was in it with it."""


class ChannelConflict(ChannelError):
    """The queue exists, and was made with another configuration than this descriptor's."""


class PutInDoubt(ChannelError):
    """The connection broke after a put was sent, for so long that its host has forgotten the session.

    The items may be in the queue, or may not.
    """


class RemoteError(SageFlowError):
    """Stands for an exception of another process whose type cannot be rebuilt here.

    `type_name` is the original's qualified name, `traceback_text` its traceback as text.
    """

    def __init__(self, message: str, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text


class ServiceError(SageFlowError):
    """Base of what the caller of a service can get besides the service's own exceptions."""


class UnknownService(ServiceError):
    """No service is registered under this name, or it has no such public method."""


class NoReply(ServiceError):
    """The pipeline behind the service gave no output for this request (it filtered or skipped it)."""


class ServiceTimeout(ServiceError, TimeoutError):
    """No reply came within `timeout` seconds."""


class ServiceOverloaded(ServiceError):
    """`timeout` seconds went by while `max_pending` earlier calls of this caller were still open."""


class ServiceCycle(ServiceError):
    """This call would close a circle of services that wait for each other; names the circle."""


class ServiceUnavailable(ServiceError):
    """The service has ended, or the process that ran it died."""


class OutsideActivation(ServiceError):
    """A thread of the user's own called a service after `close()` of its operator had begun."""


class InternalError(SageFlowError):
    """An impossible state of the engine."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} - a bug in sage_flow, please report it with this text")


class ProtocolError(InternalError):
    """A peer sent a message out of order, twice, or in a form that this version does not speak."""


class JobCancelled(BaseException):
    """Unwinds user code that waits while its job is being cancelled.

    A BaseException, so that `except Exception` in user code cannot swallow it.
    """


class JobRestarting(JobCancelled):
    """Unwinds user code that waits while its job, which has failed elsewhere, is about to start again."""
