"""What user code shares in one process of a job by `ctx.resource`: made once, kept over restarts, closed at the end.

Any thread of any subtask of the process may ask. The first one makes the resource, without the lock, and others that
ask for the same one wait. Between attempts no user code of the job runs, so nobody holds one while it is reset.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.executors.condition import BareCondition
from sage_flow.executors.shell import Condition
from sage_flow.runtime.failure import add_notes

__all__ = ["Resources"]

_log = logging.getLogger("sage_flow")

Close = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class _Resource:
    value: Any
    close: Close | None


class Resources:
    """The resources of one job in one process, by name."""

    def __init__(self, condition: Condition | None = None) -> None:
        self._condition = BareCondition() if condition is None else condition
        self._made: dict[str, _Resource] = {}
        self._making: dict[str, int] = {}  # by which thread

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._made)

    def get(self, asker: str, name: str, factory: Callable[[], Any], close: Close | None) -> Any:
        """Return the resource of this name; make it if there is none. `asker`: the operator, for errors.

        Raises PipelineError for wrong arguments, and what the factory raises; then the next who asks tries again.
        """
        made = self._made.get(name) if isinstance(name, str) else None
        if made is not None:
            return made.value
        _check(asker, name, factory, close)
        if (made := self._begin(asker, name)) is not None:
            return made.value
        try:
            value = factory()
            self._made[name] = _Resource(value, close)
        except BaseException as error:
            add_notes(error, [f"raised by the factory of resource {name!r}, which {asker!r} has asked for"])
            raise
        finally:
            with self._condition.lock:
                del self._making[name]
                self._condition.notify_all()
        return value

    def _begin(self, asker: str, name: str) -> _Resource | None:
        """Return what another thread has made; None: the calling thread has to make it."""
        me = threading.get_ident()
        with self._condition.lock:
            if self._making.get(name) == me:
                raise PipelineError(f"{asker!r}: the factory of resource {name!r} asks for that resource itself")
            while name in self._making:
                self._condition.wait()
            if (made := self._made.get(name)) is None:
                self._making[name] = me
            return made

    def reset(self) -> None:
        """Call the `reset()` of each that has one: another attempt begins. One that fails is closed, and made anew."""
        for name, resource in list(self._made.items()):
            reset = getattr(resource.value, "reset", None)
            if not callable(reset):
                continue
            try:
                reset()
            except Exception as error:
                _log.warning("resource %r is made anew: its reset() raised %s: %s", name, type(error).__name__, error)
                del self._made[name]
                _close(name, resource)

    def close(self, limit_s: float) -> None:
        """Close all, the latest first; after `limit_s` seconds the rest is left to itself, with a message."""
        left = dict(self._made)
        self._made.clear()
        if not left:
            return
        thread = threading.Thread(target=partial(_close_all, left), name="closes resources", daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            _log.error("these resources were not closed within %g s: %s", limit_s, ", ".join(map(repr, left)))


def _close_all(left: dict[str, _Resource]) -> None:
    for name in reversed(list(left)):
        _close(name, left[name])
        del left[name]


def _close(name: str, resource: _Resource) -> None:
    if resource.close is None:
        return
    try:
        resource.close(resource.value)
    except Exception as error:  # the records of the job do not depend on it
        _log.error("closing resource %r failed: %s: %s", name, type(error).__name__, error)


def _check(asker: str, name: Any, factory: Any, close: Any) -> None:
    if not isinstance(name, str) or not name:
        raise PipelineError(f"{asker!r}: the name of a resource must be a text, not {name!r}")
    if not callable(factory):
        raise PipelineError(f"{asker!r}: resource {name!r} needs a function that makes it, not {factory!r}")
    if close is not None and not callable(close):
        raise PipelineError(f"{asker!r}: close= of resource {name!r} must be a function that takes it, not {close!r}")
