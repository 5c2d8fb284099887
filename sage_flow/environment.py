"""Environments: where a pipeline is written, and run."""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from sage_flow.checkpoint.options import checkpoint_options
from sage_flow.errors import PipelineError
from sage_flow.executors.driver import DriverOptions
from sage_flow.executors.execution import Execution, Executor
from sage_flow.executors.service_requests import checked_requests
from sage_flow.job import JobHandle, JobResult
from sage_flow.plan import kinds
from sage_flow.plan.arguments import with_own_arguments
from sage_flow.plan.builder import Graph, checked_seconds, make_operator
from sage_flow.plan.checkpoints import check_checkpoints, services_told
from sage_flow.plan.drawing import draw, explain
from sage_flow.plan.graph import ServiceDefinition, Tap
from sage_flow.plan.picture import Picture, picture_of
from sage_flow.plan.queues import JobQueues, new_scope
from sage_flow.plan.registration import of_class, of_pipeline, service_definition
from sage_flow.plan.resources import ActorOptionsDict
from sage_flow.plan.shared_records import SharedRecords
from sage_flow.restart import ExponentialDelay, NoRestart, RestartStrategy
from sage_flow.service import PipelineService
from sage_flow.streams import DataStream
from sage_flow.streams.sources import HasSources

if TYPE_CHECKING:
    from sage_flow.channels import BaseQueueDescriptor

__all__ = ["Environment", "LocalEnvironment", "RemoteEnvironment"]

T = TypeVar("T")

_log = logging.getLogger("sage_flow.checkpoints")  # `sage-flow run` prints what comes here


class Environment(HasSources, ABC):
    """A pipeline, its services, and a way to run them: what `LocalEnvironment` and `RemoteEnvironment` share.

    Attributes:
        progress: whether a run shows its progress on stderr where nothing else is asked for; None, the default: if
            that is a terminal. A pipeline that uses the terminal itself sets it to False.
    """

    _check_shared_records = False

    def __init__(
        self,
        name: str,
        parallelism: int,
        cancel_grace_s: float,
        close_grace_s: float,
        executor: Executor | str | None,
        restart: RestartStrategy | None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise PipelineError(f"the name of an environment must be a non-empty str, not {name!r}")
        self.name = name
        self.progress: bool | None = None
        self._graph = Graph(name, parallelism, self)
        self._options = DriverOptions(
            cancel_grace_s=cancel_grace_s,
            close_grace_s=checked_seconds(close_grace_s, "close_grace_s of job", name),
            restart=_checked_strategy(restart),
        )
        self._has_strategy = restart is not None
        self._executor = _checked_executor(executor)
        self._scope = new_scope(name)
        self._queues: JobQueues | None = None
        self._latest: Callable[[], Execution | None] | None = None  # has the queues of this scope; its rows may go

    def __repr__(self) -> str:
        operators, services = len(self._graph.nodes), len(self._graph.services)
        return f"<{type(self).__name__} {self.name!r}: {operators} operators, {services} services>"

    def _repr_html_(self) -> str:
        from sage_flow.notebook.displays import pipeline_html

        return pipeline_html(type(self).__name__, self._graph, (), f"parallelism {self._graph.parallelism}")

    @abstractmethod
    def _make_executor(self) -> Executor:
        """What runs the jobs where none was given."""

    def _handle(self, execution: Execution, picture: Picture) -> JobHandle:
        return JobHandle(execution, picture=picture)

    def _runs_by(self) -> Executor:
        if self._executor is None:
            self._executor = self._make_executor()
        return self._executor

    # -- services -------------------------------------------------------------------------------------------

    def register_service(
        self,
        name: str,
        service: Callable[..., Any] | PipelineService,
        *args: Any,
        parallelism: int = 1,
        concurrency: int = 1,
        max_pending: int = 256,
        timeout: float = 10.0,
        open_timeout: float = 300.0,
        stateless: bool = False,
        uses: Sequence[str] = (),
        requests: BaseQueueDescriptor | Callable[[], BaseQueueDescriptor] | None = None,
        ray_actor_options: ActorOptionsDict | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a service under a name: a class (or a function that makes the object) or a PipelineService.

        Args:
            args, kwargs: for the class, which is called where the service runs; each replica gets copies of them,
                even in the threads of a LocalEnvironment.
            parallelism: replicas. Each replica of a class has a state of its own, so calls must say by
                `ctx.service(name).options(key=...)` whose they mean, unless it is `stateless`: then calls go to
                the replicas in turn, as they do for a PipelineService.
            concurrency: calls that one replica answers at the same time, each in a thread, or coroutines.
            max_pending: open calls of one caller, for each replica, before it has to wait.
            timeout: seconds a caller waits by default; they begin when the service is open.
            open_timeout: seconds from the job's start for creating and opening the object, such as loading a model; a
                call that has waited longer ends in ServiceTimeout, which says that the service is still opening.
            stateless: the object keeps nothing from one call to the next.
            uses: names of the services that it calls, so that a circle is found before the job runs.
            requests: the descriptor of a queue: `ServiceClient(descriptor)` calls the service by it, from any process
                that reaches the queue. Or a function that makes the descriptor, called where the job is led: for a job
                on Ray, to which no key of a descriptor travels.
            ray_actor_options: what the Ray actor of each replica needs, as `DataStream.options` has it; for a
                PipelineService the default of every operator of its pipeline. Without Ray it is checked and ignored.
        """
        definition = service_definition(
            name,
            parallelism=parallelism,
            concurrency=concurrency,
            max_pending=max_pending,
            timeout=timeout,
            open_timeout=open_timeout,
            stateless=stateless,
            uses=uses,
            ray_actor_options=ray_actor_options,
        )
        definition = replace(definition, requests=checked_requests(requests, name))
        with self._graph.registering(name):
            if isinstance(service, PipelineService):
                self._register_pipeline(service, of_pipeline(definition, service, args, kwargs))
                return
            definition = of_class(definition, service, args, kwargs)
            self._graph.name_for(name, kinds.SERVICE)  # no operator may share it: it names the counts of the service
            self._graph.services[name] = definition

    def _register_pipeline(self, service: PipelineService, definition: ServiceDefinition) -> None:
        name = definition.name
        with self._graph.body_of(name):
            head = make_operator(self._graph, kinds.REQUESTS, "requests")
            node = self._graph.add(head, parallelism=definition.parallelism)
            self._graph.services[name] = definition
            output = service.build(DataStream(self._graph, (Tap(node),)))
            if not isinstance(output, DataStream):
                raise PipelineError(
                    f"the pipeline of service {name!r} must return the stream of its replies, not {output!r}"
                )
            for tap in output._taps:
                if tap.node.service != name:
                    raise PipelineError(
                        f"the pipeline of service {name!r} returns a stream of the main pipeline or of another service"
                        f" ({tap.node.name!r}, {tap.node.operator.location}), not one that descends from its requests"
                    )
        self._graph.services[name] = replace(definition, output=output._taps)

    # -- queues ---------------------------------------------------------------------------------------------

    def queue(self, queue_id: str | None = None, maxsize: int = 0) -> BaseQueueDescriptor:
        """Return the queue of this name of the job: the one that operators and services get by `ctx.queue(queue_id)`.

        It belongs to the job that runs, else to the next one, and is closed when that is over: who waits gets
        QueueClosed, what is in it is dropped. Each job has queues of its own, also one of the same name.

        Args:
            queue_id: None for a name of its own; an operator then has to be given the descriptor.
            maxsize: how many items may wait, 0 for any number; all who name the queue say the same.
        """
        if self._latest is not None and ((latest := self._latest()) is None or latest.is_over):
            self._take_new_queues()
        from sage_flow.queues.job_queues import job_queue

        return job_queue(self._queues_now(), queue_id, maxsize)

    def _queues_now(self) -> JobQueues:
        if self._queues is None:
            self._queues = self._runs_by().queues(self._scope)
        return self._queues

    def _take_new_queues(self) -> None:
        self._scope, self._queues, self._latest = new_scope(self.name), None, None

    # -- running --------------------------------------------------------------------------------------------

    def enable_checkpointing(
        self,
        storage: str | os.PathLike[str],
        *,
        interval: timedelta = timedelta(seconds=10),
        timeout: timedelta = timedelta(minutes=10),
        min_pause: timedelta = timedelta(0),
        tolerable_failures: int | None = None,
        keep: int = 3,
        restore: str | None = None,
        allow_dropped: bool = False,
    ) -> None:
        """Let jobs of this environment make checkpoints, from which they go on after a failure.

        Without `restart=` such a job is restarted by `ExponentialDelay()`; `restart=NoRestart()` says that it is not.
        See docs/fault-tolerance.md for what is guaranteed.

        Args:
            storage: a path or URL; checkpoints are stored below it, by job and run. All processes of the job must reach
                it: on a cluster of several nodes it is a shared file system or an object store.
            interval: from the begin of one checkpoint to the begin of the next.
            timeout: a checkpoint that takes longer is given up. Data goes on.
            min_pause: from the end of one checkpoint to the begin of the next.
            tolerable_failures: so many checkpoints in a row may fail; one more ends the attempt. None: any number.
            keep: complete checkpoints that are kept.
            restore: "latest": go on with the latest run of this job, if there is one that has not finished. The path of
                a checkpoint: begin a new run with it. None: begin at the beginning.
            allow_dropped: restore also if the job does not have an operator any more whose state is stored.

        Raises: PipelineError for a value that makes no sense.
        """
        self._options = replace(
            self._options,
            checkpoints=checkpoint_options(
                storage, interval, timeout, min_pause, tolerable_failures, keep, restore, allow_dropped
            ),
            restart=self._options.restart if self._has_strategy else ExponentialDelay(),
        )

    def explain(self) -> str:
        """Return the plan as text: chains, their parallelism, how records travel between them.

        For an incomplete pipeline it lists what is missing.
        """
        return explain(*self._graph.draft())

    def draw(self) -> str:
        """Return the plan as a Mermaid flowchart.

        For an incomplete pipeline, comments list what is missing.
        """
        return draw(*self._graph.draft())

    def submit(self) -> JobHandle:
        """Start the pipeline and return at once."""
        plan = with_own_arguments(self._graph.plan())
        if self._latest is not None:
            self._take_new_queues()
        shared = SharedRecords() if self._check_shared_records else None
        plan = replace(plan, queues=self._queues_now(), job_id=self._scope, shared_records=shared)
        executor = self._runs_by()
        storage = None if self._options.checkpoints is None else self._options.checkpoints.storage
        check_checkpoints(plan, storage, is_one_process=getattr(executor, "is_one_process", False))
        if storage is not None and (told := services_told(plan)):
            _log.info("job %s: %s", self.name, told)
        execution = executor.start(plan, self._options)
        execution.plan = plan
        execution.stores_checkpoints = self._options.checkpoints is not None
        self._latest = weakref.ref(execution)
        return self._handle(execution, picture_of(plan))

    def execute(self, *, progress: bool | None = None) -> JobResult:
        """Run the pipeline to its end.

        `progress`: show it on stderr; default: as the environment says.

        Raises the first error of user code, as its own type.

        Ctrl-C drains the job - its sources end, their records are processed and published - and `execute` then raises
        KeyboardInterrupt; a second Ctrl-C cancels the job, which publishes nothing. SIGTERM and SIGHUP also drain the
        job, and then end the program. A job with checkpoints is not drained: it makes a last one. This applies if
        `execute` runs in the main thread and the program has no handlers for these signals; to end a job differently
        use `submit()`.
        """
        from sage_flow.cli.metrics import is_shown, watching
        from sage_flow.cli.stopping import stoppable

        progress = self.progress if progress is None else progress
        with stoppable(self.submit, announces=is_shown(progress)) as (job, signals), watching(job, progress):
            result = job.result()
        signals.deliver()
        return result


class LocalEnvironment(Environment):
    """A pipeline, its services, and a way to run them in this process.

    Args:
        name: the job's name.
        parallelism: subtasks per operator where the operator does not say. In one process it gives the semantics
            of parallelism, not its speed.
        cancel_grace_s: seconds that user code has to come back after a cancel or a failure.
        close_grace_s: seconds that user code has to return at the normal end: a `close()`, a sink that publishes, a
            service's method whose callers have given up, a coroutine that was cancelled. After that the job fails with
            CloseTimeout, which names the line.
        restart: what to do when the job fails, by default nothing: see `FixedDelay` and its like. Each restart begins
            at the beginning, or at the last checkpoint (`enable_checkpointing`), in this program. If the program dies,
            so does the job; with checkpoints another run continues it.
        executor: how to run: "threads" (default), a thread per subtask; "processes", subtasks spread over two plain
            processes; or an executor object, such as `ProcessExecutor(workers=4)`.
        check_shared_records: for development: if an operator changes a record that another reader, the program or the
            receiver of an earlier output also holds, raise SharedRecordError, which names the operator. Slow.

    Raises: PipelineError for an invalid executor or strategy.
    """

    def __init__(
        self,
        name: str = "job",
        parallelism: int = 1,
        *,
        cancel_grace_s: float = 5.0,
        close_grace_s: float = 30.0,
        restart: RestartStrategy | None = None,
        executor: Executor | Literal["threads", "processes"] | None = None,
        check_shared_records: bool = False,
    ) -> None:
        self._kind = "threads"
        if executor == "threads" or executor == "processes":
            self._kind, executor = executor, None
        super().__init__(name, parallelism, cancel_grace_s, close_grace_s, executor, restart)
        self._check_shared_records = bool(check_shared_records)

    def _make_executor(self) -> Executor:
        if self._kind == "processes":
            from sage_flow.executors.processes import ProcessExecutor

            return ProcessExecutor()
        from sage_flow.executors.threads import ThreadExecutor

        return ThreadExecutor()


class RemoteEnvironment(Environment):
    """A pipeline, its services, and a way to run them on a Ray cluster, an actor for each subtask.

    Args:
        name: the job's name; one job of a name can run at a time.
        parallelism: subtasks per operator where the operator does not say.
        address: "auto", the cluster of this machine or of RAY_ADDRESS; "local", one inside this process;
            "host:port"; "ray://host:port". A process that is connected to Ray stays with that cluster.
        namespace: jobs of different namespaces do not see each other.
        runtime_env: what Ray installs or ships for the job's actors, as `ray.init` takes it.
        restart: what to do when the job fails, by default nothing: see `FixedDelay` and its like. Each restart
            begins at the beginning, or at the last checkpoint (`enable_checkpointing`).
        detached: the job outlives this process; else it is cancelled when this process is gone.
        cancel_grace_s: seconds that user code has to return after a cancel or a failure; then its actor is killed.
        close_grace_s: seconds that user code has to return at the normal end; then the job fails with CloseTimeout.
        lease_s: seconds after which a silent process of the job counts as dead and is ended.
        start_timeout_s: seconds for the cluster to start all actors, and then for each to connect to the job's master.
        transport_security: "tls" between nodes, with a certificate for each job, or "plaintext".
        metrics_interval_s: seconds after which the job gives its metrics to Ray again, which exports them.
        executor: how to run, instead of all of the above.

    Raises: PipelineError for options that make no sense.
    """

    def __init__(
        self,
        name: str = "job",
        parallelism: int = 1,
        *,
        address: str = "auto",
        namespace: str = "sage_flow",
        runtime_env: dict[str, Any] | None = None,
        restart: RestartStrategy | None = None,
        detached: bool = False,
        cancel_grace_s: float = 5.0,
        close_grace_s: float = 30.0,
        lease_s: float = 10.0,
        start_timeout_s: float = 60.0,
        transport_security: Literal["tls", "plaintext"] = "tls",
        metrics_interval_s: float = 10.0,
        executor: Executor | None = None,
    ) -> None:
        super().__init__(name, parallelism, cancel_grace_s, close_grace_s, executor, restart)
        if transport_security not in ("tls", "plaintext"):
            raise PipelineError(f'transport_security must be "tls" or "plaintext", not {transport_security!r}')
        self._detached = detached
        self._address = (address, namespace, runtime_env)
        self._led: dict[str, Any] = {
            "lease_s": checked_seconds(lease_s, "lease_s of job", name),
            "start_timeout_s": checked_seconds(start_timeout_s, "start_timeout_s of job", name),
            "is_attached": not detached,
            "encrypts": transport_security == "tls",
            "metrics_interval_s": checked_seconds(metrics_interval_s, "metrics_interval_s of job", name),
        }

    def _make_executor(self) -> Executor:
        from sage_flow.executors.ray.client import RayExecutor
        from sage_flow.executors.ray.records import JobOptions

        return RayExecutor(*self._address, JobOptions(**self._led))

    def _handle(self, execution: Execution, picture: Picture) -> JobHandle:
        return JobHandle(execution, is_owner=not self._detached, picture=picture)


def _checked_strategy(restart: Any) -> RestartStrategy:
    if restart is None:
        return NoRestart()
    if not isinstance(restart, get_args(RestartStrategy)):
        raise PipelineError(f"restart must be a strategy such as FixedDelay(attempts=3), not {restart!r}")
    found: RestartStrategy = restart
    return found


def _checked_executor(executor: Any) -> Executor | None:
    if executor is None or (not isinstance(executor, type) and hasattr(executor, "start")):
        found: Executor | None = executor
        return found
    if isinstance(executor, type):
        raise PipelineError(f"executor must be an object, not the class {executor.__name__}: {executor.__name__}()")
    raise PipelineError(
        f'executor must be an executor such as ProcessExecutor(workers=2), not {executor!r}; "threads" and "processes"'
        " are for LocalEnvironment"
    )
