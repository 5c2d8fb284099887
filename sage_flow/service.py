"""Services: objects that answer calls of operators, by a class or by a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    from sage_flow.functions import RuntimeContext
    from sage_flow.stream import DataStream

__all__ = ["PipelineService", "Service", "ServiceCaller", "ServiceHandle"]


class Service:
    """A class whose public methods can be called by name; subclassing is a convenience, not a must.

    Each replica is made where it runs, by `cls(*args)` as registered, opened with a context (a service
    may call other services) and closed after its last caller has closed.

    >>> class Counter(Service):
    ...     def open(self, ctx):
    ...         self.total = 0
    ...     def add(self, amount):
    ...         self.total += amount
    ...         return self.total
    """

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every replica, before the first call."""

    def close(self) -> None:
        """Called once in every replica that was opened, after the last call."""


class PipelineService:
    """A pipeline that answers calls: `build(requests)` gets a stream of requests and returns that of replies.

    It answers one method, `process(record)`. Every output must descend from one request: the engine carries
    the call with the record, and the one output that comes of it is the reply. A request whose record is
    filtered out ends in `NoReply` at its caller; an error in the pipeline is raised at the caller.
    """

    def __init__(self, build: Callable[[DataStream[Any]], DataStream[Any]], parallelism: int = 1) -> None:
        if not callable(build):
            raise PipelineError(f"PipelineService needs a function from stream to stream, not {build!r}")
        self.build = build
        self.parallelism = parallelism


class ServiceCaller(Protocol):
    """Makes calls for one operator."""

    def handle(self, service: str | type) -> ServiceHandle:
        """Return a handle. Raises UnknownService."""

    def call(
        self, service: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> Any:
        """Call and wait. Raises what the service raised, or a ServiceError."""


class ServiceHandle:
    """Calls the methods of one service: `handle.retrieve(3)`, `handle.options(timeout=1.0).retrieve(3)`."""

    def __init__(self, caller: ServiceCaller, name: str, timeout: float | None = None) -> None:
        self._caller = caller
        self._name = name
        self._timeout = timeout

    def options(self, *, timeout: float) -> ServiceHandle:
        """Return a handle whose calls wait at most `timeout` seconds."""
        return ServiceHandle(self._caller, self._name, timeout)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(f"{method!r}: only public methods of service {self._name!r} can be called")

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._caller.call(self._name, method, args, kwargs, self._timeout)

        call.__name__ = method
        return call

    def __repr__(self) -> str:
        return f"ServiceHandle({self._name!r})"
