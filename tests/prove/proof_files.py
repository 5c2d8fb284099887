"""The file sinks in the proof: what others see of their files at any moment, and a file system that can go wrong.

The sinks write real files, in a folder of their world. Wherever they give a file a name, remove one or make one
durable, their process may die or be delayed. What a process does while it dies changes nothing. If the power fails,
what was not made durable is gone.
"""

import ast
import bz2
import gzip
import os
import shutil
import stat
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from world import current

from sage_flow.connectors import file_sinks, members, older_files, output_file, prepared_file, temporary_file
from sage_flow.connectors.prepared_file import PreparedFile
from sage_flow.runtime.port import Crashed

__all__ = ["FILE_KINDS", "Files", "faulty_files"]

FILE_KINDS = {"file", "parts"}
"""Of sinks: one whose files are seen when the job has finished, and one that publishes parts at checkpoints."""

_MEMORY = "/dev/shm"
_NOWHERE = os.open(os.devnull, os.O_WRONLY)
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open}


class Files:
    """The folder of a world."""

    def __init__(self, world):
        self._world = world
        self._seen = {}  # inodes of the files that others have seen, by path
        self._open = set()  # descriptors of the sinks
        self.streams = []  # over duplicates of them
        self.writers = []  # that duplicate them when they are first written to
        self._durable = {}  # length by inode
        self._renamed = []  # since the folder was made durable
        self.folder = Path(tempfile.mkdtemp(prefix="proof-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))

    def close(self):
        """Close what processes that have died left open."""
        for stream in self.streams:
            stream.close()
        for writer in self.writers:  # what is buffered in front of them is written when it is collected as garbage
            writer._descriptor = _NOWHERE
        for descriptor in self._open:
            os.close(descriptor)
        shutil.rmtree(self.folder)

    # -- what others see ------------------------------------------------------------------------------------

    def rows(self, kind):
        """The rows of a sink that others can see, by the names of the files."""
        return [row for file in self._visible(kind) for row in _rows_of(file)]

    def _visible(self, kind):
        return sorted(file for file in self.folder.iterdir() if file.name.startswith(kind))

    def left_behind(self):
        """Files that nobody sees and nobody will remove, but for those of attempts that were frozen."""
        hidden = [file.name for file in self.folder.iterdir() if file.name.startswith(".")]
        late = [f".a{attempt}.s" for attempt in self._world.frozen_attempts]
        return [name for name in hidden if not any(one in name for one in late)]

    def look(self):
        """What others can see now was recorded, is not there twice, and stays."""
        if self._world.is_fault_free:
            return
        known = {
            (one.target, one.identity[0]) for one in self._world.ledger.recorded() if isinstance(one, PreparedFile)
        }
        for kind in FILE_KINDS & self._world.expected.keys():
            found = Counter()
            for file in self._visible(kind):
                found.update(_rows_of(file))
                inode = file.stat().st_ino
                if self._seen.setdefault(file, inode) != inode:
                    self._world.violate(f"{file.name} is replaced by another file")
                if (str(file), inode) not in known:
                    self._world.violate(f"{file.name} is seen, and no recorded checkpoint names it")
            if extra := found - Counter(self._world.expected[kind]):
                self._world.violate(f"{kind}: {extra.total()} rows are seen that should not be, as {next(iter(extra))}")
        for file in [file for file in self._seen if not file.exists()]:
            self._world.violate(f"{file.name} was seen, and is gone")
            del self._seen[file]

    # -- the power fails ------------------------------------------------------------------------------------

    def lose(self):
        """The power has failed: lose what is not durable, of the names perhaps only some."""
        kept = self._world.random.randrange(len(self._renamed) + 1) if self._renamed else 0
        for old, new in reversed(self._renamed[kept:]):
            if os.path.exists(new) and not os.path.exists(old):
                os.rename(new, old)
                self._seen.pop(Path(new), None)
        self._renamed.clear()
        for file in self.folder.iterdir():
            entry = file.stat()
            if entry.st_size > (durable := self._durable.get(entry.st_ino, 0)):
                os.truncate(file, durable)

    # -- what the sinks call --------------------------------------------------------------------------------

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, *arguments):
        return self._done("file open", self._opened, *arguments)

    def _opened(self, file, flags, *mode):
        self._open.add(descriptor := os.open(file, flags, *mode))
        if flags & os.O_CREAT:
            self._durable[os.fstat(descriptor).st_ino] = 0
        return descriptor

    def close_descriptor(self, descriptor):
        self._open.discard(descriptor)
        os.close(descriptor)

    def fsync(self, descriptor):
        self._done("file sync", os.fsync, descriptor)
        entry = os.fstat(descriptor)
        if stat.S_ISDIR(entry.st_mode):
            self._renamed.clear()
        else:
            self._durable[entry.st_ino] = entry.st_size

    def rename(self, old, new):
        self._done("file rename", os.rename, old, new)
        self._renamed.append((old, new))
        self.look()

    def replace(self, old, new):
        self._check_can_publish()
        if not os.path.exists(new):
            self._renamed.append((old, new))
        self._done("file publish", os.replace, old, new)
        self.look()

    def remove(self, file):
        self._done("file remove", os.remove, file)
        self.look()

    def _done(self, what, action, *arguments):
        _check_alive()
        current().point(what)
        result = action(*arguments)
        current().point(f"{what} done")
        return result

    def _check_can_publish(self):
        world = self._world
        world.passed["tries to commit"] += 1
        if world.passed["tries to commit"] in world.faults.commits_fail:
            world.tell("a commit fails")
            raise OSError("the disk cannot be reached")


class _Os:
    """What the connectors take for the module `os`."""

    def __getattr__(self, name):
        files = current().files
        return getattr(files, {"close": "close_descriptor"}.get(name, name))


class _Time:
    """What the sinks take for the module `time`."""

    @staticmethod
    def monotonic():
        return current().now

    @staticmethod
    def time_ns():
        return current().clock.wall_ms() * 1_000_000


def _opened(*arguments):
    """What the writers of files take for `open`."""
    current().files.streams.append(stream := open(*arguments))  # noqa: SIM115 - the sink closes it
    return stream


def _writing_to(*arguments):
    """What sinks take for `writing_to`."""
    current().files.writers.append(writer := members.writing_to(*arguments))
    return writer


@contextmanager
def faulty_files():
    """The file sinks write into the folder of the current world."""
    modules = (older_files, output_file, prepared_file, temporary_file)
    patches = [*(patch.object(module, "os", _Os()) for module in modules), patch.object(file_sinks, "time", _Time())]
    patches.append(patch.object(output_file, "writing_to", _writing_to))
    patches.append(patch.object(members, "open", _opened, create=True))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _check_alive():
    """A process that has died changes nothing more."""
    scheduler = current().scheduler
    me = None if scheduler is None else scheduler._running_here()
    if me is not None and me.crashes:
        raise Crashed


def _rows_of(file):
    with suppress(FileNotFoundError), _OPENERS.get(file.suffix, open)(file, "rt") as lines:
        return [ast.literal_eval(line) for line in lines]
    return []
