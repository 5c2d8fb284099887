"""Values to bytes and back: pickle 5, with what pickle cannot name.

Classes and functions that cannot be imported by name (of `__main__`, of a function, lambdas) are
*definitions*: they travel by value once per connection and by number afterwards, as they were when
first sent, so that all messages of a connection share one class. Both ends hold a definition only
as long as the sender does.

Messages may overtake each other on the way (see `lanes`), so a message holds numbers only. What they
stand for is *news*, which nothing overtakes, and the rule is:

* a definition is news before the first message that refers to it;
* the number of one that died is news when every message that was encoded before its death is written
  completely: until then one of them may still refer to it.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import Any, Final

from sage_flow.errors import CodecError
from sage_flow.wire import by_value
from sage_flow.wire.arrow import reduce_slice
from sage_flow.wire.culprit import find_culprit
from sage_flow.wire.frames import (
    MESSAGE_LIMIT,
    Buffer,
    is_stream,
    pack_block,
    pack_definitions,
    unpack_block,
    unpack_definitions,
)
from sage_flow.wire.packed import Packed, Packing, unpack_now

_OUT_OF_BAND: Final = 4096  # bytes; a smaller buffer costs less inside the stream
_SMALL: Final = 4096  # bytes; after more a new pickler is cheaper than to clear the memo, which never shrinks
_BY_NAME: Final = 0  # in the place of a definition's number

_ATOMS: Final = frozenset({int, float, str, bytes, bool, type(None)})
_NAMELESS: Final = (type(None), type(...), type(NotImplemented))  # pickle has its own way with these

_definitions: ContextVar[dict[int, Any]] = ContextVar("definitions of the connection being decoded")


class _Unread(bytes):
    """The pickle of a definition that no message has asked for yet."""


def _defined(number: int) -> Any:
    definitions = _definitions.get()
    definition = definitions[number]
    if type(definition) is _Unread:
        definition = definitions[number] = pickle.loads(definition)
    return definition


class _Sink:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _Pickler(pickle.Pickler):
    """Pickles into `chunks` and `buffers`, and asks `define` to reduce classes and functions.

    `definitions` are those that the stream refers to and no earlier one did, with their numbers and pickles.
    """

    def __init__(self, define: Callable[[_Pickler, Any], Any]) -> None:
        self.chunks: list[Buffer] = []
        self.buffers: list[Buffer] = []
        self.definitions: list[tuple[Any, int, bytes]] = []
        self.refers = False  # the stream refers to definitions
        self._inner: _Pickler | None = None  # an idle one
        self._define = define
        # A bound method of ours would be a cycle, and keep large values until the garbage collector runs.
        super().__init__(_Sink(self.chunks.append), 5, buffer_callback=partial(_take_buffer, self.buffers))

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType or issubclass(kind, type):
            return self._define(self, obj)
        if kind is Packing:
            return self._pack(obj.records)
        if kind.__module__ == "pyarrow.lib":
            return reduce_slice(kind, obj)
        return NotImplemented

    def _pack(self, records: list[Any]) -> Any:
        """A stream in the stream. If it refers to definitions, it is decoded when it comes: they may not stay."""
        inner, self._inner = self._inner or _Pickler(self._define), None
        inner.dump(records)
        if (bare := inner.bare_stream(_SMALL)) is not None:
            self._inner = inner
            return Packed, (len(records), bare)
        self.definitions += inner.definitions
        self.refers |= inner.refers
        parts = map(pickle.PickleBuffer, (b"".join(inner.stream()), *inner.buffers))
        return unpack_now if inner.refers else Packed, (len(records), *parts)

    def bare_stream(self, limit: int) -> Buffer | None:
        """What `dump` made, if nothing belongs to it and it is small; the pickler can then be used again."""
        chunks = self.chunks
        if self.refers or self.buffers or len(chunks) > 1 or len(chunks[0]) >= limit:
            return None
        self.clear_memo()
        return chunks.pop()

    def stream(self) -> list[Buffer]:
        """What `dump` made. A large bytearray comes as itself, but its owner may change it at any time."""
        return [chunk if type(chunk) is bytes else bytes(chunk) for chunk in self.chunks]


def _take_buffer(buffers: list[Buffer], buffer: pickle.PickleBuffer) -> bool:
    view = buffer.raw()
    if view.nbytes < _OUT_OF_BAND:
        return True  # pickle then keeps it in the stream
    buffers.append(view)
    return False


class Encoder:
    """One direction of one connection; its blocks must be sent in the order of the `encode` calls' ends.

    Not for two threads at once, but `encode` may be entered again by code that pickling calls.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._small = min(_SMALL, limit)
        self._idle: _Pickler | None = None  # a new one takes longer than all the rest of a small message
        self._numbers = itertools.count(1)  # never used again, also not after a failure
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}  # by id()
        self._new: list[tuple[int, bytes]] = []
        self._dead: deque[tuple[int, int]] = deque()  # number, and how many messages there were when it died
        self.messages = 0
        """How many have been encoded, so the number of the last one."""

    def encode(self, value: Any, *, copy_buffers: bool = False, subject: Any = None) -> list[Buffer]:
        """The block of `value`, in pieces to be written one after the other, behind `news`.

        The pieces refer to large buffers of `value` (arrays), which must not change until they are written;
        `copy_buffers` ends that. `subject`: what an error describes instead of `value`, of which it is part.

        Raises: CodecError if something in `value` cannot be pickled, or the block is over the limit;
        later blocks do not depend on this one then.
        """
        subject = value if subject is None else subject
        pickler, self._idle = self._idle or _Pickler(self._define), None
        try:
            pickler.dump(value)
        except Exception as error:
            raise cannot_pickle(subject, error) from error
        if (stream := pickler.bare_stream(self._small)) is not None:
            self._idle = pickler
            self.messages += 1
            return [stream]
        buffers = [bytes(buffer) for buffer in pickler.buffers] if copy_buffers else pickler.buffers
        block = pack_block(pickler.stream(), buffers)
        if (size := sum(map(len, block))) > self._limit:
            raise CodecError(f"a {_name(subject)} takes {size} bytes, over the limit of {self._limit}")
        for definition, number, code in pickler.definitions:
            self._new.append((number, code))
            self._remember(definition, number)
        self.messages += 1  # before the pickler ends, which keeps alive what the block refers to
        return block

    @property
    def has_news(self) -> bool:
        """Whether `news` may have something; not, mostly."""
        return bool(self._new or self._dead)

    def news(self, oldest: int | None) -> list[Buffer]:
        """What must be written before the block that `encode` just returned: definitions, and dead numbers.

        `oldest`: the number of the oldest message before that one that is not written yet.
        """
        under_way = self.messages if oldest is None else oldest
        dead = []
        while self._dead and self._dead[0][1] < under_way:
            dead.append(self._dead.popleft()[0])
        new, self._new = self._new, []
        return pack_definitions(new, dead) if new or dead else []

    def _define(self, pickler: _Pickler, definition: Any) -> Any:
        number, _ = self._known.get(id(definition), (None, None))
        if number is None and importable(definition):
            self._remember(definition, number := _BY_NAME)
        if number == _BY_NAME:
            return NotImplemented
        pickler.refers = True
        if number is None:
            number = next(self._numbers)
            # To be remembered when the whole message is done.
            pickler.definitions.append((definition, number, by_value.dumps(definition)))
        return _defined, (number,)

    def _remember(self, definition: Any, number: int) -> None:
        known, key = self._known, id(definition)

        def forget(_: Any) -> None:  # runs anywhere, also inside `encode`
            known.pop(key, None)
            self._bury(number)

        if key in known:  # pickling this message sent another one, which has a number of its own for it
            self._bury(known[key][0])
        known[key] = (number, weakref.ref(definition, forget))

    def _bury(self, number: int) -> None:
        if number != _BY_NAME:
            self._dead.append((number, self.messages))


class Decoder:
    """The other end of an `Encoder`."""

    def __init__(self) -> None:
        self._definitions: dict[int, Any] = {}

    def learn(self, news: bytearray | memoryview) -> None:
        """Take what `Encoder.news` made. Nothing of it is unpickled yet. Raises: CodecError."""
        definitions, dead = unpack_definitions(memoryview(news))
        for number in dead:
            self._definitions.pop(number, None)
        self._definitions.update((number, _Unread(code)) for number, code in definitions)

    def decode(self, block: bytes | bytearray | memoryview) -> Any:
        """The value; large buffers in it are views of `block` (writable if `block` is).

        Raises: CodecError if `block` is not what an encoder made, or unpickling it raises.
        """
        try:
            if is_stream(block):
                return pickle.loads(block)
            stream, buffers = unpack_block(memoryview(block))
            return _loads(stream, buffers, self._definitions)
        except Exception as error:
            raise CodecError(f"{len(block)} bytes cannot be decoded ({_describe(error)})") from error


def _loads(stream: Buffer, buffers: Iterable[Any], definitions: dict[int, Any]) -> Any:
    token = _definitions.set(definitions)
    try:
        return pickle.loads(stream, buffers=buffers)
    finally:
        _definitions.reset(token)


_idle_copiers: list[_Pickler] = []  # one per thread that was copying at the same time


def copy_value(value: Any) -> Any:
    """What the other end would get if `value` were sent, except that classes and functions stay the same.

    Exact int, float, str, bytes, bool, None and tuples of only those are returned as they are.
    Raises: CodecError as `Encoder.encode` and `Decoder.decode`.
    """
    if is_atomic(value):
        return value
    try:
        pickler = _idle_copiers.pop()
    except IndexError:
        pickler = _Pickler(_hold)
    try:
        pickler.dump(value)
    except Exception as error:
        raise cannot_pickle(value, error) from error
    try:
        if (stream := pickler.bare_stream(_SMALL)) is not None:
            _idle_copiers.append(pickler)
            return pickle.loads(stream)
        held = {number: definition for definition, number, _ in pickler.definitions}
        return _loads(b"".join(pickler.stream()), map(bytearray, pickler.buffers), held)
    except Exception as error:
        raise CodecError(f"the copy of a {_name(value)} cannot be decoded ({_describe(error)})") from error


def copy_records(records: list[Any]) -> list[Any]:
    """`copy_value` of each; of all together, so that what two of them share, their copies share, as in a frame."""
    return records if all(map(is_atomic, records)) else copy_value(records)


def _hold(pickler: _Pickler, definition: Any) -> Any:
    if importable(definition):
        return NotImplemented
    pickler.refers = True
    number = len(pickler.definitions)
    pickler.definitions.append((definition, number, b""))
    return _defined, (number,)


def is_atomic(value: Any) -> bool:
    """Whether nobody can change it: exact int, float, str, bytes, bool, None, and tuples of only those."""
    if type(value) is not tuple:
        return type(value) in _ATOMS
    return _ATOMS.issuperset(map(type, value)) or all(map(is_atomic, value))


def importable(definition: Any) -> bool:
    """Whether its module and qualified name lead to it, in any process."""
    module = getattr(definition, "__module__", None)
    if module == "__main__":
        return False
    found: Any = sys.modules.get(module) if module else None
    for part in definition.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is definition or any(definition is kind for kind in _NAMELESS)


def cannot_pickle(value: Any, error: Exception) -> CodecError:
    """The error to raise when pickling `value` raised `error`: names the innermost part at fault."""
    path, culprit = find_culprit(value, _trial, by_value.dumps)
    where = f": {path} is a {_name(culprit)}" if path else ""
    return CodecError(f"cannot pickle a {_name(value)}{where} ({_describe(error)})")


def _trial(value: Any) -> None:
    _Pickler(Encoder()._define).dump(value)


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
