"""Whatever strangers and broken peers write, the listener and the links of others go on."""

import os
import pickle
import random
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_flow.errors import CodecError, ProtocolError
from sage_flow.links.connection import ConnectionLost, Inbound
from sage_flow.wire.frames import (
    DEFINITIONS,
    FRAGMENT,
    FRAGMENT_HEAD,
    FRAGMENT_LIMIT,
    HEADER,
    HELLO,
    MAGIC,
    MESSAGE,
    PROOF,
    STREAMS,
    WIRE_VERSION,
    begin,
    header,
)
from sage_flow.wire.handshake import Dialer, Established, Identity
from tests.links.links import KEY, PATIENCE_S, authority, directory, room

__all__ = ["authority", "directory", "room"]


def frame(payload, kind=MESSAGE):
    return header(kind, len(payload)) + payload


def fragment(stream, data):
    return frame(FRAGMENT_HEAD.pack(stream) + data, FRAGMENT)


def message(value):
    return frame(pickle.dumps(value, 5))


def hello(key=KEY, name="echo"):
    return Dialer(Identity(0, name, 0, key), bytes(32), 0).start().data


def connect(listener):
    return socket.create_connection((listener.address.host, listener.address.port), timeout=PATIENCE_S)


def authenticated(listener):
    """A raw socket behind a good handshake."""
    sock = connect(listener)
    dialer = Dialer(Identity(0, "echo", 0, KEY), os.urandom(32), 0)
    sock.sendall(dialer.start().data)
    while True:
        for decision in dialer.receive(sock.recv(dialer.wanted)):
            if isinstance(decision, Established):
                return sock
            sock.sendall(decision.data)


# What strangers write.

STRANGE = {
    "noise": lambda rng: rng.randbytes(rng.randrange(3000)),
    "a piece of a hello": lambda rng: hello()[: rng.randrange(len(hello()))],
    "a hello with a flipped bit": lambda rng: flipped(hello(), rng),
    "a hello and noise": lambda rng: hello() + rng.randbytes(rng.randrange(500)),
    "a wrong key": lambda rng: hello(b"guess") + frame(rng.randbytes(32), PROOF),
    "another name": lambda rng: hello(name="e" * rng.randrange(1900)),
    "a length": lambda rng: HEADER.pack(MAGIC, WIRE_VERSION, HELLO, rng.getrandbits(64)) + rng.randbytes(100),
    "any header": lambda rng: HEADER.pack(MAGIC, rng.randrange(256), rng.getrandbits(32), rng.randrange(4096)),
    "a message": lambda rng: message(["not proven"]),
}

# What peers write that know the key, and the reasons for which they are cut off.

BROKEN = {
    "noise": (lambda rng: b"?" + rng.randbytes(rng.randrange(16, 3000)), "where a message should begin"),
    "a header of anything": (
        lambda rng: HEADER.pack(MAGIC, WIRE_VERSION, rng.choice([1, 2, 3, 4, 5, 9, 1 << 31]), 8),
        "after the handshake",
    ),
    "an oversized frame": (
        lambda rng: header(MESSAGE, FRAGMENT_LIMIT + 1 + rng.getrandbits(60)),
        "which it must not have",
    ),
    "a pickle without end": (
        lambda rng: frame(b"\x80\x05" + rng.randbytes(20).replace(pickle.STOP, b"?")),
        "cannot be decoded",
    ),
    "no block": (lambda rng: frame(b"\0" + rng.randbytes(rng.randrange(60))), "cannot be decoded"),
    "an empty message": (lambda rng: frame(b""), "cannot be decoded"),
    "no definitions": (lambda rng: frame(b"\xff" * rng.randrange(60), DEFINITIONS), "no definitions"),
    "a fragment out of nowhere": (lambda rng: fragment(rng.getrandbits(32), b"x"), "no message of stream"),
    "too much of a message": (lambda rng: begin(1, MESSAGE, 5) + fragment(1, b"123456"), "a fragment of 6 bytes"),
    "a message over the limit": (lambda rng: begin(1, MESSAGE, (1 << 20) + 1 + rng.getrandbits(40)), "over the limit"),
    "too many messages at once": (
        lambda rng: b"".join(begin(n, MESSAGE, 100) for n in range(STREAMS + 2)),
        f"beside {STREAMS + 1} others",
    ),
    "half a fragment": (
        lambda rng: begin(1, MESSAGE, 500_000) + fragment(1, bytes(FRAGMENT_LIMIT))[: rng.randrange(21, 200_000)],
        "it closed its connection in the middle of a message",
    ),
    "half a header": (
        lambda rng: message("x") + header(MESSAGE, 10)[: rng.randrange(1, 15)],
        "closed its connection in the middle of a message",
    ),
}


def flipped(data, rng):
    damaged = bytearray(data)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


class Siege:
    """A listener, a bystander with a link, and what is thrown at them."""

    def __init__(self, room):
        self.room = room
        self.listener, self.there = room.listener(on_message=self._echo, limit=1 << 20)
        self.bystander, self.heard = room.dial(self.listener)
        self.there.link()
        self._asked = 0

    @staticmethod
    def _echo(link, value, size):
        if isinstance(value, tuple) and value[0] == "echo":
            link.send(value[1])

    def strange(self, kind, rng):
        with connect(self.listener) as sock:
            sock.sendall(STRANGE[kind](rng))

    def broken(self, kind, rng):
        words, reason = BROKEN[kind]
        with authenticated(self.listener) as sock:
            self.there.link()
            sock.sendall(words(rng))
            if "closed" not in reason:
                with_end(sock)
        assert reason in self.there.end(), kind

    def the_others_go_on(self):
        self._asked += 1
        self.bystander.send(("echo", self._asked))
        assert self.heard.next() == self._asked
        assert self.listener.statistics()["links"] == 1
        assert self.there.links.empty()


def with_end(sock):
    """Wait until the listener hangs up."""
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass


@pytest.mark.parametrize("kind", STRANGE)
def test_strangers_disturb_nobody(room, kind):
    siege = Siege(room)
    for seed in range(20):
        siege.strange(kind, random.Random(f"{kind} {seed}"))
    siege.the_others_go_on()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_peers_are_cut_off_with_a_reason_and_disturb_nobody(room, kind):
    siege = Siege(room)
    for seed in range(5):
        siege.broken(kind, random.Random(f"{kind} {seed}"))
    siege.the_others_go_on()


def attack(room, seed, rounds):
    siege = Siege(room)
    rng = random.Random(seed)
    for _ in range(rounds):
        if rng.random() < 0.5:
            siege.strange(rng.choice(list(STRANGE)), rng)
        else:
            siege.broken(rng.choice(list(BROKEN)), rng)
        if rng.random() < 0.2:
            siege.the_others_go_on()
    siege.the_others_go_on()


@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_attacks(room, seed):
    attack(room, seed, 60)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_any_mixture_of_attacks_for_long(room, seed):
    attack(room, seed, 2000)


def flood(room, count):
    """Tiny messages from a peer of another make, which nobody slows down."""
    seen = []
    listener, there = room.listener(on_message=lambda link, value, size: seen.append(value))
    bystander, _ = room.dial(listener)
    with authenticated(listener) as sock:
        for start in range(0, count, 1000):
            sock.sendall(b"".join(map(message, range(start, start + 1000))))
            if start % 100_000 == 0:
                bystander.send("beside it")
        sock.shutdown(socket.SHUT_WR)
        assert there.end() == "it closed its connection"
    assert [value for value in seen if value != "beside it"] == list(range(count))
    assert seen.count("beside it") == (count + 99_999) // 100_000


def test_very_many_tiny_messages(room):
    flood(room, 50_000)


@pytest.mark.soak
def test_a_million_tiny_messages(room):
    flood(room, 1_000_000)


class Bytes:
    """A pipe from which fixed bytes come, in pieces of the given size."""

    def __init__(self, data, most):
        self._rest, self._most = memoryview(data), most

    def read(self, space):
        count = min(len(space), len(self._rest), self._most)
        space[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


KINDS = st.sampled_from([MESSAGE, DEFINITIONS, 7, FRAGMENT, 9])
FRAMES = st.lists(
    st.one_of(
        st.builds(frame, st.binary(max_size=60), KINDS),
        st.builds(message, st.one_of(st.text(), st.integers(), st.lists(st.binary()))),
        st.builds(begin, st.integers(0, 3), st.sampled_from([MESSAGE, DEFINITIONS, 9]), st.integers(0, 300)),
        st.builds(fragment, st.integers(0, 3), st.binary(min_size=1, max_size=300)),
        st.builds(lambda value: frame(b"\0" + value), st.binary(max_size=60)),
        st.binary(max_size=30),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(FRAMES, st.integers(1, 500))
def test_whatever_comes_is_a_message_or_a_reason_to_hang_up(frames, most):
    inbound, pipe, delivered = Inbound(), Bytes(b"".join(frames), most), []

    def read_all():
        while True:
            inbound.read(pipe, lambda value, size: delivered.append(value))

    with pytest.raises(
        (ConnectionLost, ProtocolError, CodecError)
    ):  # at the end it is closed, if nothing else is wrong
        read_all()
    assert inbound.messages == len(delivered)
