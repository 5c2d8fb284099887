"""Services: objects that answer calls of operators, by a class or by a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from sage_flow.errors import PipelineError
from sage_flow.runtime.futures import ServiceFuture, wait

if TYPE_CHECKING:
    from sage_flow.functions import RuntimeContext
    from sage_flow.streams import DataStream

__all__ = [
    "Call",
    "PipelineService",
    "Service",
    "ServiceCaller",
    "ServiceFuture",
    "ServiceHandle",
    "ServiceMethod",
    "wait",
]


class Service:
    """A class whose public methods can be called by name; subclassing is a convenience, not a must.

    Each replica is made where it runs, by `cls(*args)` as registered, opened with a context (a service
    may call other services) and closed after its last caller has closed. Methods may be `async def`; such a
    call is cancelled when its time has passed.
    A service whose state is worth keeping also has `snapshot()`, which returns it, and `restore(state)`,
    which takes it back after `open`; like all methods of the life cycle these two cannot be called by name.

    >>> class Counter(Service):
    ...     def open(self, ctx):
    ...         self.total = 0
    ...     def add(self, amount):
    ...         self.total += amount
    ...         return self.total
    """

    def open(self, ctx: RuntimeContext) -> None:
        """Called once in every replica, before the first call."""

    health_check_period_s = 10.0
    """Seconds between two calls of `check_health`."""

    def warm_up(self) -> None:
        """Called once in every replica after `open`, before the first call: for what would make that one slow."""

    def check_health(self) -> None:
        """Called every `health_check_period_s` seconds, between calls. Raise what is wrong with the replica.

        Then the job fails, and starts again if it has a restart strategy.
        """

    def close(self) -> None:
        """Called once in every replica that was opened, after the last call."""


class PipelineService:
    """A pipeline that answers calls: `build(requests)` gets a stream of requests and returns that of replies.

    It answers one method, `process(record)`. Every output must descend from one request: the engine carries
    the call with the record, and the one output that comes of it is the reply. A request whose record is
    filtered out ends in `NoReply` at its caller; an error in the pipeline is raised at the caller.

    `reply="many"`: the reply is the list of all outputs, in the order in which they came, also if it is one.
    """

    def __init__(
        self,
        build: Callable[[DataStream[Any]], DataStream[Any]],
        parallelism: int = 1,
        *,
        reply: Literal["one", "many"] = "one",
    ) -> None:
        if not callable(build):
            raise PipelineError(f"PipelineService needs a function from stream to stream, not {build!r}")
        if reply not in ("one", "many"):
            raise PipelineError(f'reply of a PipelineService must be "one" or "many", not {reply!r}')
        self.build = build
        self.parallelism = parallelism
        self.reply = reply


class Call(NamedTuple):
    """What is called. `timeout`: seconds, None: the service's own; `key`: see `ServiceHandle.options`.

    `retry`: see `ServiceClient.options`.
    """

    service: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout: float | None = None
    key: Any = None
    retry: bool = False


class ServiceCaller(Protocol):
    """Makes calls for one operator."""

    def handle(self, service: str | type) -> ServiceHandle:
        """Return a handle. Raises UnknownService."""

    def call(self, call: Call) -> Any:
        """Call and wait. Raises what the service raised, or a ServiceError."""

    def start(self, call: Call) -> ServiceFuture:
        """Call and go on; waits only for a place among `max_pending`."""


class ServiceMethod:
    """One method of a service: `method(...)` calls and waits, `method.remote(...)` returns a ServiceFuture."""

    __slots__ = ("_handle", "_name")

    def __init__(self, handle: ServiceHandle, name: str) -> None:
        self._handle = handle
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handle = self._handle
        call = Call(handle._name, self._name, args, kwargs, handle._timeout, handle._key, handle._retry)
        return handle._caller.call(call)

    def remote(self, *args: Any, **kwargs: Any) -> ServiceFuture:
        """Call and return at once with a future, or as soon as fewer than `max_pending` calls are open."""
        handle = self._handle
        call = Call(handle._name, self._name, args, kwargs, handle._timeout, handle._key, handle._retry)
        return handle._caller.start(call)

    def __repr__(self) -> str:
        return f"<method {self._name!r} of {self._handle!r}>"


class ServiceHandle:
    """Calls the methods of one service: `handle.retrieve(3)`, `handle.options(timeout=1.0).retrieve(3)`."""

    _retry = False

    def __init__(self, caller: ServiceCaller, name: str, timeout: float | None = None, key: Any = None) -> None:
        self._caller = caller
        self._name = name
        self._timeout = timeout
        self._key = key

    def options(self, *, timeout: float | None = None, key: Any = None) -> ServiceHandle:
        """Return a handle whose calls wait at most `timeout` seconds, and go to the replica that has `key`.

        Calls with equal keys reach the same replica; a service with state and several replicas needs one.
        """
        return ServiceHandle(
            self._caller,
            self._name,
            self._timeout if timeout is None else timeout,
            self._key if key is None else key,
        )

    def __getattr__(self, method: str) -> ServiceMethod:
        if method.startswith("_"):
            raise AttributeError(f"{method!r}: only public methods of service {self._name!r} can be called")
        found = self.__dict__[method] = ServiceMethod(self, method)  # next time nobody has to ask here
        return found

    def __repr__(self) -> str:
        return f"ServiceHandle({self._name!r})"
