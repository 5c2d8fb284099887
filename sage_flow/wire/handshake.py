"""Who is on the other end: the first four messages of a connection.

    dialer                                                  acceptor
      HELLO      its number, the acceptor's, attempt, nonce, release, name  ->
      <-     CHALLENGE   nonce, HMAC("acceptor", everything above)
      PROOF      HMAC("dialer", everything above)                          ->
      <-     WELCOME     (or, from either side at any step, REFUSED and why)

The name is what the key opens: a job, or a service. Both sides prove that they know the key without
sending it. The role in the HMAC makes a reflected proof worthless, the two nonces a replayed one, the
two process numbers one that was relayed to somebody else, the name one that was made for another
service with the same key. Nothing is unpickled here; messages for the codec follow only the WELCOME.

The release is the version of sage_flow. What follows are pickles of its classes, so both sides must run the same one,
also where the wire version (see `frames`) is equal. The acceptor compares them behind the proof, because strangers
need not know what runs here.
"""

from __future__ import annotations

import hmac
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Final, NoReturn

from sage_flow._version import __version__
from sage_flow.errors import ProtocolError
from sage_flow.wire import frames as wire

NONCE_BYTES: Final = 32
HANDSHAKE_LIMIT: Final = 2048
"""Bytes in one message of the handshake at the most."""

_MAC_BYTES: Final = 32
_LONGEST_RELEASE: Final = 255
_TLS_RECORDS: Final = (21, 22)  # an alert, a hello
_HELLO: Final = struct.Struct(f"<IIQ{NONCE_BYTES}sB")  # dialer, acceptor, attempt, nonce, length of what comes next:
# the release; then the name


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is.

    `key` is the secret that opens `name`; it is in no repr and in no pickle. Who has no number (`process`) in a
    job, or takes part in no attempt of one, is 0. `release`: the version of sage_flow that runs here.
    """

    process: int
    name: str
    attempt: int
    key: bytes = field(repr=False)
    release: str = __version__

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Identity holds a key, which is in no pickle")


@dataclass(frozen=True, slots=True)
class WriteBytes:
    """Write these bytes to the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Established:
    """The peer is process `peer` of our name and attempt; messages may follow."""

    peer: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Close the connection."""

    reason: str


Decision = WriteBytes | Established | Refused


class _Refusal(Exception):
    """We refuse the peer; it gets to know why."""


class _RefusedByPeer(Exception):
    pass


class _Handshake(ABC):
    def __init__(self, identity: Identity, nonce: bytes) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ProtocolError(f"a nonce of {len(nonce)} bytes instead of {NONCE_BYTES}")
        self._identity = identity
        self._name = identity.name.encode()
        self._release = identity.release.encode()
        if len(self._release) > _LONGEST_RELEASE:
            raise ProtocolError(f"a release of {len(self._release)} bytes does not fit the handshake")
        if _HELLO.size + len(self._release) + len(self._name) > HANDSHAKE_LIMIT:
            raise ProtocolError(f"a name of {len(self._name)} bytes does not fit the handshake")
        self._nonce = nonce
        self._received = bytearray()
        self._expected: int | None = None  # the kind of the next message; None once it is over

    def receive(self, data: bytes | bytearray) -> list[Decision]:
        """The next bytes from the peer, split anyhow. After `Established` or `Refused` it must not be called.

        Bytes beyond the handshake are refused: the peer may send nothing before it is welcome.
        """
        if self._expected is None:
            raise ProtocolError("the handshake is over")
        self._received += data
        decisions: list[Decision] = []
        try:
            while self._expected is not None and (message := self._next_message()) is not None:
                decisions += self._step(message)
            if self._expected is None and self._received:
                raise _Refusal("unexpected bytes after the handshake")
        except _Refusal as refusal:
            self._expected = None
            reason = str(refusal)
            return [WriteBytes(_frame(wire.REFUSED, reason.encode()[:HANDSHAKE_LIMIT])), Refused(reason)]
        except _RefusedByPeer as refusal:
            self._expected = None
            return [Refused(f"refused by the peer: {refusal}")]
        return decisions

    @property
    def wanted(self) -> int:
        """How many bytes to read at most, so that nothing is taken of what comes behind the handshake."""
        there, head = len(self._received), wire.HEADER.size
        if there < head:
            return head - there
        length: int = wire.HEADER.unpack_from(self._received)[3]
        return max(1, head + min(length, HANDSHAKE_LIMIT) - there)

    @abstractmethod
    def _step(self, payload: bytes) -> list[Decision]:
        """One complete message of the expected kind; sets what is expected next."""

    def _next_message(self) -> bytes | None:
        if len(self._received) < wire.HEADER.size:
            return None
        magic, version, kind, length = wire.HEADER.unpack_from(self._received)
        if magic != wire.MAGIC:
            raise _Refusal("it uses TLS, this side does not" if magic[0] in _TLS_RECORDS else "not a sage_flow process")
        if version != wire.WIRE_VERSION:
            raise _Refusal(f"wire version {version}, this process speaks version {wire.WIRE_VERSION}")
        if length > HANDSHAKE_LIMIT:
            raise _Refusal(f"a handshake message of {length} bytes, over {HANDSHAKE_LIMIT}")
        if kind not in (self._expected, wire.REFUSED):
            raise _Refusal(f"message kind {kind} instead of {self._expected} in the handshake")
        end = wire.HEADER.size + length
        if len(self._received) < end:
            return None
        payload = bytes(self._received[wire.HEADER.size : end])
        del self._received[:end]
        if kind == wire.REFUSED:
            raise _RefusedByPeer(payload.decode(errors="replace"))
        return payload

    def _proof(self, role: bytes, dialer: int, acceptor: int, nonces: bytes, release: bytes) -> bytes:
        # Every part but the last has a fixed length or one that is told, so no two different transcripts give the same
        # bytes. `release` is that of the dialer.
        numbers = struct.pack("<BIIQB", wire.WIRE_VERSION, dialer, acceptor, self._identity.attempt, len(release))
        text = b"sage_flow" + role + numbers + nonces + release + self._name
        return hmac.digest(self._identity.key, text, "sha256")


_DIALER: Final = b"dialer--"  # of the same length as _ACCEPTOR
_ACCEPTOR: Final = b"acceptor"


class Dialer(_Handshake):
    """The side that opened the connection, to reach process `peer`. `nonce`: 32 fresh random bytes."""

    def __init__(self, identity: Identity, nonce: bytes, peer: int) -> None:
        super().__init__(identity, nonce)
        self._peer = peer

    def start(self) -> WriteBytes:
        """The first move."""
        self._expected = wire.CHALLENGE
        me = self._identity
        numbers = _HELLO.pack(me.process, self._peer, me.attempt, self._nonce, len(self._release))
        return WriteBytes(_frame(wire.HELLO, numbers + self._release + self._name))

    def _step(self, payload: bytes) -> list[Decision]:
        if self._expected == wire.WELCOME:
            self._expected = None
            return [Established(self._peer)]
        if len(payload) != NONCE_BYTES + _MAC_BYTES:
            raise _Refusal("a malformed challenge")
        said = (self._identity.process, self._peer, self._nonce + payload[:NONCE_BYTES], self._release)
        if not hmac.compare_digest(payload[NONCE_BYTES:], self._proof(_ACCEPTOR, *said)):
            raise _Refusal(f"the acceptor does not know the key of {self._identity.name!r}")
        self._expected = wire.WELCOME
        return [WriteBytes(_frame(wire.PROOF, self._proof(_DIALER, *said)))]


class Acceptor(_Handshake):
    """The side that was dialed. `nonce`: 32 fresh random bytes."""

    def __init__(self, identity: Identity, nonce: bytes) -> None:
        super().__init__(identity, nonce)
        self._expected = wire.HELLO
        self._peer = 0
        self._peer_release = b""
        self._expected_proof = b""

    def _step(self, payload: bytes) -> list[Decision]:
        if self._expected == wire.HELLO:
            return self._on_hello(payload)
        if not hmac.compare_digest(payload, self._expected_proof):
            raise _Refusal(f"the dialer does not know the key of {self._identity.name!r}")
        if self._peer_release != self._release:
            theirs = self._peer_release.decode(errors="replace")
            raise _Refusal(
                f"the dialer runs sage_flow {theirs}, the acceptor runs sage_flow {self._identity.release}: install the"
                " same version in both places"
            )
        self._expected = None
        return [WriteBytes(_frame(wire.WELCOME, b"")), Established(self._peer)]

    def _on_hello(self, payload: bytes) -> list[Decision]:
        if len(payload) < _HELLO.size:
            raise _Refusal("a malformed hello")
        self._peer, acceptor, attempt, nonce, length = _HELLO.unpack_from(payload)
        self._peer_release, name = payload[_HELLO.size :][:length], payload[_HELLO.size + length :]
        me = self._identity
        if name != self._name:
            raise _Refusal(f"it asks for {name.decode(errors='replace')!r}, here is {me.name!r}")
        if attempt != me.attempt:
            age = "an older" if attempt < me.attempt else "a newer"
            raise _Refusal(f"attempt {attempt} is {age} one, this process belongs to attempt {me.attempt}")
        if acceptor != me.process:
            raise _Refusal(f"meant for process {acceptor}, this is process {me.process}")
        said = (self._peer, acceptor, nonce + self._nonce, self._peer_release)
        self._expected_proof = self._proof(_DIALER, *said)
        self._expected = wire.PROOF
        return [WriteBytes(_frame(wire.CHALLENGE, self._nonce + self._proof(_ACCEPTOR, *said)))]


def _frame(kind: int, payload: bytes) -> bytes:
    return wire.header(kind, len(payload)) + payload
