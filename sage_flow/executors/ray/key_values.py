"""The keys and values of a namespace in Ray's GCS."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from sage_flow.errors import ClusterError
from sage_flow.executors.ray.answers import answered

__all__ = ["KeyValues"]

_KV: Final = b"sage_flow"  # the namespace of our keys in the GCS


class KeyValues:
    """The store of one namespace. It needs a connection to Ray; every call is a round trip to the GCS.

    `limit_s`: after so many seconds a call raises ClusterError, for clients. None, for masters: wait for the cluster.
    """

    # The functions of Ray are called `internal` because their form is not promised; they work through `ray://`, too.

    def __init__(self, namespace: str, limit_s: float | None = None) -> None:
        self._prefix = f"{namespace}/"
        self._limit_s = limit_s

    def put(self, key: str, value: bytes) -> None:
        """Store a value; replace an earlier one."""
        self._ask("put", self._prefix + key, value)

    def create(self, key: str, value: bytes) -> bool:
        """Store a value if there is none; return whether there was none."""
        return not self._ask("put", self._prefix + key, value, overwrite=False)

    def find(self, key: str) -> bytes | None:
        """Return the value, None if there is none."""
        found: bytes | None = self._ask("get", (self._prefix + key).encode())
        return found

    def get(self, key: str) -> bytes:
        """Return the value. Raises KeyError if there is none."""
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        return found

    def delete(self, key: str, *, and_below: bool = False) -> None:
        """Remove a value; with `and_below` all values whose keys begin with `key`."""
        self._ask("del", self._prefix + key, del_by_prefix=and_below)

    def below(self, prefix: str) -> dict[str, bytes]:
        """Return the values whose keys begin with `prefix`, by the rest of the key."""
        keys: list[bytes] = self._ask("list", self._prefix + prefix)
        rests = [key.decode()[len(self._prefix) + len(prefix) :] for key in keys]
        found = {rest: self.find(prefix + rest) for rest in rests}
        return {rest: value for rest, value in found.items() if value is not None}

    def _ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        from ray.exceptions import RayError
        from ray.experimental import internal_kv

        question = partial(getattr(internal_kv, f"_internal_kv_{verb}"), *args, namespace=_KV, **kwargs)
        if self._limit_s is None:
            return question()
        try:
            return answered(question, "the GCS of the cluster", self._limit_s)
        except RayError as error:
            raise ClusterError(f"cannot read from the GCS of the cluster: {error}") from None
