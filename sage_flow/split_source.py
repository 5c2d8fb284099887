"""Sources that consist of splits: files, partitions, tables; each with an order and a position of its own.

A subclass of `SplitSource` names its splits and makes a reader for each. The rest is here: which subtask reads which
split, what is read next, the signals about splits, and the positions by which a source continues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.functions import END, IDLE, Malformed, RuntimeContext, Source, SourceSignal
from sage_flow.keys import key_group
from sage_flow.splits import FINISHED, SplitEnd, SplitFound, SplitSignal

__all__ = ["SplitReader", "SplitSource"]

T = TypeVar("T")

_LOOK_EVERY = 16  # batches, where there are always records


class SplitReader(Generic[T]):
    """Reads one split of a `SplitSource`. All of its methods are called by the same thread."""

    def next_batch(self) -> list[T] | SourceSignal | SplitSignal | Malformed:
        """Return some records, `IDLE`, or `END` if the split has no more; see `Source.next_batch`."""
        raise NotImplementedError(f"{type(self).__name__} must implement next_batch()")

    def position(self) -> Any:
        """Return where a new reader continues after what `next_batch()` has returned: a small picklable value.

        The value must not change afterwards. It must not be None, which stands for the start.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement position()")

    def close(self) -> None:
        """Called once, also after an error or a cancel."""


class SplitSource(Source[T]):
    """A source that consists of splits, each read by a reader of its own.

    A subclass implements `splits()` and `reader(split, position)`. Subtask i of p reads every p-th split from the i-th
    on, in the order of their names. A `bounded` source reads its splits one after another; any other one reads a batch
    of each in turn. A subclass that overrides `open` calls `super().open(ctx)`.

    With `grows = True` splits may come while the job runs, so the source has no end: `splits()` is asked again where no
    split has records, and now and then. It then decides by the name of a split alone which subtask reads it, so that
    subtasks that look at different times never read one twice. They are shared less evenly than splits that are known
    at the start.

    With `blocking = True` the readers are made, read and closed by the thread that reads ahead.

    >>> class Countdown(SplitSource):
    ...     bounded = True
    ...     def splits(self):
    ...         return ["from 3", "from 5"]
    ...     def reader(self, split, position):
    ...         return Count(int(split.split()[1]) if position is None else position)
    >>> class Count(SplitReader):
    ...     def __init__(self, left):
    ...         self.left = left
    ...     def next_batch(self):
    ...         self.left -= 1
    ...         return [self.left] if self.left >= 0 else END
    ...     def position(self):
    ...         return self.left
    >>> from sage_flow import LocalEnvironment
    >>> env = LocalEnvironment("countdown")
    >>> collect(env.from_source(Countdown, parallelism=1))
    [2, 1, 0, 4, 3, 2, 1, 0]
    """

    parallel = True
    grows: bool = False

    def splits(self) -> Iterable[str]:
        """Return the names of all splits. Every subtask must get the same names, also after a restart.

        If the source `grows` they may come at different times, and the call must not take long.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement splits()")

    def reader(self, split: str, position: Any) -> SplitReader[T]:
        """Return a reader of a split that continues after `position`; None: it begins at the start."""
        raise NotImplementedError(f"{type(self).__name__} must implement reader(split, position)")

    def open(self, ctx: RuntimeContext) -> None:
        """Find the splits of this subtask."""
        if self.grows and self.bounded:
            raise PipelineError(
                f"{type(self).__name__} has `grows = True` and `bounded = True`: a source whose splits may come at any"
                " time has no end"
            )
        self._index, self._parallelism = ctx.subtask_index, ctx.parallelism
        names = list(dict.fromkeys(self.splits()))
        self._all = frozenset(names)
        mine = self._share(names)
        self._to_read = deque(name for name in names if name in mine)  # the first one is asked next
        self._positions: dict[str, Any] = {}  # of the splits that are begun; FINISHED ones stay
        self._readers: dict[str, SplitReader[T]] = {}
        self._found: deque[str] = deque()  # while the job runs, and not told to the subtask yet
        self._look_in = _LOOK_EVERY

    def _share(self, names: Iterable[str]) -> frozenset[str]:
        if self.grows:
            return frozenset(name for name in names if key_group(name, self._parallelism) == self._index)
        return frozenset(sorted(names)[self._index :: self._parallelism])

    def splits_read(self) -> list[str]:
        """The splits of this subtask that are not finished."""
        return list(self._to_read)

    def next_batch(self) -> list[T] | SourceSignal | SplitSignal | Malformed:
        """Return what the reader of the next split gives; a `SplitEnd` where a split ends."""
        if self.grows and (self._found or self._is_time_to_look()):
            return self._begin_found()
        for _ in range(len(self._to_read)):
            split = self._to_read[0]
            batch = self._ask(split)
            if batch is END:
                self._finish(split)
                return SplitEnd(split)
            if batch is IDLE or not self.bounded:
                self._to_read.rotate(-1)
            if batch is not IDLE:
                return batch
        if self.grows:
            self._look_in = 0
            return IDLE
        return IDLE if self._to_read else END

    def _is_time_to_look(self) -> bool:
        """Look for new splits, if it is time; return whether there are any."""
        self._look_in -= 1
        if self._look_in < 0:
            self._look_in = _LOOK_EVERY
            known = self._all
            new = [name for name in dict.fromkeys(self.splits()) if name not in known]
            self._all |= frozenset(new)
            mine = self._share(new)
            self._found.extend(name for name in new if name in mine and self._positions.get(name) is not FINISHED)
        return bool(self._found)

    def _begin_found(self) -> SplitFound:
        split = self._found.popleft()
        self._to_read.append(split)
        return SplitFound(split)

    def _ask(self, split: str) -> list[T] | SourceSignal | SplitSignal | Malformed:
        reader = self._readers.get(split)
        if reader is None:
            reader = self._readers[split] = self.reader(split, self._positions.get(split))
        try:
            batch = reader.next_batch()
            if batch is not IDLE and batch is not END:
                self.split = split
                self._positions[split] = reader.position()
        except Exception:
            # Who asks again meets the error again: a new reader continues at the same position.
            del self._readers[split]
            reader.close()
            raise
        return batch

    def _finish(self, split: str) -> None:
        self._to_read.popleft()
        self._positions[split] = FINISHED
        self._readers.pop(split).close()

    def _position_after(self, batch: object) -> tuple[str, Any]:
        """The split that `batch`, the latest one, is about, and the position after it."""
        split = batch.split if isinstance(batch, (SplitEnd, SplitFound)) else self.split
        return split, self._positions.get(split)

    def snapshot(self) -> dict[str, Any]:
        """The position of each split of this subtask that is begun; FINISHED ones stay."""
        return dict(self._positions)

    def restore(self, position: Mapping[str, Any]) -> None:
        """Continue after these positions, by split; those of other subtasks are passed over.

        Raises:
            PipelineError: a split that was not finished does not exist any more.
        """
        mine = self._share(self._all)
        gone = [split for split in position if split not in self._all]
        if lost := [split for split in gone if position[split] is not FINISHED]:
            raise PipelineError(f"cannot continue: these splits do not exist any more: {', '.join(sorted(lost))}")
        kept = self._share(gone)  # each stays known to one subtask, so that it is not read again if it comes back
        self._positions = {split: at for split, at in position.items() if split in mine or split in kept}
        self._to_read = deque(split for split in self._to_read if self._positions.get(split) is not FINISHED)

    def close(self) -> None:
        """Close the readers, unless they belong to the thread that reads ahead."""
        if not self._is_fed:
            self._close_readers()

    def _close_readers(self) -> None:
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()
