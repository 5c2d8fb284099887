"""The storage in memory, with faults: slow, unreachable or full for a while, with lost answers and late writes."""

from contextlib import contextmanager

from world import current

from sage_flow.checkpoint import storage as storages
from sage_flow.errors import StorageError

__all__ = ["FaultyStorage", "faulty_storages"]


class FaultyStorage(storages.MemoryStorage):
    """What `StorageFaults` says of the world whose storage this is."""

    def write(self, name, data):
        self._change("write", name, lambda: super(FaultyStorage, self).write(name, data))

    def create(self, name, data):
        def create():
            is_new = super(FaultyStorage, self).create(name, data)
            current().ledger.recorded_entries()  # before the checkpoint that it names is deleted some day
            return is_new

        return self._change("create", name, create)

    def read(self, name):
        self._begin("read")
        return super().read(name)

    def names(self, folder=""):
        self._begin("names")
        world, found = current(), super().names(folder)
        lag_s = world.storage_faults.lag_s
        if folder != "log" or not lag_s:
            return found
        since = {name: world.listed_at.setdefault((self.location, name), world.now) for name in found}
        return [name for name in found if world.now - since[name] >= lag_s * _slowness(name)]

    def delete(self, names):
        self._begin("delete")
        super().delete(names)

    # -- faults ---------------------------------------------------------------------------------------------

    def _begin(self, operation):
        world = current()
        faults = world.storage_faults
        is_slow = world.scheduler is not None and world.random.random() < faults.is_slow
        world.point(f"storage {operation}", world.random.random() * 0.05 if is_slow else 0.0)
        if faults.gone[0] <= world.since_begin < faults.gone[1]:
            raise self._error(operation, "the storage cannot be reached")

    def _change(self, operation, name, change):
        world = current()
        self._begin(operation)
        faults = world.storage_faults
        if name.startswith("checkpoints/") and faults.full[0] <= world.since_begin < faults.full[1]:
            world.tell(f"no space for {name}")
            raise self._error(operation, "no space left")
        if world.random.random() < faults.late:
            world.tell(f"{operation} of {name} is late")
            world.late.append((world.now + world.random.random() * faults.late_s, change))
            raise self._error(operation, "no answer")
        result = change()
        if world.random.random() < faults.lost_answer:
            world.tell(f"the answer to {operation} of {name} is lost")
            if operation == "create" and world.random.random() < 0.5:
                return False  # the client has repeated the request
            raise self._error(operation, "no answer")
        world.point(f"storage {operation} done")
        return result

    def _error(self, operation, why):
        return StorageError(f"{self.location}: {operation}: {why}", may_pass=True)


def _slowness(name):
    """From 0 to 1: so that lists show entries in another order than that in which they were written."""
    return sum(map(ord, name)) % 5 / 4


@contextmanager
def faulty_storages():
    """`memory://` is such a storage meanwhile."""
    before = storages.MemoryStorage
    storages.MemoryStorage = FaultyStorage
    try:
        yield
    finally:
        storages.MemoryStorage = before
