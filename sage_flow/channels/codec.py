"""Values to bytes and back: pickle 5, with what pickle cannot name.

Classes and functions that cannot be imported by name (of `__main__`, of a function, lambdas) are
*definitions*: they travel by value once per connection and by number afterwards, as they were when
first sent, so that all messages of a connection share one class. Both ends hold a definition only
as long as the sender does: the numbers of dead ones go along with the next message.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from reprlib import repr as shortened
from types import CellType, FunctionType, MethodType
from typing import Any, Final

from sage_flow.channels.wire import MESSAGE_LIMIT, Buffer, pack_block, unpack_block
from sage_flow.errors import CodecError

_Define = Callable[[Any], Any]

_OUT_OF_BAND: Final = 4096  # bytes; a smaller buffer costs less inside the stream
_BY_NAME: Final = 0  # in the place of a definition's number

_ATOMS: Final = frozenset({int, float, str, bytes, bool, type(None)})
_NAMELESS: Final = (type(None), type(...), type(NotImplemented))  # pickle has its own way with these

_definitions: ContextVar[dict[int, Any]] = ContextVar("definitions of the connection being decoded")


def _define(number: int, code: bytes) -> Any:
    definition = _definitions.get()[number] = pickle.loads(code)
    return definition


def _defined(number: int) -> Any:
    return _definitions.get()[number]


class _Sink:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _Pickler(pickle.Pickler):
    """Pickles into `chunks` and `buffers`; `define` is its `reducer_override` for classes and functions."""

    def __init__(self) -> None:
        self.chunks: list[Buffer] = []
        self.buffers: list[Buffer] = []
        self.define: _Define = _importable
        super().__init__(_Sink(self.chunks.append), 5, buffer_callback=partial(_take_buffer, self.buffers))

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)  # as `_is_definition`, without the call: this runs for every instance in a record
        if kind is FunctionType or issubclass(kind, type):
            return self.define(obj)
        return NotImplemented


def _take_buffer(buffers: list[Buffer], buffer: pickle.PickleBuffer) -> bool:
    view = buffer.raw()
    if view.nbytes < _OUT_OF_BAND:
        return True  # pickle then keeps it in the stream
    buffers.append(view)
    return False


_idle: list[_Pickler] = []  # a new one costs 1.5 us, as much as all the rest of a small message
_REUSED: Final = 4096  # bytes; after more a new one is cheaper than to clear the memo, which never shrinks


def _pickled(value: Any, define: _Define) -> tuple[list[Buffer], list[Buffer]]:
    """The stream of `value`, in pieces, and its large buffers."""
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _Pickler()
    chunks, buffers, pickler.define = pickler.chunks, pickler.buffers, define
    pickler.dump(value)
    # A large bytearray comes as itself, but its owner may change it at any time.
    stream: list[Buffer] = [chunk if type(chunk) is bytes else bytes(chunk) for chunk in chunks]
    if not buffers and len(stream) == 1 and len(stream[0]) < _REUSED:
        chunks.clear()
        pickler.clear_memo()
        pickler.define = _importable
        _idle.append(pickler)
        buffers = []
    return stream, buffers


def _unpickled(stream: Buffer, buffers: Iterable[Any], definitions: dict[int, Any]) -> Any:
    token = _definitions.set(definitions)
    try:
        return pickle.loads(stream, buffers=buffers)
    except Exception as error:
        raise CodecError(f"{len(stream)} bytes cannot be decoded ({_describe(error)})") from error
    finally:
        _definitions.reset(token)


class Encoder:
    """One direction of one connection; its blocks must be decoded in the order of the `encode` calls' ends.

    Not for two threads at once, but `encode` may be entered again by code that pickling calls.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._numbers = itertools.count(1)  # never used again, also not after a failure
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}  # by id()
        self._dead: deque[int] = deque()

    def encode(self, value: Any, *, copy_buffers: bool = False, subject: Any = None) -> list[Buffer]:
        """The block of `value`, in pieces to be written one after the other.

        The pieces refer to large buffers of `value` (arrays), which must not change until they are written;
        `copy_buffers` ends that. `subject`: what an error describes instead of `value`, of which it is part.

        Raises: CodecError if something in `value` cannot be pickled, or the block is over the limit;
        later blocks do not depend on this one then.
        """
        subject = value if subject is None else subject
        sent: list[tuple[Any, int]] = []
        try:
            chunks, buffers = _pickled(value, partial(self._define, sent))
        except Exception as error:
            raise cannot_pickle(subject, error) from error
        if copy_buffers:
            buffers = [bytes(buffer) for buffer in buffers]
        dead = [self._dead.popleft() for _ in range(len(self._dead))] if self._dead else []
        block = pack_block(chunks, buffers, dead)
        if (size := sum(map(len, block))) > self._limit:
            self._dead.extend(dead)
            raise CodecError(f"{_name(subject)} takes {size} bytes, over the limit of {self._limit}")
        for definition, number in sent:
            self._remember(definition, number)
        return block

    def _define(self, sent: list[tuple[Any, int]], definition: Any) -> Any:
        number, _ = self._known.get(id(definition), (None, None))
        if number is None:
            if _importable(definition):
                self._remember(definition, _BY_NAME)
                return NotImplemented
            number = next(self._numbers)
            sent.append((definition, number))  # remembered when the whole message is done
            return _define, (number, _by_value(definition))
        return NotImplemented if number == _BY_NAME else (_defined, (number,))

    def _remember(self, definition: Any, number: int) -> None:
        known, dead, key = self._known, self._dead, id(definition)

        def forget(_: Any) -> None:  # runs anywhere, also inside `encode`
            known.pop(key, None)
            if number != _BY_NAME:
                dead.append(number)

        known[key] = (number, weakref.ref(definition, forget))


class Decoder:
    """The other end of an `Encoder`."""

    def __init__(self) -> None:
        self._definitions: dict[int, Any] = {}

    def decode(self, block: bytes | bytearray | memoryview) -> Any:
        """The value; large buffers in it are views of `block` (writable if `block` is).

        Raises: CodecError if `block` is not what an encoder made, or unpickling it raises.
        """
        stream, buffers, dead = unpack_block(memoryview(block))
        for number in dead:
            self._definitions.pop(number, None)
        return _unpickled(stream, buffers, self._definitions)


def copy_value(value: Any) -> Any:
    """What the other end would get if `value` were sent, except that classes and functions stay the same.

    Exact int, float, str, bytes, bool, None and tuples of only those are returned as they are.
    Raises: CodecError as `Encoder.encode` and `Decoder.decode`.
    """
    if _is_atomic(value):
        return value
    held: list[Any] = []
    try:
        chunks, buffers = _pickled(value, partial(_hold, held))
    except Exception as error:
        raise cannot_pickle(value, error) from error
    return _unpickled(b"".join(chunks), map(bytearray, buffers), dict(enumerate(held)))


def _hold(held: list[Any], definition: Any) -> Any:
    if _importable(definition):
        return NotImplemented
    held.append(definition)
    return _defined, (len(held) - 1,)


def _is_atomic(value: Any) -> bool:
    kind = type(value)
    return kind in _ATOMS or (kind is tuple and all(map(_is_atomic, value)))


def _is_definition(value: Any) -> bool:
    kind = type(value)
    return kind is FunctionType or issubclass(kind, type)


def _importable(definition: Any) -> bool:
    """Whether its module and qualified name lead to it, in any process."""
    module = getattr(definition, "__module__", None)
    if module == "__main__":
        return False
    found: Any = sys.modules.get(module) if module else None
    for part in definition.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is definition or any(definition is kind for kind in _NAMELESS)


def _by_value(definition: Any) -> bytes:
    import cloudpickle

    code: bytes = cloudpickle.dumps(definition, protocol=5)
    return code


def cannot_pickle(value: Any, error: Exception) -> CodecError:
    """The error to raise when pickling `value` raised `error`: names the innermost part at fault."""
    try:
        path, culprit = _culprit(value, depth=6)
    except Exception:  # from a property or an iterator of the user's; the first error is the one to tell
        path, culprit = "", value
    where = f": {path.lstrip('.')} is a {_name(culprit)}" if path else ""
    return CodecError(f"cannot pickle a {_name(value)}{where} ({_describe(error)})")


def _culprit(value: Any, depth: int) -> tuple[str, Any]:
    path, seen = "", {id(value)}
    for _ in range(depth):
        pickle_part = _by_value if _is_definition(value) else _trial
        bad = (pair for pair in _parts(value) if id(pair[1]) not in seen and _fails(pickle_part, pair[1]))
        if (pair := next(bad, None)) is None:
            break
        path, value = path + pair[0], pair[1]
        seen.add(id(value))
    return path, value


def _trial(value: Any) -> None:
    _pickled(value, partial(Encoder()._define, []))


def _fails(function: Callable[[Any], object], value: Any) -> bool:
    try:
        function(value)
    except Exception:
        return True
    return False


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling `value` goes on to, and how one would write the way there."""
    attributes = [name for name in getattr(value, "__dict__", ()) if not name.startswith("__")]
    if isinstance(value, dict):
        yield from ((f"[{shortened(key)}]", part) for key, part in value.items())
        yield from ((f" key {shortened(key)}", key) for key in value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        attributes += value._fields
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, partial):
        attributes += ["func", "args", "keywords"]
    elif isinstance(value, MethodType):
        attributes = ["__self__"]
    elif isinstance(value, FunctionType):
        code, names = value.__code__, value.__globals__
        cells = [pair for pair in zip(code.co_freevars, value.__closure__ or ()) if pair[1] != CellType()]
        yield from ((f" closure {name!r}", cell.cell_contents) for name, cell in cells)
        yield from ((f" global {name!r}", names[name]) for name in code.co_names if name in names)
    elif not isinstance(value, type):
        attributes += [name for kind in type(value).__mro__ for name in kind.__dict__.get("__slots__", ())]
    yield from ((f".{name}", getattr(value, name)) for name in attributes if hasattr(value, name))


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
