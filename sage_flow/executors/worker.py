"""The worker loop: the life of one subtask, the same in every shell."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable

from sage_flow.checkpoint.coordinator import StoredPart
from sage_flow.checkpoint.prepared import Prepared
from sage_flow.checkpoint.storage import open_storage
from sage_flow.errors import JobCancelled, ProtocolError, ServiceUnavailable
from sage_flow.executors.feeder import Feeder
from sage_flow.executors.port import WorkerPort
from sage_flow.executors.shell import Shell
from sage_flow.executors.snapshots import Restored, SnapshotWriter, finished_part, restored
from sage_flow.plan import kinds
from sage_flow.plan.physical import Plan, Subtask
from sage_flow.runtime.call_batches import CallBatch, CallBatches
from sage_flow.runtime.cut import Cutter
from sage_flow.runtime.failure import PackedError, pack_error
from sage_flow.runtime.messages import (
    DRIVER,
    AbortCheckpoint,
    BeginCheckpoint,
    CheckpointComplete,
    Closing,
    Commit,
    Committed,
    Control,
    Declined,
    Drain,
    Ended,
    EndOfInput,
    Failed,
    Finished,
    Message,
    Opened,
    Progress,
    Publish,
    Published,
    Reply,
    Request,
)
from sage_flow.runtime.port import Crashed
from sage_flow.runtime.publishing import PublishingSubtask
from sage_flow.runtime.rate_limit import rate_of
from sage_flow.runtime.report import SubtaskReport
from sage_flow.runtime.service_subtask import ServiceSubtask
from sage_flow.runtime.sinks import LAST, SubtaskSinks
from sage_flow.runtime.subtask import ChainSubtask, Done, GoOn, WaitForMessage, WaitForSource
from sage_flow.runtime.work_time import Wait

__all__ = ["CHECK_STATE", "Worker"]

CHECK_STATE = "SAGE_FLOW_CHECK_STATE"
"""The variable that lets checkpoints find state that changes while another key is current."""

_PROGRESS_S = 0.2
_FIRST_IDLE_S = 0.001
_LONGEST_IDLE_S = 0.1
_LEAST_WAIT_S = 0.001
_DRAIN_S = 0.5
"""How long the current read of a blocking source may take after its job is drained, in seconds."""

Unit = ChainSubtask | ServiceSubtask


class Worker:
    """Runs one subtask: open, work, prepare, close, wait for the commit.

    Whatever happens, everything that was opened is closed, and the driver gets a report of the end.
    """

    def __init__(self, plan: Plan, subtask: Subtask, shell: Shell) -> None:
        self.port = WorkerPort(plan, subtask, shell)
        self._plan = plan
        self._subtask = subtask
        self._shell = shell
        self.is_ending = False
        """All its records are processed."""
        self.has_ended = False
        """The last message to the driver is being sent."""
        self._unit: Unit | None = None
        self._sinks = SubtaskSinks((), subtask.index, lambda error, operator: None)  # until the subtask has its own
        self._writer: SnapshotWriter | None = None
        self._only_publishes = plan.publishes is not None  # nothing runs here: an earlier attempt has done it all
        self._snapshot: StoredPart | None = None  # the part of this subtask once it has finished
        self._next_progress = 0.0
        self._is_told = True  # the driver has the counts, of a fifth of a second ago at most
        self.port.progress_due_s, self.port.tell_progress = self._progress_due_s, self._report_progress

    def run(self) -> None:
        """The activation's body."""
        self.port.activations.enter()
        try:
            # From now on driver and subtask are connected, and each notices the death of the other.
            self._tell(Progress(self._address, None))
            if not self._only_publishes:
                prepared = self._work()
                called, publishes = self.port.end_requests(), self._sinks.has_at_least_once
                report = self._unit_report()
                self._tell(Finished(self._address, report, called, prepared, publishes, self._snapshot))
            self._await_commit()
        except Crashed:
            return
        except BaseException as error:  # also SystemExit of user code: the driver must know
            self.port.activations.have_failed = True
            if not (isinstance(error, JobCancelled) and self.port.is_cancelled):
                # Sent before anything is closed: a coroutine that does not end must not delay it.
                self._tell(Failed(self._address, self._unit_report(), pack_error(error)))
            self.port.activations.stop_tasks()
            self._end(self._clean_up())
        else:
            self._end(_attempt(self._publish if self._only_publishes else self._sinks.commit))
        finally:
            if self._writer is not None:
                self._writer.close()

    def _publish(self) -> None:
        """Publish what this subtask had prepared in an earlier attempt."""
        prepared = self._plan.prepared_by(self._subtask) if self._snapshot is None else self._snapshot.prepared
        publishing = PublishingSubtask(self._plan, self._subtask, prepared, self.port)
        try:
            publishing.publish(prepared)
        finally:
            publishing.close()

    def _work(self) -> tuple[Prepared, ...]:
        """Do the work of the subtask; return what its sinks have prepared."""
        self._next_progress = self._shell.now() + _PROGRESS_S
        if self._subtask.chain.head.kind is kinds.SERVICE:
            service = self._unit = ServiceSubtask(self._plan, self._subtask, self.port)
            self.port.given_up_at, self.port.on_taken_back = service.given_up_at, service.on_taken_back
            check_every_s = service.open()
            self._note_open()
            _ServiceLoop(service, self.port, self._shell, self._report_answer, self._report_at, check_every_s).run()
            self._begin_end()
            service.close()
            return ()
        else:
            before = restored(self._plan, self._subtask)
            if before is not None and before.is_finished:
                return self._be_finished(before)
            cutter = self._cutter()
            chain = self._unit = ChainSubtask(self._plan, self._subtask, self.port, cutter)
            self._sinks = chain.sinks
            self.port.given_up_at = chain.given_up_at
            chain.open()
            if before is not None:
                chain.restore(before.parts)
                self._sinks.take_over(before.prepared)
            self._note_open()
            feeder = self._feed(chain)
            try:
                self._run_chain(chain, feeder)
            finally:
                if feeder is not None:
                    feeder.stop()
            self._begin_end()
            prepared = self._sinks.prepare(keeps=cutter is not None)
            if cutter is not None:
                self._snapshot = finished_part(self._subtask, chain.splits_done(), prepared, cutter.latest)
            chain.close()
            return prepared

    def _cutter(self) -> Cutter | None:
        """What cuts for checkpoints, and stores what was cut; None for a job without."""
        if self._plan.checkpoints is None or not self._plan.takes_part(self._subtask):
            return None
        storage = open_storage(self._plan.checkpoints)
        writer = self._writer = SnapshotWriter(storage, self._plan, self._subtask, self._shell, self._tell)
        self._shell.spawn(f"{self._subtask.name} #checkpoints", writer.run, stores=True)
        checks = bool(os.environ.get(CHECK_STATE))
        return Cutter(writer.put, self._decline, self._shell.now, checks=checks)

    def _decline(self, checkpoint: int, why: str) -> None:
        self._tell(Declined(self._address, checkpoint, why))

    def _be_finished(self, before: Restored) -> tuple[Prepared, ...]:
        """Before the checkpoint this subtask had given all its records: nothing of the user's runs, but its sinks."""
        ChainSubtask(self._plan, self._subtask, self.port).runner.broadcast(EndOfInput())
        due = tuple(one for one in before.prepared if one.checkpoint != LAST)
        left = tuple(one for one in before.prepared if one.checkpoint == LAST)
        if due:
            publishing = PublishingSubtask(self._plan, self._subtask, before.prepared, self.port)
            try:
                publishing.publish(due)
            finally:
                publishing.close()
        self._only_publishes = True
        self._snapshot = finished_part(self._subtask, before.finished_splits, left)
        return left

    def _commit_through(self, checkpoint: int) -> None:
        """A checkpoint is recorded: its sinks publish. What cannot be published stays pending for the next time."""
        error = _attempt(lambda: self._sinks.commit_through(checkpoint))
        self._tell(Committed(self._address, checkpoint, None if error is None else pack_error(error)))

    def _note_open(self) -> None:
        self.port.opened()
        if self._subtask.chain.service is not None:
            self._tell(Opened(self._address))

    def _begin_end(self) -> None:
        self.is_ending = True
        self._tell(Closing(self._address))
        self.port.activations.stop_tasks()

    def _run_chain(self, chain: ChainSubtask, feeder: Feeder | None) -> None:
        timeout_s: float | None = 0.0
        idle_s = _FIRST_IDLE_S
        while True:
            for message in self.port.take(timeout_s, chain.waits_for()):
                match message:
                    case Drain() if feeder is not None:
                        self._drain(feeder)  # the source ends after the batches that were read
                    case CheckpointComplete(checkpoint):
                        self._commit_through(checkpoint)
                        chain.on_message(message)
                    case AbortCheckpoint(checkpoint) if self._writer is not None:
                        self._writer.drop(checkpoint)
                        chain.on_message(message)
                    case _:
                        chain.on_message(message)
            self.port.activations.begin_step()
            match chain.advance():
                case GoOn():
                    timeout_s, idle_s, self._is_told = 0.0, _FIRST_IDLE_S, False
                case WaitForSource(until):
                    timeout_s = min(idle_s, max(_LEAST_WAIT_S, until - self._shell.now()))
                    idle_s = min(idle_s * 2, _LONGEST_IDLE_S)
                case Done():
                    return
                case WaitForMessage(until):
                    timeout_s = self._untold_s()
                    if until < math.inf:
                        left_s = max(_LEAST_WAIT_S, until - self._shell.now())
                        timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
            self._report_progress()

    def _feed(self, chain: ChainSubtask) -> Feeder | None:
        if chain.source is None or not chain.source.blocking or not self._shell.feeds_sources:
            return None
        feeder = Feeder(chain.source, self.port.wake, rate_of(self._subtask.chain))
        chain.source = feeder
        self._shell.spawn(f"feeder of {self._subtask.name}", feeder.run)
        return feeder

    def _drain(self, feeder: Feeder) -> None:
        late_at = self._shell.now() + _DRAIN_S
        feeder.drain(lambda: self._shell.now() >= late_at)

    def _await_commit(self) -> None:
        while True:
            for message in self.port.take():
                match message:
                    case Commit():
                        return
                    case Publish():
                        self._sinks.publish()
                        self._tell(Published(self._address))
                    case CheckpointComplete(checkpoint):
                        self._commit_through(checkpoint)
                    case Control(element=EndOfInput()) if self._only_publishes:
                        pass  # those before it were restored as finished, too, and say it again
                    case Drain() | BeginCheckpoint() | AbortCheckpoint():
                        pass  # the source has ended by itself; the end of a subtask is its part in every checkpoint
                    case Request(reply_to, call_id):
                        self._shell.send(self._address, reply_to, Reply(call_id, 0, (), self._too_late()))
                    case _:
                        raise ProtocolError(f"a subtask that has finished got a {type(message).__name__}")

    def _too_late(self) -> PackedError:
        name = self._subtask.chain.service
        return pack_error(
            ServiceUnavailable(
                f"service {name!r} has ended: a service that is first called while another one closes must be"
                " registered before that one"
            )
        )

    def _clean_up(self) -> BaseException | None:
        """After an error or a cancel: close, and remove what the sinks wrote; return the first error of that."""
        if self._unit is None:
            return None
        keeps = self._plan.checkpoints is not None
        errors = [_attempt(self._unit.close), _attempt(lambda: self._sinks.take_back(keeps_prepared=keeps))]
        return errors[0] or errors[1]

    def _end(self, error: BaseException | None) -> None:
        failure = None if error is None else pack_error(error)
        self.has_ended = True
        self._tell(Ended(self._address, self._unit_report(), failure))

    @property
    def _address(self) -> int:
        return self._subtask.address

    def _unit_report(self, queued: int = 0) -> SubtaskReport | None:
        if self._unit is None:
            return None
        report = self._unit.report(queued)
        return report._replace(calls=self.port.statistics())

    def _report_progress(self) -> None:
        now = self._shell.now()
        if now >= self._next_progress and self._unit is not None:
            self._next_progress = now + _PROGRESS_S
            self._is_told = True
            self._tell(Progress(self._address, self._unit_report(self.port.inbox.queued)))

    def _report_answer(self, has_answered: bool) -> None:
        """A service has answered, or woken for nothing."""
        if has_answered:
            self._is_told = False
        self._report_progress()

    def _report_at(self) -> float:
        """Return until when a service may wait for calls, so that the last ones before are reported."""
        return math.inf if self._is_told else self._next_progress

    def _untold_s(self) -> float | None:
        """Return how long a wait for messages may be, so that counts are reported in time; None: all are reported."""
        return None if self._is_told else max(_LEAST_WAIT_S, self._progress_due_s())

    def _progress_due_s(self) -> float:
        return self._next_progress - self._shell.now()

    def _tell(self, message: Message) -> None:
        self._shell.send(self._address, DRIVER, message)


class _ServiceLoop:
    """Takes requests from one inbox, and answers at most `concurrency` of them at a time, or as many batches.

    Plain methods run in that many activations, the first of which is the subtask's own; coroutines need none.
    """

    def __init__(
        self,
        service: ServiceSubtask,
        port: WorkerPort,
        shell: Shell,
        after_each: Callable[[bool], None],
        report_at: Callable[[], float],
        check_every_s: float,
    ) -> None:
        self._service = service
        self._port = port
        self._shell = shell
        self._after_each = after_each
        self._report_at = report_at
        self._lock = shell.condition().lock
        self._free = deque(range(service.concurrency))  # places; the operations of a deque are atomic
        self._others = service.concurrency - 1 if service.blocks else 0
        self._awaits = service.awaits
        self._check_every_s = check_every_s
        self._check_health_at = shell.now() + check_every_s
        self._fault: BaseException | None = None

    def run(self) -> None:
        """Answer until no request can come and none is being answered. Raises what another activation raised."""
        for number in range(self._others):
            self._shell.spawn(f"{self._service.subtask.name} #{number + 2}", self._run_other)
        try:
            self._answer_requests()
        except BaseException as error:
            self._fault = error
            self._port.wake()  # the others end at their next check; the failure of the job does not wait for them
            raise
        self._port.suspend_until(lambda: not self._others)
        if self._fault is not None:
            raise self._fault
        self._port.suspend_until(lambda: len(self._free) == self._service.concurrency)

    def _run_other(self) -> None:
        self._port.activations.enter_further()
        try:
            self._answer_requests()
        except BaseException as error:  # raised again by the subtask's own activation
            self._fault = error
        finally:
            with self._lock:
                self._others -= 1
            self._port.wake()

    def _answer_requests(self) -> None:
        service = self._service
        batches = service.batches if service.batches.methods else None
        while (not service.is_over or service.batches) and self._fault is None:
            self._take_place()
            if self._check_health_at < math.inf:
                self._check_health()
            message = self._take_one(batches)
            if isinstance(message, CallBatch):
                service.answer_batch(message, self._release)
            elif (request := None if message is None else service.on_message(message)) is None:
                self._free.append(0)  # without a wake: two activations could wake each other for ever
            else:
                service.answer(request, self._release)
            self._after_each(message is not None)
        self._port.wake()  # so that the other activations check, too

    def _take_one(self, batches: CallBatches | None) -> Message | CallBatch | None:
        until = self._check_health_at
        if until < math.inf and not self._port.activations.is_own():
            until = math.inf
        until = min(until, self._report_at())
        clock = self._port.activations.clock()
        if clock is not None:
            clock.begin(Wait.IDLE, self._shell.now())
        message = self._port.take_one(batches, until)
        if clock is not None:
            clock.end(self._shell.now())
        return message

    def _check_health(self) -> None:
        """Ask the object how it is, if it is time. Only the subtask's own activation does, between two calls."""
        if self._port.activations.is_own() and self._check_health_at <= self._shell.now():
            self._service.check_health()
            self._check_health_at = self._shell.now() + self._check_every_s

    def _take_place(self) -> None:
        try:
            self._free.pop()
        except IndexError:
            self._port.suspend_until(self._took_place)

    def _took_place(self) -> bool:
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def _release(self) -> None:
        self._free.append(0)
        if self._awaits:
            self._port.wake()


def _attempt(action: Callable[[], None]) -> BaseException | None:
    try:
        action()
    except Crashed:
        raise
    except BaseException as error:  # also SystemExit: the subtask must come to its end
        return error
    return None
