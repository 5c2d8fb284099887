"""Services: objects that answer calls of operators, by a class or by a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from sage_flow.errors import PipelineError

if TYPE_CHECKING:
    import asyncio

    from sage_flow.functions import RuntimeContext
    from sage_flow.stream import DataStream

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
    which takes it back after `open`; like `open` and `close` these two cannot be called by name.

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


class CallsInFlight(Protocol):
    """Where futures look for their outcome."""

    def await_call(self, call: Any, deadline: float | None = None) -> Any:
        """Suspend until a call has its outcome and return that; None: `deadline` has passed."""

    def await_calls(self, calls: list[Any], count: int, deadline: float | None) -> None:
        """Suspend until `count` of the calls have their outcome or `deadline` has passed."""

    def poll(self, call: Any) -> Any:
        """Return the outcome of a call, None if it is open."""

    def flush(self) -> None:
        """Send requests that wait for company: the caller waits in a way of its own."""

    def cancel(self, call: Any) -> bool:
        """End a call that is open; return whether it was."""

    def on_outcome(self, call: Any, callback: Callable[[], object]) -> None:
        """Call back once the call has its outcome, from any thread; now if it has it."""

    def now(self) -> float:
        """Seconds of the clock of deadlines."""


class ServiceFuture:
    """The reply of a call that was made with `.remote(...)`; it can be awaited, too.

    A call whose time runs out ends in ServiceTimeout, whether somebody waits for it or not. A future that is
    dropped lets its call go on.
    """

    __slots__ = ("_call", "_calls")

    def __init__(self, calls: CallsInFlight, call: Any) -> None:
        self._calls = calls
        self._call = call

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self._calls.poll(self._call) is not None

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the reply, at most `timeout_s` seconds, and return it.

        Raises: what the service raised, or a ServiceError; `concurrent.futures.CancelledError`; TimeoutError if
        the call is still open after `timeout_s`, and then goes on; PipelineError if that is negative.
        """
        deadline = _deadline(self._calls, timeout_s)
        outcome = self._calls.await_call(self._call, deadline)
        if outcome is None:
            raise TimeoutError(f"{self._call.label} has not replied after {timeout_s} s; the call goes on")
        return outcome.get()

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        """Wait as `result` does; return what that would raise, None if there is a reply."""
        try:
            self.result(timeout_s)
        except Exception as error:
            if not self.done():
                raise
            return error
        return None

    def cancel(self) -> bool:
        """End the call and return True; False if it has ended. A request that was not started will not be."""
        return self._calls.cancel(self._call)

    def add_done_callback(self, callback: Callable[[ServiceFuture], object]) -> None:
        """Call `callback(self)` once the call has ended, in whatever thread brings the reply; it must be quick."""
        self._calls.on_outcome(self._call, lambda: callback(self))

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        loop = asyncio.get_running_loop()
        if not self.done():
            self._calls.flush()
        while not self.done():  # the deadline may move: the service may still be opening
            yield from self._woken(loop)
        return self.result()

    def _woken(self, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
        """Wait for the end of the call, or until its deadline as it is now."""
        import asyncio

        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake_from_anywhere(_: ServiceFuture) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self.add_done_callback(wake_from_anywhere)
        timer = loop.call_later(max(0.0, self._call.deadline - self._calls.now()), wake)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            timer.cancel()

    def __repr__(self) -> str:
        return f"<ServiceFuture of {self._call.label}, {'done' if self.done() else 'open'}>"


def wait(
    futures: Iterable[ServiceFuture], *, count: int | None = None, timeout_s: float | None = None
) -> tuple[list[ServiceFuture], list[ServiceFuture]]:
    """Wait until `count` futures (default: all) are done, at most `timeout_s` seconds.

    Returns those that are done and those that are not, each in the order given. Raises PipelineError if they
    are of different callers (each operator is one), which cannot be waited for together; if they are fewer than
    `count`; if `timeout_s` is negative.
    """
    given = list(futures)
    for future in given:
        if not isinstance(future, ServiceFuture):
            raise PipelineError(f"wait() takes futures of calls, as .remote() returns them, not {future!r}")
    wanted = len(given) if count is None else count
    if not 0 <= wanted <= len(given):
        raise PipelineError(f"{wanted} of {len(given)} futures can never be done: give a count of 0 to {len(given)}")
    if not given:
        return [], []
    calls = given[0]._calls
    if any(future._calls is not calls for future in given):
        raise PipelineError("these futures belong to different operators or jobs: wait for those of each apart")
    calls.await_calls([future._call for future in given], wanted, _deadline(calls, timeout_s))
    done = [future.done() for future in given]
    pairs = list(zip(given, done, strict=True))
    return [future for future, is_done in pairs if is_done], [future for future, is_done in pairs if not is_done]


def _deadline(calls: CallsInFlight, timeout_s: Any) -> float | None:
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s >= 0:
        raise PipelineError(f"timeout_s is {timeout_s!r}: give seconds, 0 or more, or None to wait for the call itself")
    return calls.now() + timeout_s


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
