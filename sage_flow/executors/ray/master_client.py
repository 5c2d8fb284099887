"""Finds the actor of the master of a job, asks it, and tells it that the submitter lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from sage_flow.errors import ClusterError
from sage_flow.executors.ray.answers import ANSWER_S, ClusterSilent
from sage_flow.executors.ray.records import JobRecord, find_actor

__all__ = ["RETRY_S", "Lease", "MasterClient"]

_log = logging.getLogger("sage_flow")

RETRY_S: Final = 0.2
"""Seconds between attempts to reach a master that is being started again."""
_MASTER_BACK_S: Final = 60.0  # seconds for a master to be started again
_LEASE_END_S: Final = 10.0


class MasterClient:
    """Asks the master of one job, from any thread."""

    def __init__(self, namespace: str, record: JobRecord) -> None:
        self._namespace = namespace
        self._record = record

    def find(self) -> Any:
        """Return its actor, None if it has ended. Raises ClusterError."""
        return find_actor(self._namespace, self._record.master)

    def ask(self, question: Callable[[Any], Any], limit_s: float | None = ANSWER_S) -> Any:
        """Return the master's answer. Raises ClusterError if it is gone and does not come back, or does not answer."""
        import ray

        until = time.monotonic() + _MASTER_BACK_S
        while True:
            master = self.find()
            if master is None:
                raise ClusterError(f"the master of job {self._record.id!r} has ended")
            try:
                return ray.get(question(master), timeout=limit_s)
            except ray.exceptions.GetTimeoutError:
                raise ClusterSilent(f"the master of job {self._record.id!r}", limit_s or 0.0) from None
            except ray.exceptions.ActorUnavailableError as error:
                if time.monotonic() > until:
                    raise ClusterError(f"the master of job {self._record.id!r} does not answer: {error}") from error
                time.sleep(RETRY_S)
            except ray.exceptions.ActorDiedError as error:
                raise ClusterError(f"the master of job {self._record.id!r} has ended") from error
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None


class Lease:
    """Tells a job's master, every `pause_s` seconds, that this process lives.

    The master is looked up once, so that leases are renewed even while the GCS of the cluster does not answer.
    """

    def __init__(self, find_master: Callable[[], Any], pause_s: float) -> None:
        self._find_master = find_master
        self._pause_s = pause_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease of a job", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop, and return when the thread does not use Ray any more: to use it after its shutdown ends the process."""
        self._is_over.set()
        self._thread.join(_LEASE_END_S)

    def _renew(self) -> None:
        import ray

        master = None
        while not self._is_over.wait(self._pause_s) and ray.is_initialized():
            if master is None:
                try:
                    master = self._find_master()
                except ClusterError as error:  # it may answer the next time
                    _log.warning("the lease of a job cannot be renewed: %s", error)
            if master is not None:
                master.renew.remote()
