"""sage_flow: a dataflow engine for Python. Write a pipeline once; run it in one process or on a cluster."""

from typing import TYPE_CHECKING, Any

from sage_flow._version import __version__
from sage_flow.aggregates import Aggregate
from sage_flow.batching import batched
from sage_flow.cluster import Cluster, connect
from sage_flow.environment import Environment, LocalEnvironment, RemoteEnvironment
from sage_flow.functions import (
    END,
    IDLE,
    CoProcessFunction,
    DeadLetter,
    Function,
    Malformed,
    ProcessFunction,
    RuntimeContext,
    Sink,
    Source,
)
from sage_flow.job import JobHandle, JobResult, JobStatus
from sage_flow.keys import stable_hash
from sage_flow.restart import ExponentialDelay, FailureRate, FixedDelay, NoRestart
from sage_flow.retry import Retry
from sage_flow.service import PipelineService, Service, ServiceFuture, ServiceHandle, wait
from sage_flow.split_source import SplitReader, SplitSource
from sage_flow.streams import ConnectedStreams, DataStream, KeyedStream
from sage_flow.timestamps import MAX_TIMESTAMP, MIN_TIMESTAMP, to_timestamp
from sage_flow.watermarks import WatermarkGenerator
from sage_flow.windows import (
    Firing,
    SessionWindow,
    SlidingWindow,
    Timer,
    TimeSpan,
    TumblingWindow,
    Window,
    WindowResult,
)

if TYPE_CHECKING:
    from sage_flow.executors.remote_service import connect_service
    from sage_flow.executors.service_client import ServiceClient

__all__ = [
    "Environment",
    "LocalEnvironment",
    "RemoteEnvironment",
    "connect",
    "Cluster",
    "JobHandle",
    "JobResult",
    "JobStatus",
    "NoRestart",
    "FixedDelay",
    "ExponentialDelay",
    "FailureRate",
    "Retry",
    "DataStream",
    "KeyedStream",
    "ConnectedStreams",
    "RuntimeContext",
    "Function",
    "ProcessFunction",
    "CoProcessFunction",
    "Source",
    "SplitSource",
    "SplitReader",
    "Malformed",
    "Sink",
    "IDLE",
    "END",
    "DeadLetter",
    "Service",
    "PipelineService",
    "batched",
    "ServiceHandle",
    "ServiceFuture",
    "wait",
    "connect_service",
    "ServiceClient",
    "to_timestamp",
    "MAX_TIMESTAMP",
    "MIN_TIMESTAMP",
    "Window",
    "TumblingWindow",
    "SlidingWindow",
    "SessionWindow",
    "WindowResult",
    "Firing",
    "TimeSpan",
    "Timer",
    "WatermarkGenerator",
    "Aggregate",
    "stable_hash",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "connect_service":  # needs sockets, which a local job does not
        from sage_flow.executors.remote_service import connect_service

        return connect_service
    if name == "ServiceClient":  # needs queues
        from sage_flow.executors.service_client import ServiceClient

        return ServiceClient
    raise AttributeError(f"module 'sage_flow' has no attribute {name!r}")
